// cusim.h - compile CUDA C++ kernel text with a host compiler (g++ -std=c++17).
//
// Include it before kernel text that NVRTC takes, and put CUSIM_EXPORT(name) after
// it for each kernel. Linked with cusim.cpp and checks.cpp it has, for each kernel,
//   void        name__cpu(const unsigned grid_block[6], size_t dynamic, void** args)
//   const char  name__params[]   two characters a parameter: "p8" pointer, "f4", ...
// where args is packed as cuLaunchKernel packs kernelParams. Each CUDA thread is a
// fiber; barriers and warp operations switch fibers; checks.cpp says what is checked.
//
// No C header is included, so that kernel text may declare its own int64_t.
// The macro CUSIM tells the text that it is compiled here.
//
// Limits: no inline PTX, mma, cp.async or TMA; no `extern __shared__` (write
// CUSIM_DYNAMIC_SHARED(type, name), as tests/cuda_simulator.py does by itself);
// __shared__ only in kernels and static functions, not in inline or template ones;
// no __device__ variables that are written; the host's libm.
#pragma once
#include <type_traits>
#include <utility>

#include "runtime.h"

#define CUSIM 1

// ---------------------------------------------------------------- qualifiers
#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline __attribute__((always_inline))
// Own sections: __shared__ is poisoned and tracked per block, __constant__ read-only.
#define __shared__ static __attribute__((section("cusim_shared"), used))
#define __constant__ static __attribute__((section("cusim_constant"), used))
#define CUSIM_UNCHECKED __attribute__((no_sanitize("thread", "undefined")))

// ---------------------------------------------------------------- vector types
// T2 is aligned to its size, T4 to its size or 16, as in CUDA.
#define CUSIM_VECTOR(T, E)                                              \
    struct alignas(2 * sizeof(E)) T##2 {                                \
        E x, y;                                                         \
    };                                                                  \
    struct alignas(sizeof(E) > 4 ? 16 : 4 * sizeof(E)) T##4 {           \
        E x, y, z, w;                                                   \
    };                                                                  \
    inline T##2 make_##T##2(E x, E y) { return {x, y}; }                \
    inline T##4 make_##T##4(E x, E y, E z, E w) { return {x, y, z, w}; }
CUSIM_VECTOR(char, signed char)
CUSIM_VECTOR(uchar, unsigned char)
CUSIM_VECTOR(short, short)
CUSIM_VECTOR(ushort, unsigned short)
CUSIM_VECTOR(int, int)
CUSIM_VECTOR(uint, unsigned)
CUSIM_VECTOR(longlong, long long)
CUSIM_VECTOR(ulonglong, unsigned long long)
CUSIM_VECTOR(float, float)
CUSIM_VECTOR(double, double)

// ---------------------------------------------------------------- bit casts
namespace cusim {
template <class To, class From>
__forceinline__ To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits() keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
}  // namespace cusim
inline float __int_as_float(int x) { return cusim::bits<float>(x); }
inline int __float_as_int(float x) { return cusim::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return cusim::bits<float>(x); }
inline unsigned __float_as_uint(float x) { return cusim::bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return cusim::bits<double>(x); }
inline long long __double_as_longlong(double x) { return cusim::bits<long long>(x); }

// ---------------------------------------------------------------- half, bfloat16
struct __half {
    unsigned short b;
};
struct __nv_bfloat16 {
    unsigned short b;
};
inline float __half2float(__half h) { return (float)cusim::bits<_Float16>(h); }
inline __half __float2half(float x) { return cusim::bits<__half>((_Float16)x); }
inline float __bfloat162float(__nv_bfloat16 h) {
    return __uint_as_float((unsigned)h.b << 16);
}
inline __nv_bfloat16 __float2bfloat16(float x) {  // to nearest even; NaN stays NaN
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}

