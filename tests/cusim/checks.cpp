// checks.cpp - the memory checks of the CUDA simulator, and its interface to the host.
//
// Kernels compiled with -fsanitize=thread,alignment,bounds,integer-divide-by-zero
// call the __tsan_* and __ubsan_* functions at the end of this file: link them with
// libcusim.so and *without* -fsanitize. Register each buffer, run name__cpu, then
// read cusim_errors. Without registered buffers no memory is checked.
//
// Each byte of a buffer has a shadow: who wrote and read it last, and when. Found:
// accesses outside every buffer, writes to read-only buffers, misaligned accesses,
// reads of uninitialised buffers and shared memory, bytes never written, races within
// a block (no barrier between two accesses) and between blocks.
//
// Not found: a race through atomics used as a lock; accesses past one shared array
// through a pointer that land in another one. A "last block" that reads the others'
// results after __threadfence is reported as a race.
#include <link.h>

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <string>

#include "internal.h"

namespace cusim {
namespace {
constexpr size_t kMaxMessages = 20;

struct Stamp {  // one access; a shadow takes 24 bytes for each byte of a buffer
    uint32_t block, barrier;
    uint32_t thread : 10, warp_sync : 16, set : 1;
    uint32_t initialised : 1, atomic : 1;                     // of a write
    uint32_t many_threads : 1, many_warps : 1, many_blocks : 1;  // of reads, since it
};
struct Shadow {  // what is known of one byte: the last write and the last read
    Stamp write, read;
};
struct Region {
    char* begin;
    size_t size;
    bool shared, read_only;
    std::string name;
    std::vector<Shadow> shadow;
};
struct Range {
    uintptr_t begin, end;
};
enum class Access { read, write, atomic };

std::vector<Region> regions;
std::vector<Range> constants;  // read-only segments of the kernel's library
bool checking;
std::vector<std::string> messages;
int message_count;

}  // namespace

void report(const char* format, ...) {
    message_count++;
    if (messages.size() >= kMaxMessages) return;
    char text[512], where[128] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (Fiber* f = current()) {
        const uint3 &b = f->block_index, &t = f->thread_index;
        snprintf(where, sizeof where, " [block %u,%u,%u thread %u,%u,%u]", b.x, b.y,
                 b.z, t.x, t.y, t.z);
    }
    messages.push_back(std::string(text) + where);
}

namespace {
// ---------------------------------------------------------------- memory checks
// Did the access `s` of this block surely happen before what `self` does now?
bool ordered(const Stamp& s, const Fiber& self) {
    if (s.block != block_number) return false;
    if (s.thread == self.linear || s.barrier != barrier_count) return true;
    return s.thread / kLanes == self.warp && s.warp_sync < self.warp_sync;
}
bool reads_ordered(const Shadow& s, const Fiber& self) {
    if (!s.read.set) return true;
    if (s.read.many_blocks || s.read.block != block_number) return false;
    if (s.read.barrier != barrier_count) return true;
    if (s.read.many_warps) return false;
    if (!s.read.many_threads) return ordered(s.read, self);
    return s.read.thread / kLanes == self.warp && s.read.warp_sync < self.warp_sync;
}

// Reports at most one fault of an access to byte `at`; true if there was one.
bool fault(const Region& region, size_t at, Access kind, const Fiber& self) {
    const Shadow& s = region.shadow[at];
    const char* name = region.name.c_str();
    const char* verb = kind == Access::read ? "read" : "write";
    if (kind != Access::write && !s.write.initialised) {
        report("initcheck: read of uninitialised %s+%zu", name, at);
        return true;
    }
    bool both_atomic = kind == Access::atomic && s.write.atomic;
    if (s.write.set && !both_atomic && !ordered(s.write, self)) {
        report("racecheck: %s of %s+%zu races with the write by block %u thread %u",
               verb, name, at, s.write.block, s.write.thread);
        return true;
    }
    if (kind != Access::read && !reads_ordered(s, self)) {
        report("racecheck: write of %s+%zu races with the read by block %u thread %u",
               name, at, s.read.block, s.read.thread);
        return true;
    }
    return false;
}

Stamp stamp(Access kind, const Fiber& self) {
    Stamp now{};
    now.set = true;
    now.block = block_number, now.barrier = barrier_count;
    now.thread = self.linear, now.warp_sync = self.warp_sync;
    now.initialised = kind != Access::read;
    now.atomic = kind == Access::atomic;
    return now;
}

void mark_read(Shadow& s, Stamp now) {
    const Stamp last = s.read;
    bool same_block = last.set && last.block == now.block;
    bool same_epoch = same_block && last.barrier == now.barrier;
    bool other_thread = same_epoch && last.thread != now.thread;
    bool other_warp = other_thread && last.thread / kLanes != now.thread / kLanes;
    now.many_blocks = last.many_blocks || (last.set && !same_block);
    now.many_threads = same_epoch && (last.many_threads || other_thread);
    now.many_warps = same_epoch && (last.many_warps || other_warp);
    if (same_epoch && last.warp_sync > now.warp_sync) now.warp_sync = last.warp_sync;
    s.read = now;
}

void check(Region& region, size_t offset, size_t size, Access kind, const Fiber& self) {
    if (kind != Access::read && region.read_only) {
        report("memcheck: write to read-only %s+%zu", region.name.c_str(), offset);
        abandon();
    }
    const Stamp now = stamp(kind, self);
    bool reported = false;
    for (size_t at = offset; at < offset + size; at++) {
        reported = reported || fault(region, at, kind, self);
        if (kind == Access::read) mark_read(region.shadow[at], now);
        else region.shadow[at] = {now, Stamp{}};
    }
}

void out_of_bounds(char* p, size_t size, Access kind) {
    const Region* nearest = nullptr;
    ptrdiff_t best = PTRDIFF_MAX;
    for (const Region& r : regions) {
        ptrdiff_t distance = p < r.begin ? r.begin - p : p - (r.begin + r.size) + 1;
        if (distance < best) best = distance, nearest = &r;
    }
    const char* verb = kind == Access::read ? "read" : "write";
    if (!nearest || best > 1 << 20)
        report("memcheck: out-of-bounds %zu-byte %s at address %p", size, verb, p);
    else
        report("memcheck: out-of-bounds %zu-byte %s at %s%+td (size %zu)", size, verb,
               nearest->name.c_str(), p - nearest->begin, nearest->size);
    abandon();
}

bool within(const void* p, const void* begin, size_t size) {
    return p >= begin && p < (const char*)begin + size;
}

void access(void* address, size_t size, Access kind) {
    const Fiber* self = current();
    if (!checking || !self) return;
    if (within(address, fibers.data(), kMaxThreads * sizeof(Fiber))) return;
    char* p = (char*)address;
    for (Region& r : regions)
        if (within(p, r.begin, r.size) && size <= (size_t)(r.begin + r.size - p))
            return check(r, (size_t)(p - r.begin), size, kind, *self);
    if (within(p, stacks, kStackBytes * kMaxThreads)) return;
    if (address == &cusim_current) return;
    for (const Range& c : constants)
        if (kind == Access::read && (uintptr_t)p >= c.begin &&
            (uintptr_t)p + size <= c.end) return;
    out_of_bounds(p, size, kind);
}

// ---------------------------------------------------------------- regions
int find_constants(dl_phdr_info* info, size_t, void* kernel) {
    std::vector<Range> found;
    bool holds_kernel = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD) continue;
        uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
        uintptr_t end = begin + segment.p_memsz;
        holds_kernel |= (uintptr_t)kernel >= begin && (uintptr_t)kernel < end;
        if (!(segment.p_flags & PF_W)) found.push_back({begin, end});
    }
    if (holds_kernel) constants = found;
    return holds_kernel;
}

