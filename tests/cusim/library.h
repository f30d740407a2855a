// library.h - what the stand-ins for NVIDIA's libraries share. Each names the status
// REFUSED that it answers what it does not know, or what does not fit, with.
#pragma once

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long asked, described, refusing;
static int (*holds)(const void *, size_t);
static void (*spend)(float);
static char finding[300];

static int refuse(const char *why) {
    snprintf(finding, sizeof finding, "%s", why);
    return REFUSED;
}
#define NEED(what) \
    do { \
        if (!(what)) return refuse(#what); \
    } while (0)

// A descriptor, which begins with what it is, is done with.
static int gone(void *object, int what) {
    NEED(object && *(int *)object == what);
    described--;
    memset(object, 0xDB, sizeof(int));
    free(object);
    return 0;
}

// ---- for tests ----

int stand_in_driver(const char *path) {
    void *driver = dlopen(path, RTLD_NOW);
    *(void **)&holds = dlsym(driver, "stand_in_holds");
    *(void **)&spend = dlsym(driver, "stand_in_spend");
    return holds && spend;
}
long stand_in_asked(void) { return asked; }
long stand_in_described(void) { return described; }
void stand_in_refuse(long much) { refusing = much; }