// ---------------------------------------------------------------- mathematics
// name(double) and namef(float) come from libm; name(float) is CUDA's overload.
#define CUSIM_MATH1(name)                \
    extern "C" double name(double);      \
    extern "C" float name##f(float);     \
    inline float name(float x) { return name##f(x); }
#define CUSIM_MATH2(name)                    \
    extern "C" double name(double, double);  \
    extern "C" float name##f(float, float);  \
    inline float name(float x, float y) { return name##f(x, y); }
CUSIM_MATH1(exp) CUSIM_MATH1(exp2) CUSIM_MATH1(exp10) CUSIM_MATH1(expm1)
CUSIM_MATH1(log) CUSIM_MATH1(log2) CUSIM_MATH1(log10) CUSIM_MATH1(log1p)
CUSIM_MATH1(sin) CUSIM_MATH1(cos) CUSIM_MATH1(tan)
CUSIM_MATH1(asin) CUSIM_MATH1(acos) CUSIM_MATH1(atan)
CUSIM_MATH1(sinh) CUSIM_MATH1(cosh) CUSIM_MATH1(tanh)
CUSIM_MATH1(asinh) CUSIM_MATH1(acosh) CUSIM_MATH1(atanh)
CUSIM_MATH1(erf) CUSIM_MATH1(erfc) CUSIM_MATH1(tgamma) CUSIM_MATH1(lgamma)
CUSIM_MATH1(sqrt) CUSIM_MATH1(cbrt) CUSIM_MATH1(fabs)
CUSIM_MATH1(floor) CUSIM_MATH1(ceil) CUSIM_MATH1(trunc) CUSIM_MATH1(round)
CUSIM_MATH1(rint) CUSIM_MATH1(nearbyint) CUSIM_MATH1(j0) CUSIM_MATH1(j1)
CUSIM_MATH2(pow) CUSIM_MATH2(fmod) CUSIM_MATH2(atan2) CUSIM_MATH2(hypot)
CUSIM_MATH2(fmin) CUSIM_MATH2(fmax) CUSIM_MATH2(copysign) CUSIM_MATH2(nextafter)
CUSIM_MATH2(remainder) CUSIM_MATH2(fdim)
extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
extern "C" double ldexp(double, int);
extern "C" float ldexpf(float, int);
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
inline bool signbit(double x) { return __builtin_signbit(x); }

inline int abs(int x) { return x < 0 ? -x : x; }
inline long long abs(long long x) { return x < 0 ? -x : x; }
inline long long llabs(long long x) { return abs(x); }
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }
// CUDA's overloads, no more: min(int, long long) is ambiguous for NVRTC too.
// On floating-point types they are fmin and fmax: a NaN loses.
#define CUSIM_MINMAX(A, B, R)                                     \
    inline R min(A a, B b) { return (R)b < (R)a ? (R)b : (R)a; }  \
    inline R max(A a, B b) { return (R)a < (R)b ? (R)b : (R)a; }
#define CUSIM_MINMAX_FLOAT(A, B, R)                       \
    inline R min(A a, B b) { return fmin((R)a, (R)b); }   \
    inline R max(A a, B b) { return fmax((R)a, (R)b); }
#define CUSIM_MINMAX_INTEGER(T)                       \
    CUSIM_MINMAX(T, T, T)                             \
    CUSIM_MINMAX(unsigned T, unsigned T, unsigned T)  \
    CUSIM_MINMAX(T, unsigned T, unsigned T)           \
    CUSIM_MINMAX(unsigned T, T, unsigned T)
CUSIM_MINMAX_INTEGER(int)
CUSIM_MINMAX_INTEGER(long)
CUSIM_MINMAX_INTEGER(long long)
CUSIM_MINMAX_FLOAT(float, float, float)
CUSIM_MINMAX_FLOAT(double, double, double)
CUSIM_MINMAX_FLOAT(float, double, double)
CUSIM_MINMAX_FLOAT(double, float, double)

// ---------------------------------------------------------------- integer bits
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) {
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

// ---------------------------------------------------------------- threads
namespace cusim {
template <class T>
__forceinline__ T shuffle(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    unsigned long long word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    word = cusim_exchange(mask, word, source, line);
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
}
}  // namespace cusim

#define threadIdx (cusim::cusim_current->thread_index)
#define blockIdx (cusim::cusim_current->block_index)
#define blockDim (cusim::cusim_current->block_shape)
#define gridDim (cusim::cusim_current->grid_shape)
#define warpSize 32
#define CUSIM_LINE int line = __builtin_LINE()
#define CUSIM_LANE ((int)cusim::cusim_current->lane)
#define CUSIM_DYNAMIC_SHARED(T, name) \
    T* name = (T*)cusim::cusim_current->dynamic_shared

__forceinline__ void __syncthreads(CUSIM_LINE) { cusim::cusim_barrier(line); }
__forceinline__ void __syncwarp(unsigned mask = ~0u, CUSIM_LINE) {
    cusim::cusim_warp_barrier(mask, line);
}
template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                              CUSIM_LINE) {
    int first = CUSIM_LANE / width * width;
    return cusim::shuffle(mask, value, first + (source & (width - 1)), line);
}
template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                                  CUSIM_LINE) {
    int lane = CUSIM_LANE, source = lane ^ bits;
    bool inside = source / width <= lane / width;
    return cusim::shuffle(mask, value, inside ? source : lane, line);
}
template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32,
                                   CUSIM_LINE) {
    int lane = CUSIM_LANE;
    bool inside = lane % width + delta < width;
    return cusim::shuffle(mask, value, inside ? lane + delta : lane, line);
}
template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32,
                                 CUSIM_LINE) {
    int lane = CUSIM_LANE;
    bool inside = lane % width >= delta;
    return cusim::shuffle(mask, value, inside ? lane - delta : lane, line);
}
__forceinline__ unsigned __ballot_sync(unsigned mask, bool predicate, CUSIM_LINE) {
    return cusim::cusim_ballot(mask, predicate, line);
}
__forceinline__ int __any_sync(unsigned mask, bool predicate, CUSIM_LINE) {
    return cusim::cusim_ballot(mask, predicate, line) != 0;
}
__forceinline__ int __all_sync(unsigned mask, bool predicate, CUSIM_LINE) {
    return cusim::cusim_ballot(mask, !predicate, line) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap() { cusim::cusim_trap(); }
template <class T>
inline T __ldg(const T* address) {
    return *address;
}

// ---------------------------------------------------------------- atomics
// Fibers switch only at barriers, so the plain operation is atomic here.
#define CUSIM_ATOMIC(name, result)                                            \
    template <class T>                                                        \
    CUSIM_UNCHECKED T name(T* address, std::common_type_t<T> value) {         \
        cusim::cusim_atomic(address, sizeof(T));                              \
        T old = *address;                                                     \
        *address = result;                                                    \
        return old;                                                           \
    }
CUSIM_ATOMIC(atomicAdd, (T)(old + value))
CUSIM_ATOMIC(atomicMax, old > value ? old : value)
CUSIM_ATOMIC(atomicMin, old < value ? old : value)
CUSIM_ATOMIC(atomicExch, value)
CUSIM_ATOMIC(atomicAnd, (T)(old & value))
CUSIM_ATOMIC(atomicOr, (T)(old | value))
CUSIM_ATOMIC(atomicXor, (T)(old ^ value))
template <class T>
CUSIM_UNCHECKED T atomicCAS(T* address, std::common_type_t<T> expected,
                            std::common_type_t<T> value) {
    cusim::cusim_atomic(address, sizeof(T));
    T old = *address;
    if (old == expected) *address = value;
    return old;
}

// ---------------------------------------------------------------- host entry
namespace cusim {
template <class P>
constexpr char kind_of() {
    if (std::is_pointer_v<P>) return 'p';
    if (std::is_same_v<P, bool>) return 'b';
    if (std::is_floating_point_v<P>) return 'f';
    if (std::is_integral_v<P>) return std::is_signed_v<P> ? 'i' : 'u';
    return '?';
}
template <size_t N>
struct Text {
    char text[N];
};
template <class... P>
constexpr Text<2 * sizeof...(P) + 1> parameters(void (*)(P...)) {
    Text<2 * sizeof...(P) + 1> result{};
    char* next = result.text;
    ((*next++ = kind_of<P>(), *next++ = (char)('0' + sizeof(P))), ...);
    return result;
}
template <class... P, size_t... I>
CUSIM_UNCHECKED void call(void (*kernel)(P...), void** args,
                          std::index_sequence<I...>) {
    kernel(*(std::decay_t<P>*)args[I]...);
}
template <class... P>
struct Closure {
    void (*kernel)(P...);
    void** args;
    CUSIM_UNCHECKED static void body(void* self) {
        auto* closure = (Closure*)self;
        call(closure->kernel, closure->args, std::index_sequence_for<P...>());
    }
};
template <class... P>
CUSIM_UNCHECKED void run(void (*kernel)(P...), Launch launch, void** args) {
    Closure<P...> closure{kernel, args};
    launch.body = Closure<P...>::body;
    launch.closure = &closure;
    launch.kernel = (const void*)kernel;
    cusim_run(&launch);
}
}  // namespace cusim

// The linker defines these bounds of a section; null where a library has none.
#define CUSIM_BOUND extern "C" __attribute__((weak, visibility("hidden"))) char
CUSIM_BOUND __start_cusim_shared[], __stop_cusim_shared[];
CUSIM_BOUND __start_cusim_constant[], __stop_cusim_constant[];

#define CUSIM_EXPORT(K)                                                        \
    extern "C" CUSIM_UNCHECKED void K##__cpu(const unsigned* grid_block,       \
                                             size_t dynamic, void** args) {    \
        cusim::run(K,                                                          \
                   {nullptr, nullptr, nullptr, grid_block, dynamic,            \
                    __start_cusim_shared, __stop_cusim_shared,                 \
                    __start_cusim_constant, __stop_cusim_constant},            \
                   args);                                                      \
    }                                                                          \
    extern "C" __attribute__((used)) constexpr auto K##__params =              \
        cusim::parameters(K);
