// library.h - what the stand-ins for NVIDIA's libraries share. Each names the status
// REFUSED that it answers what it does not know, or what does not fit, with.
#pragma once

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One of each, in whichever files of a library: weak.
#define SHARED __attribute__((weak))
SHARED long asked, described, refusing;
SHARED int (*holds)(const void *, size_t);
SHARED void (*spend)(float);
SHARED char finding[300];

SHARED int refuse(const char *why) {
    snprintf(finding, sizeof finding, "%s", why);
    return REFUSED;
}
#define NEED(what) \
    do { \
        if (!(what)) return refuse(#what); \
    } while (0)

// ---- numbers, by the types of CUDA; cuDNN has another number for bfloat16 ----

enum { R32 = 0, R64 = 1, F16 = 2, BF16 = BFLOAT16 };

SHARED int is_half(int type) { return type == F16 || type == BF16; }

SHARED size_t item_of(int type) {
    return type == R32 ? 4 : type == R64 ? 8 : is_half(type) ? 2 : 0;
}

SHARED double number_at(const void *data, int type, int64_t place) {
    uint32_t bits;
    float wide;
    if (type == R32) return ((const float *)data)[place];
    if (type == R64) return ((const double *)data)[place];
    if (type == F16) return ((const _Float16 *)data)[place];
    bits = (uint32_t)((const uint16_t *)data)[place] << 16;
    memcpy(&wide, &bits, 4);
    return wide;
}

SHARED void set_number(void *data, int type, int64_t place, double value) {
    float wide = (float)value;
    uint32_t bits;
    memcpy(&bits, &wide, 4);
    bits += 0x7fff + (bits >> 16 & 1);
    if (type == R32)
        ((float *)data)[place] = wide;
    else if (type == R64)
        ((double *)data)[place] = value;
    else if (type == F16)
        ((_Float16 *)data)[place] = (_Float16)wide;
    else
        ((uint16_t *)data)[place] = wide != wide ? 0x7fc0 : (uint16_t)(bits >> 16);
}

// A descriptor, which begins with what it is, is done with.
SHARED int gone(void *object, int what) {
    NEED(object && *(int *)object == what);
    described--;
    memset(object, 0xDB, sizeof(int));
    free(object);
    return 0;
}

// ---- for tests ----

SHARED int stand_in_driver(const char *path) {
    void *driver = dlopen(path, RTLD_NOW);
    *(void **)&holds = dlsym(driver, "stand_in_holds");
    *(void **)&spend = dlsym(driver, "stand_in_spend");
    return holds && spend;
}
SHARED long stand_in_asked(void) { return asked; }
SHARED long stand_in_described(void) { return described; }
SHARED void stand_in_refuse(long much) { refusing = much; }
