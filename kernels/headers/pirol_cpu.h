/* What every CPU kernel includes: types, NaN-keeping max and min, vector libm. */
#ifndef PIROL_CPU_H
#define PIROL_CPU_H
#include <math.h>
#include <stdint.h>

#define PR_DEVICE static inline
#define PR_INF_f32 __builtin_inff()
#define PR_INF_f64 __builtin_inf()
#define PR_NAN_f32 __builtin_nanf("")
#define PR_NAN_f64 __builtin_nan("")

#ifdef PIROL_LIBMVEC
/* glibc's vector versions; its own headers declare them under -ffast-math only. */
#define PR_SIMD __attribute__((simd("notinbranch"), const, nothrow))
#define PR_VECTOR(name) PR_SIMD double name(double); PR_SIMD float name##f(float);
#define PR_VECTOR2(name)                                                       \
  PR_SIMD double name(double, double); PR_SIMD float name##f(float, float);
PR_VECTOR(exp) PR_VECTOR(expm1) PR_VECTOR(log) PR_VECTOR(log1p) PR_VECTOR(log2)
PR_VECTOR(log10) PR_VECTOR(erf) PR_VECTOR(sin) PR_VECTOR(cos) PR_VECTOR(tan)
PR_VECTOR(asin) PR_VECTOR(acos) PR_VECTOR(atan) PR_VECTOR(sinh) PR_VECTOR(cosh)
PR_VECTOR(tanh) PR_VECTOR(asinh) PR_VECTOR(acosh) PR_VECTOR(atanh)
PR_VECTOR2(pow) PR_VECTOR2(atan2)
#endif

/* 0, which the compiler cannot know. Of a read that only some lanes make, gcc 12 makes
   one of all of them, beyond the memory's end, where it knows which lanes those are. And
   it takes (float)(int)x for trunc(x), and so
   -0.5 to -0.0, and in vectors pow(x, 0.5) for sqrt(x), which has no sqrt(-inf), where
   nothing is done to the integer and the exponent. */
int pr_zero;

#ifdef __has_builtin
#if __has_builtin(__builtin_prefetch)
#define pr_fetch(at, index) \
    __builtin_prefetch((void *)((uintptr_t)(at) + (index) * sizeof *(at)))
#endif
#endif
#ifndef pr_fetch
#define pr_fetch(at, index) (void)(index)
#endif

/* A product as a value of its own: of a - b and a + b side by side, gcc 12 makes fused
   multiply-adds in vectors, whatever -ffp-contract says, and so other bits. */
#ifdef __has_builtin
#if __has_builtin(__builtin_assoc_barrier)
#define PR_ROUNDED(x) __builtin_assoc_barrier(x)
#endif
#endif
#ifndef PR_ROUNDED
#define PR_ROUNDED(x) (x)
#endif

/* The larger value, as `a > b ? a : b`, but NaN if either is NaN; in two steps, which
   gcc 12 can do in vectors, as it cannot `a > b || a != a`. */
#define PR_EXTREMES(T, t)                                                      \
  PR_DEVICE T pr_max_##t(T a, T b) {                                           \
    const T m = a > b ? a : b;                                                 \
    return a != a ? a : m;                                                     \
  }                                                                            \
  PR_DEVICE T pr_min_##t(T a, T b) {                                           \
    const T m = a < b ? a : b;                                                 \
    return a != a ? a : m;                                                     \
  }
PR_EXTREMES(float, f32)
PR_EXTREMES(double, f64)

/* libm's fmod divides bit by bit. Here one fma gives a - q * b exactly while q, which
   may be one too large, is exact itself: below LIMIT. */
