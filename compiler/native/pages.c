/* Large pages. What lies in the last-level cache is read and stored at up to 1.4 times
   the speed where its pages are of 2 MB: there are more small ones than a core has
   addresses for at hand. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime.h"

enum { PAGE = 2 << 20 };
/* Linux 6.1's; older systems refuse it. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#ifdef MADV_HUGEPAGE
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool allowed;

static void ask(void) {
    char text[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (!file) return;
    allowed = fgets(text, sizeof text, file) && !strstr(text, "[never]");
    fclose(file);
}
#endif

void memory_large(void *data, size_t bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t first = ((uintptr_t)data + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    uintptr_t end = ((uintptr_t)data + bytes) & ~(uintptr_t)(PAGE - 1);
    if (bytes < 2 * PAGE || end <= first) return;
    pthread_once(&once, ask);
    if (!allowed) return;
    madvise((void *)first, end - first, MADV_HUGEPAGE);
    madvise((void *)first, end - first, MADV_COLLAPSE);
#endif
}
