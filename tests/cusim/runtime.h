// runtime.h - what compiled kernels (cusim.h) and the runtime (cusim.cpp) share.
#pragma once
typedef __SIZE_TYPE__ size_t;

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1)
        : x(x), y(y), z(z) {}
};

namespace cusim {
struct Thread {
    uint3 thread_index, block_index;
    dim3 block_shape, grid_shape;
    unsigned linear, lane, warp;  // of the thread in its block
    char* dynamic_shared;
};
struct Launch {                   // what cusim_run needs to know of one kernel
    void (*body)(void* closure);  // runs one thread
    void* closure;
    const void* kernel;           // an address in the kernel's library
    const unsigned* grid_block;
    size_t dynamic_bytes;
    char *shared_begin, *shared_end, *constant_begin, *constant_end;
};
extern "C" {
extern Thread* cusim_current;  // the running thread; null outside a launch
void cusim_run(const Launch* launch);
void cusim_barrier(int line);
void cusim_warp_barrier(unsigned mask, int line);
unsigned long long cusim_exchange(unsigned mask, unsigned long long value,
                                  int source, int line);
unsigned cusim_ballot(unsigned mask, bool predicate, int line);
void cusim_atomic(void* address, size_t size);
[[noreturn]] void cusim_trap();
}
}  // namespace cusim
