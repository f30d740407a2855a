/* Ranges for profilers, by NVTX: a tool's library asks for tables of places and puts
   its functions there. The numbers are those of NVIDIA's nvtxTypes.h, version 3. */
#include <dlfcn.h>
#include <string.h>

#include "runtime.h"

typedef void (*Function)(void);

enum { CALLBACKS = 1, VERSION_INFO = 3, VERSION = 3 }; /* what it may ask for */
enum { CORE = 1, PUSH = 9, POP = 11, MODULES = 7, MOST = 16 };

/* How many places each module has; the first of them is none. */
static const unsigned sizes[MODULES] = {0, 16, 9, 15, 7, 16, 7};
static Function functions[MODULES][MOST];
static Function *tables[MODULES][MOST + 1];

static char opened[4096]; /* the library, under the GIL */
static int (*push)(const char *);
static int (*pop)(void);

static int get_table(int module, Function ***table, unsigned *size) {
    if (module < CORE || module >= MODULES) return 0;
    if (size) *size = sizes[module];
    if (table) *table = tables[module];
    return 1;
}

static void set_version(uint32_t version) {
    (void)version;
}

static const void *get_export(uint32_t number) {
    static const struct {
        size_t size;
        int (*get)(int, Function ***, unsigned *);
    } callbacks = {sizeof callbacks, get_table};
    static const struct {
        size_t size;
        uint32_t version, reserved;
        void (*set)(uint32_t);
    } info = {sizeof info, VERSION, 0, set_version};
    return number == CALLBACKS      ? (const void *)&callbacks
           : number == VERSION_INFO ? (const void *)&info
                                    : NULL;
}

static void clear_tables(void) {
    memset(functions, 0, sizeof functions);
    for (int module = CORE; module < MODULES; module++)
        for (unsigned i = 1; i < sizes[module]; i++)
            tables[module][i] = &functions[module][i];
}

static bool start_tool(const char *library) {
    void *handle = *library ? dlopen(library, RTLD_LAZY) : NULL;
    if (!handle) return false;
    int (*start)(const void *(*)(uint32_t));
    *(void **)&start = dlsym(handle, "InitializeInjectionNvtx2");
    clear_tables();
    return start && start(get_export) && functions[CORE][PUSH] && functions[CORE][POP];
}

bool ranges_open(const char *library) {
    if (!strcmp(library, opened)) return ranges_wanted();
    push = NULL;
    snprintf(opened, sizeof opened, "%s", library);
    if (!start_tool(library)) return false;
    pop = (int (*)(void))functions[CORE][POP];
    push = (int (*)(const char *))functions[CORE][PUSH];
    return true;
}

bool ranges_wanted(void) {
    return push != NULL;
}

void range_push(const char *name) {
    if (push) push(name);
}

void range_pop(void) {
    if (push) pop();
}
