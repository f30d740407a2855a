// internal.h - what the scheduler (cusim.cpp) and the checks (checks.cpp) share.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime.h"

namespace cusim {
constexpr unsigned kMaxThreads = 1024, kLanes = 32, kMaxWarps = kMaxThreads / kLanes;
constexpr size_t kStackBytes = 64 << 10, kDynamicBytes = 256 << 10;

struct Fiber : Thread {
    void* stack_pointer;
    char* stack;
    uint16_t warp_sync;  // grows at each __syncwarp; orders accesses within the warp
    unsigned long long deposit, result;  // of a shuffle or ballot
    int source;                          // the lane a shuffle reads
};
inline Fiber* current() { return static_cast<Fiber*>(cusim_current); }

// cusim.cpp
extern std::vector<Fiber> fibers;
extern char* stacks;           // of kMaxThreads fibers, kStackBytes each
extern char dynamic_shared[];  // kDynamicBytes
extern uint32_t block_number;  // of the running block, counted over the grid
extern uint32_t barrier_count;  // block barriers passed, and blocks begun, so far
[[noreturn]] void abandon();    // end the launch from within a fiber

// checks.cpp
__attribute__((format(printf, 1, 2))) void report(const char* format, ...);
void prepare_checks(const Launch& launch);
void forget_shared();  // a block begins: all its shared memory is uninitialised
}  // namespace cusim