void add_region(char* begin, size_t size, bool shared, bool written, bool read_only,
                const char* name) {
    Region region{begin, size, shared, read_only, name, std::vector<Shadow>(size)};
    for (Shadow& s : region.shadow) s.write.initialised = written;
    // Shared memory first: it is looked up most.
    regions.insert(shared ? regions.begin() : regions.end(), std::move(region));
}
}  // namespace

void prepare_checks(const Launch& launch) {
    if (!checking) return;
    dl_iterate_phdr(find_constants, (void*)launch.kernel);
    size_t shared = (size_t)(launch.shared_end - launch.shared_begin);
    size_t constant = (size_t)(launch.constant_end - launch.constant_begin);
    if (shared)
        add_region(launch.shared_begin, shared, true, false, false, "__shared__");
    if (launch.dynamic_bytes)
        add_region(dynamic_shared, launch.dynamic_bytes, true, false, false,
                   "dynamic __shared__");
    if (constant)
        add_region(launch.constant_begin, constant, false, true, true, "__constant__");
}

void forget_shared() {
    for (Region& r : regions)
        if (r.shared) r.shadow.assign(r.size, Shadow());
}

void cusim_atomic(void* address, size_t size) { access(address, size, Access::atomic); }

}  // namespace cusim

// ---------------------------------------------------------------- host
using namespace cusim;

