// driver.h - what driver.c and driver_graphs.c share.
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t Address;

enum { INVALID = 1, OUT_OF_MEMORY = 2, INVALID_HANDLE = 400, NO_FUNCTION = 500 };
enum { LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900 };

#define GONE_STREAM ((void *)0xDEAD)

typedef struct {
    void (*run)(const unsigned *shape, size_t dynamic, void **arguments);
    const char *parameters;  // two characters each: a kind, and how many bytes
    void (*reset)(void), (*buffer)(void *, size_t, int, int, const char *);
    int (*errors)(char *, size_t);
} Function;

// tests/cuda_stand_in.py knows them by these names.
typedef struct {
    long launches, waits, depth, captured;
    long graphs;    // graphs and what was instantiated, not destroyed
    long replayed;  // launches of graphs
    long refused;   // calls about graphs that broke a rule
    void *freed_on; // the stream
} Counts;

extern Counts counts;
extern bool skipping;  // kernels are counted and not run
extern pthread_mutex_t lock;

// The value of an expression, with the lock held.
#define LOCKED(expression)                     \
    ({                                         \
        pthread_mutex_lock(&lock);             \
        __typeof__(expression) v = expression; \
        pthread_mutex_unlock(&lock);           \
        v;                                     \
    })

bool in_context(void);
bool is_shape(const unsigned *shape);
int run_kernel(const Function *kernel, const unsigned *shape, void **arguments);
