// cusim.cpp - runs the threads of a kernel, one fiber each; cusim.h names the parts.
//
// Build:  g++ -std=c++17 -O2 -fPIC -shared -o libcusim.so cusim.cpp checks.cpp
//
// A fiber runs until it ends or waits at a barrier or in a warp operation; then the
// next runnable one goes on, or one not yet begun. Blocks run one after another.
// Reported here: divergent barriers, absent lanes in warp operations, deadlock.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "internal.h"

// ---------------------------------------------------------------- stack switching
#if defined(__x86_64__) && !defined(CUSIM_UCONTEXT)
extern "C" void cusim_switch(void** save, void* to);
asm(R"(.text
.globl cusim_switch
.type cusim_switch,@function
cusim_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size cusim_switch,.-cusim_switch
)");
static void* start_stack(char* bottom, size_t size, void (*entry)()) {
    void** top = (void**)(bottom + size);
    *--top = nullptr;  // where a return address would be: keeps the stack aligned
    *--top = (void*)entry;
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    return top;
}
#else
#include <ucontext.h>
static void cusim_switch(void** save, void* to) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, (ucontext_t*)to);
}
static void* start_stack(char* bottom, size_t size, void (*entry)()) {
    auto* context = (ucontext_t*)bottom;
    size_t header = (sizeof(ucontext_t) + 63) / 64 * 64;
    getcontext(context);
    context->uc_stack.ss_sp = bottom + header;
    context->uc_stack.ss_size = size - header;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}
#endif