extern "C" {
// Called by the host, in this order: reset, buffer..., name__cpu, errors, unwritten.
void cusim_reset() {
    regions.clear();
    messages.clear();
    message_count = 0;
    checking = false;
}
void cusim_buffer(void* begin, size_t size, bool initialised, bool read_only,
                  const char* name) {
    add_region((char*)begin, size, false, initialised, read_only, name);
    checking = true;
}
int cusim_errors(char* text, size_t size) {  // how many; the first 20, one a line
    std::string all;
    for (const std::string& message : messages) all += message + "\n";
    snprintf(text, size, "%s", all.c_str());
    return message_count;
}
// Bytes of the buffer at `begin` never written; *first: the offset of the first one.
size_t cusim_unwritten(void* begin, size_t* first) {
    size_t count = 0;
    for (const Region& r : regions)
        for (size_t i = 0; r.begin == begin && i < r.size; i++)
            if (!r.shadow[i].write.initialised && !count++) *first = i;
    return count;
}

// ---------------------------------------------------------------- instrumentation
#define CUSIM_HOOKS(N)                                                               \
    void __tsan_read##N(void* p) { access(p, N, Access::read); }                     \
    void __tsan_write##N(void* p) { access(p, N, Access::write); }                   \
    void __tsan_unaligned_read##N(void* p) { access(p, N, Access::read); }           \
    void __tsan_unaligned_write##N(void* p) { access(p, N, Access::write); }
CUSIM_HOOKS(1) CUSIM_HOOKS(2) CUSIM_HOOKS(4) CUSIM_HOOKS(8) CUSIM_HOOKS(16)
void __tsan_read_range(void* p, size_t size) { access(p, size, Access::read); }
void __tsan_write_range(void* p, size_t size) { access(p, size, Access::write); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

struct Location {  // the head of each record that -fsanitize=undefined emits
    const char* file;
    uint32_t line, column;
};
struct TypeMismatch : Location {
    void* type;
    unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(TypeMismatch* at, uintptr_t address) {
    uintptr_t alignment = uintptr_t(1) << at->log_alignment;
    if (!current() || address % alignment == 0) return;
    report("memcheck: misaligned address, not a multiple of %zu, line %u", alignment,
           at->line);
    abandon();
}
void __ubsan_handle_out_of_bounds(Location* at, uintptr_t index) {
    if (!current()) return;
    report("memcheck: array index %td out of bounds, line %u", (ptrdiff_t)index,
           at->line);
    abandon();
}
void __ubsan_handle_divrem_overflow(Location* at, uintptr_t, uintptr_t) {
    report("trap: integer division by zero or overflow, line %u", at->line);
    abandon();
}
}