#define PR_FMOD(T, t, s, LIMIT)                                                \
  PR_DEVICE T pr_fmod_##t(T a, T b) {                                          \
    const T q = trunc##s(a / b), size = fabs##s(b);                            \
    if (!(fabs##s(q) < LIMIT && size < PR_INF_##t)) return fmod##s(a, b);      \
    const T r = fma##s(-q, b, a);                                              \
    const T back = (T)((r != 0) & ((r < 0) != (a < 0)));                       \
    return copysign##s(fabs##s(back * size - fabs##s(r)), a);                  \
  }
PR_FMOD(float, f32, f, 0x1p22f)
PR_FMOD(double, f64, , 0x1p51)

/* sqrt(a * a + b * b), and its logarithm: by the larger of the two, and where that is
   near 1 by what the sum of squares is beyond 1, in double. */
#define PR_HYPOT(T, t, s, SIZE)                                                \
  PR_DEVICE T pr_hypot_##t(T a, T b) {                                         \
    const T x = fabs##s(a), y = fabs##s(b);                                    \
    const T large = x > y ? x : y, less = x > y ? y : x;                       \
    const T size = SIZE, known = large == 0 ? 0 : size;                        \
    const T told = a != a ? a : b != b ? b : known;                            \
    return (x == PR_INF_##t) | (y == PR_INF_##t) ? PR_INF_##t : told;          \
  }                                                                            \
  PR_DEVICE T pr_log_hypot_##t(T a, T b) {                                     \
    const T x = fabs##s(a), y = fabs##s(b);                                    \
    const T large = x > y ? x : y, less = x > y ? y : x;                       \
    const int near = (large > (T)0.5) & (large < 2);                           \
    const double beyond =                                                      \
        ((double)large - 1) * ((double)large + 1) + (double)less * less;       \
    const T part = large == 0 ? 0 : less / large, logged = log##s(large);      \
    const T more = near ? (T)beyond : part * part, rest = log1p##s(more);      \
    const T found = (near ? 0 : logged) + rest / 2;                            \
    const T told = a != a ? a : b != b ? b : found;                            \
    return (x == PR_INF_##t) | (y == PR_INF_##t) ? PR_INF_##t : told;          \
  }
PR_HYPOT(float, f32, f, (float)sqrt((double)a * a + (double)b * b))
PR_HYPOT(double, f64, , large * sqrt(1 + (less / large) * (less / large)))

/* Division rounded down, and its remainder. Nothing traps: by 0 gives 0, and the
   lowest number by -1 wraps. `quotient` cuts off, of a divisor that is safe. */
#define PR_DIVISION(T, U, t, quotient)                                         \
  PR_DEVICE T pr_idiv_##t(T a, T b) {                                          \
    const T by = (b == 0 || b == -1) ? 1 : b;                                  \
    const T q = quotient(T, a, by);                                            \
    const T r = (T)(a - q * by);                                               \
    const T down = (T)(q - ((r != 0) & ((r < 0) != (by < 0))));                \
    return b == 0 ? 0 : b == -1 ? (T)((U)0 - (U)a) : down;                     \
  }                                                                            \
  PR_DEVICE T pr_rem_##t(T a, T b) {                                           \
    const T by = (b == 0 || b == -1) ? 1 : b;                                  \
    const T r = (T)(a - quotient(T, a, by) * by);                              \
    return (T)(r + (((r != 0) & ((r < 0) != (by < 0))) ? by : 0));             \
  }
#define PR_WHOLE(T, a, b) ((T)((a) / (b)))
/* Exact up to 32 bits, and there are instructions for several at once. */
#define PR_BY_DOUBLE(T, a, b)                                                  \
  (__builtin_constant_p(b) ? (T)((a) / (b)) : (T)((double)(a) / (double)(b)))
PR_DIVISION(signed char, unsigned, i8, PR_BY_DOUBLE)
PR_DIVISION(unsigned char, unsigned, u8, PR_BY_DOUBLE)
PR_DIVISION(short, unsigned, i16, PR_BY_DOUBLE)
PR_DIVISION(int, unsigned, i32, PR_BY_DOUBLE)
PR_DIVISION(int64_t, uint64_t, i64, PR_WHOLE)

/* Shifts; by less than 0, or by all bits or more: what is left is 0, or the sign. */
#define PR_SHIFTS(T, U, t)                                                     \
  PR_DEVICE T pr_shl_##t(T a, T b) {                                           \
    return b < 0 || b >= 8 * (int)sizeof(T) ? 0 : (T)((U)a << b);              \
  }                                                                            \
  PR_DEVICE T pr_shr_##t(T a, T b) {                                           \
    return b < 0 || b >= 8 * (int)sizeof(T) ? (T)(a < 0 ? -1 : 0) : (T)(a >> b);\
  }
PR_SHIFTS(signed char, unsigned, i8)
PR_SHIFTS(unsigned char, unsigned, u8)
PR_SHIFTS(short, unsigned, i16)
PR_SHIFTS(int, unsigned, i32)
PR_SHIFTS(int64_t, uint64_t, i64)

/* The number of another type with the same bits. */
#define PR_BITS(T, S, t)                                                       \
  PR_DEVICE S pr_bits_##t(T a) {                                               \
    union { T from; S to; } both;                                              \
    both.from = a;                                                             \
    return both.to;                                                            \
  }
PR_BITS(float, int, f32)
PR_BITS(int, float, i32)
PR_BITS(double, int64_t, f64)
PR_BITS(int64_t, double, i64)