namespace cusim {
// ---------------------------------------------------------------- state
std::vector<Fiber> fibers;
char* stacks;
alignas(128) char dynamic_shared[kDynamicBytes];
uint32_t block_number, barrier_count;

namespace {
enum class WarpOp { barrier, exchange, ballot };
struct Group {  // lanes of one warp that meet in a warp operation
    WarpOp op;
    unsigned mask, arrived;
    int line;
};
struct Warp {
    Group groups[kLanes];  // indexed by the lowest lane of the mask
    unsigned present;      // lanes that have not exited
    unsigned waiting;
    uint16_t sync_count;
};
struct BlockBarrier {
    unsigned waiting[kMaxThreads], count;
    int line;
};

Warp warps[kMaxWarps];
BlockBarrier block_barrier;
unsigned ready[kMaxThreads + 1], ready_head, ready_tail;  // a ring of runnable fibers
unsigned threads, started, live;                          // of the block
const Launch* running;
void* launcher;  // the stack that called cusim_run
bool failed;

// ---------------------------------------------------------------- scheduler
[[noreturn]] void leave() {  // back to cusim_run; suspended fibers are dropped
    void* dropped;
    cusim_switch(&dropped, launcher);
    abort();
}
void push(unsigned i) {
    ready[ready_tail] = i;
    ready_tail = (ready_tail + 1) % (kMaxThreads + 1);
}
void run_thread();

int pick() {  // the next fiber to run, or -1
    if (ready_head != ready_tail) {
        unsigned i = ready[ready_head];
        ready_head = (ready_head + 1) % (kMaxThreads + 1);
        return (int)i;
    }
    if (started == threads) return -1;
    Fiber& f = fibers[started];
    // Staggered tops keep the stacks out of one another's cache sets.
    f.stack_pointer =
        start_stack(f.stack, kStackBytes - started % 64 * 64, run_thread);
    return (int)started++;
}

void block_here(const char* what) {
    int next = pick();
    if (next < 0) {
        report("synccheck: deadlock, all threads wait; this one at %s", what);
        abandon();
    }
    Fiber* self = current();
    Fiber* other = &fibers[(unsigned)next];
    cusim_current = other;
    if (other != self) cusim_switch(&self->stack_pointer, other->stack_pointer);
}

void release_block() {
    barrier_count++;
    for (unsigned i = 0; i < block_barrier.count; i++) push(block_barrier.waiting[i]);
    block_barrier.count = 0;
}

void thread_exits(Fiber* self) {
    Warp& warp = warps[self->warp];
    live--;
    warp.present &= ~(1u << self->lane);
    for (unsigned i = 0; warp.waiting && i < kLanes; i++) {
        const Group& group = warp.groups[i];
        if (!group.arrived || !(group.mask >> self->lane & 1)) continue;
        report("synccheck: lane %u exits, the warp operation at line %d waits for it",
               self->lane, group.line);
        abandon();
    }
    if (!block_barrier.count) return;
    report("synccheck: thread exits while %u threads wait at __syncthreads, line %d",
           block_barrier.count, block_barrier.line);
    if (block_barrier.count == live) release_block();
}

void run_thread() {  // the first function of a stack: runs threads until none is left
    for (;;) {
        running->body(running->closure);
        Fiber* self = current();
        thread_exits(self);
        if (ready_head == ready_tail && started < threads) {
            fibers[started].stack = self->stack;  // reuse this stack, no switch
            cusim_current = &fibers[started++];
            continue;
        }
        int next = pick();
        if (next < 0) {
            if (live) report("synccheck: deadlock, %u threads wait for ever", live);
            failed |= live != 0;
            leave();
        }
        cusim_current = &fibers[(unsigned)next];
        void* dropped;
        cusim_switch(&dropped, fibers[(unsigned)next].stack_pointer);
    }
}

// ---------------------------------------------------------------- warp operations
void finish(WarpOp op, unsigned mask, Warp& warp, Fiber* lanes) {
    unsigned votes = 0;
    warp.sync_count += op == WarpOp::barrier;
    for (unsigned i = 0; i < kLanes; i++)
        if (mask >> i & 1) votes |= (unsigned)(lanes[i].deposit & 1) << i;
    for (unsigned i = 0; i < kLanes; i++) {
        if (!(mask >> i & 1)) continue;
        switch (op) {
            // Only __syncwarp orders memory: CUDA says that shuffles do not.
            case WarpOp::barrier: lanes[i].warp_sync = warp.sync_count; break;
            case WarpOp::exchange:
                lanes[i].result = lanes[lanes[i].source].deposit;
                break;
            case WarpOp::ballot: lanes[i].result = votes; break;
        }
    }
}

unsigned long long warp_operation(WarpOp op, unsigned mask, unsigned long long value,
                                  int source, int line) {
    Fiber* self = current();
    Warp& warp = warps[self->warp];
    Fiber* lanes = &fibers[self->warp * kLanes];
    unsigned in_block = threads - self->warp * kLanes;
    if (in_block < kLanes) mask &= (1u << in_block) - 1;
    if (!(mask >> self->lane & 1)) {
        report("synccheck: lane %u is not in its own mask %08x, line %d", self->lane,
               mask, line);
        abandon();
    }
    if (mask & ~warp.present) {
        report("synccheck: mask %08x names exited lanes %08x, line %d", mask,
               mask & ~warp.present, line);
        mask &= warp.present;
    }
    if (op == WarpOp::exchange && !(mask >> (source & 31) & 1)) {
        report("synccheck: shuffle reads inactive lane %d, line %d", source, line);
        source = (int)self->lane;
    }
    Group& group = warp.groups[__builtin_ctz(mask)];
    if (group.arrived &&
        (group.op != op || group.mask != mask || group.line != line)) {
        report("synccheck: divergent warp operations, lines %d and %d, masks %08x "
               "and %08x", group.line, line, group.mask, mask);
        abandon();
    }
    self->deposit = value;
    self->source = source;
    group = {op, mask, group.arrived | 1u << self->lane, line};
    if (group.arrived == mask) {
        group.arrived = 0;
        warp.waiting -= (unsigned)__builtin_popcount(mask) - 1;
        finish(op, mask, warp, lanes);
        for (unsigned i = 0; i < kLanes; i++)
            if ((mask >> i & 1) && i != self->lane) push(self->warp * kLanes + i);
    } else {
        warp.waiting++;
        block_here("a warp operation");
    }
    return self->result;
}

// ---------------------------------------------------------------- launch
void prepare(const Launch& launch) {
    if (!stacks) {
        stacks = (char*)mmap(nullptr, kStackBytes * kMaxThreads,
                             PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) abort();
        fibers.resize(kMaxThreads);
    }
    const unsigned* block = launch.grid_block + 3;
    threads = block[0] * block[1] * block[2];
    if (threads > kMaxThreads || launch.dynamic_bytes > kDynamicBytes) abort();
}

void reset_block(const Launch& launch) {  // shared memory is poisoned with NaN
    size_t shared = (size_t)(launch.shared_end - launch.shared_begin);
    memset(launch.shared_begin, 0xff, shared);
    memset(dynamic_shared, 0xff, launch.dynamic_bytes);
    forget_shared();
    block_barrier.count = ready_head = ready_tail = started = 0;
    live = threads;
    barrier_count++;
    for (unsigned w = 0; w * kLanes < threads; w++) {
        unsigned lanes = std::min(kLanes, threads - w * kLanes);
        warps[w] = {};
        warps[w].present = lanes == kLanes ? ~0u : (1u << lanes) - 1;
    }
}

void run_block(const Launch& launch, uint3 index) {
    const unsigned* size = launch.grid_block;
    reset_block(launch);
    uint3 at = {0, 0, 0};
    for (unsigned i = 0; i < threads; i++) {
        Fiber& f = fibers[i];
        f.thread_index = at;
        if (++at.x == size[3]) at.x = 0, at.y++;
        if (at.y == size[4]) at.y = 0, at.z++;
        f.block_index = index;
        f.grid_shape = dim3(size[0], size[1], size[2]);
        f.block_shape = dim3(size[3], size[4], size[5]);
        f.linear = i, f.lane = i % kLanes, f.warp = i / kLanes;
        f.dynamic_shared = dynamic_shared;
        f.stack = stacks + kStackBytes * i;
        f.warp_sync = 0;
    }
    Fiber& first = fibers[(unsigned)pick()];
    cusim_current = &first;
    cusim_switch(&launcher, first.stack_pointer);
    cusim_current = nullptr;
}
}  // namespace

[[noreturn]] void abandon() {
    failed = true;
    leave();
}

// ---------------------------------------------------------------- interface
Thread* cusim_current = nullptr;

void cusim_run(const Launch* launch) {
    const unsigned* grid = launch->grid_block;
    prepare(*launch);
    prepare_checks(*launch);
    failed = false;
    running = launch;
    block_number = 0;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0] && !failed; x++, block_number++)
                run_block(*launch, {x, y, z});
}
void cusim_barrier(int line) {
    BlockBarrier& b = block_barrier;
    if (b.count && b.line != line)
        report("synccheck: divergent __syncthreads, lines %d and %d", b.line, line);
    if (!b.count && live < threads)
        report("synccheck: __syncthreads at line %d after %u threads exited", line,
               threads - live);
    b.line = line;
    if (b.count + 1 == live) return release_block();
    b.waiting[b.count++] = current()->linear;
    block_here("__syncthreads");
}
void cusim_warp_barrier(unsigned mask, int line) {
    warp_operation(WarpOp::barrier, mask, 0, 0, line);
}
unsigned long long cusim_exchange(unsigned mask, unsigned long long value,
                                         int source, int line) {
    return warp_operation(WarpOp::exchange, mask, value, source, line);
}
unsigned cusim_ballot(unsigned mask, bool predicate, int line) {
    return (unsigned)warp_operation(WarpOp::ballot, mask, predicate, 0, line);
}
void cusim_trap() {
    report("trap: the kernel called __trap()");
    abandon();
}
}  // namespace cusim
