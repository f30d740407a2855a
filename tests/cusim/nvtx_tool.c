// nvtx_tool.c - stands in for a profiler's NVTX library: it counts ranges.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef void (*Function)(void);
typedef struct {
    size_t size;
    int (*get)(int module, Function ***table, unsigned *size);
} Callbacks;
typedef struct {
    size_t size;
    uint32_t version, reserved;
    void (*set)(uint32_t);
} Version;

enum { CORE = 1, CORE2 = 5, SYNC = 6, CORE_SIZE = 16, PUSH = 9, POP = 11 };
static long starts, pushes, pops;
static char names[1 << 16];

static int push(const char *name) {
    size_t used = 0;
    while (names[used]) used++;
    snprintf(names + used, sizeof names - used, "%s\n", name);
    return (int)pushes++;
}
static int pop(void) { return (int)pops++; }
static void own(Function **place, Function function) {
    if (place) *place = function;
}

// As NVIDIA's nvtxInit.h calls it; 0 is a failure.
int InitializeInjectionNvtx2(const void *(*get_export)(uint32_t)) {
    const Callbacks *callbacks = get_export(1);
    const Version *version = get_export(3);
    Function **table = NULL;
    unsigned size = 0;
    starts++;
    if (!callbacks || callbacks->size < sizeof *callbacks || get_export(2)) return 0;
    if (!version || version->size < sizeof *version || version->version != 3) return 0;
    version->set(3);
    if (callbacks->get(0, &table, &size) || callbacks->get(7, &table, &size)) return 0;
    for (int module = CORE; module <= SYNC; module++) {
        if (!callbacks->get(module, &table, &size) || table[0]) return 0;
        for (unsigned i = 1; i < size; i++)
            if (!table[i]) return 0;
        if (module == CORE && size != CORE_SIZE) return 0;
        if (table[size]) return 0;  // a null follows the last
    }
    callbacks->get(CORE, &table, &size);
    own(table[PUSH], (Function)push);
    own(table[POP], (Function)pop);
    callbacks->get(CORE2, &table, NULL);
    return 1;
}

long tool_starts(void) { return starts; }
long tool_pushes(void) { return pushes; }
long tool_pops(void) { return pops; }
const char *tool_names(void) { return names; }