/* How the lanes' copies of an accumulator are joined. */
#define PR_PRAGMA(text) _Pragma(#text)
#define PR_REDUCTION(T, t, low, high)                                          \
  PR_PRAGMA(omp declare reduction(max_##t : T : omp_out =                      \
      pr_max_##t(omp_out, omp_in)) initializer(omp_priv = low))                \
  PR_PRAGMA(omp declare reduction(min_##t : T : omp_out =                      \
      pr_min_##t(omp_out, omp_in)) initializer(omp_priv = high))
PR_REDUCTION(float, f32, -PR_INF_f32, PR_INF_f32)
PR_REDUCTION(double, f64, -PR_INF_f64, PR_INF_f64)

typedef uint8_t __attribute__((may_alias)) pr_u1;
typedef uint16_t __attribute__((may_alias)) pr_u2;
typedef uint32_t __attribute__((may_alias)) pr_u4;
typedef uint64_t __attribute__((may_alias)) pr_u8;

static inline int64_t pr_least(int64_t a, int64_t b) { return a < b ? a : b; }

/* to[i * out + j] = from[i + j * in], for i < high, j < wide: squares of 8 or 4 by
   shuffles of registers, the rest one by one. */
#define PR_TURN_ONE(N, T)                                                      \
  PR_DEVICE void pr_turn_##N(void *to, int64_t out, const void *from,          \
                             int64_t in, int64_t wide, int64_t high) {         \
    T *restrict y = (T *)to;                                                   \
    const T *restrict x = (const T *)from;                                     \
    const int64_t fw = PR_SQUARES_##N(wide);                                   \
    const int64_t fh = fw ? PR_SQUARES_##N(high) : 0;                          \
    for (int64_t j = 0; j < fw; j += PR_SIDE_##N)                              \
      for (int64_t i = 0; i < fh; i += PR_SIDE_##N)                            \
        pr_square_##N(y + i * out + j, out, x + i + j * in, in);               \
    for (int64_t j = 0; j < wide; ++j)                                         \
      for (int64_t i = j < fw ? fh : 0; i < high; ++i)                         \
        y[i * out + j] = x[i + j * in];                                        \
  }
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define PR_SHUFFLES
#endif
#endif
#define PR_SIDE_1 1
#define PR_SIDE_2 1
#define PR_SQUARES_1(n) 0
#define PR_SQUARES_2(n) 0
#define pr_square_1(to, out, from, step) (void)0
#define pr_square_2(to, out, from, step) (void)0
#ifdef PR_SHUFFLES
#define PR_SIDE_4 8
#define PR_SIDE_8 4
#define PR_SQUARES_4(n) ((n) & ~7)
#define PR_SQUARES_8(n) ((n) & ~3)
typedef uint32_t pr_v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint64_t pr_v4 __attribute__((vector_size(32), aligned(8), may_alias));
#define PR_MIX8(to, a, b, ...) const pr_v8 to = __builtin_shufflevector(a, b, __VA_ARGS__)
#define PR_PAIR8(lo, hi, a, b)                                                 \
  PR_MIX8(lo, a, b, 0, 8, 1, 9, 4, 12, 5, 13);                                 \
  PR_MIX8(hi, a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define PR_QUAD8(lo, hi, a, b)                                                 \
  PR_MIX8(lo, a, b, 0, 1, 8, 9, 4, 5, 12, 13);                                 \
  PR_MIX8(hi, a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define PR_OUT8(k, a, b)                                                       \
  PR_MIX8(lo##k, a, b, 0, 1, 2, 3, 8, 9, 10, 11);                              \
  PR_MIX8(hi##k, a, b, 4, 5, 6, 7, 12, 13, 14, 15);                            \
  *(pr_v8 *)(to + k * out) = lo##k;                                            \
  *(pr_v8 *)(to + (k + 4) * out) = hi##k
PR_DEVICE void pr_square_4(pr_u4 *to, int64_t out, const pr_u4 *from,
                           int64_t step) {
#define PR_ROW(k) (*(const pr_v8 *)(from + (k) * step))
  PR_PAIR8(a0, a1, PR_ROW(0), PR_ROW(1));
  PR_PAIR8(a2, a3, PR_ROW(2), PR_ROW(3));
  PR_PAIR8(a4, a5, PR_ROW(4), PR_ROW(5));
  PR_PAIR8(a6, a7, PR_ROW(6), PR_ROW(7));
#undef PR_ROW
  PR_QUAD8(b0, b1, a0, a2);
  PR_QUAD8(b2, b3, a1, a3);
  PR_QUAD8(b4, b5, a4, a6);
  PR_QUAD8(b6, b7, a5, a7);
  PR_OUT8(0, b0, b4);
  PR_OUT8(1, b1, b5);
  PR_OUT8(2, b2, b6);
  PR_OUT8(3, b3, b7);
}
PR_DEVICE void pr_square_8(pr_u8 *to, int64_t out, const pr_u8 *from,
                           int64_t step) {
  for (int i = 0; i < 4; ++i) {
    const pr_v4 row = {from[i], from[i + step], from[i + 2 * step],
                       from[i + 3 * step]};
    *(pr_v4 *)(to + i * out) = row;
  }
}
#else
#define PR_SIDE_4 1
#define PR_SIDE_8 1
#define PR_SQUARES_4(n) 0
#define PR_SQUARES_8(n) 0
#define pr_square_4(to, out, from, step) (void)0
#define pr_square_8(to, out, from, step) (void)0
#endif
PR_TURN_ONE(1, pr_u1)
PR_TURN_ONE(2, pr_u2)
PR_TURN_ONE(4, pr_u4)
PR_TURN_ONE(8, pr_u8)

#include "pirol_half.h"

#endif
