/* Sums along lines of memory: to[i] = sum over lines l and places j of
   a[rows_at[i] + a_at[l] + j] * b[b_at[l] + j]. Lanes add up a line's vectors; what is
   left of it is its last vector again, without what was added before. After some vectors
   the lanes are added up, to totals in double. */
#ifndef PIROL_ALONG_H
#define PIROL_ALONG_H
#include "pirol_dot.h"
#define PR_ALONG_ROWS 9
#define PR_ALONG_MOST 64 /* vectors that a lane adds up */

#ifndef __clang__
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

/* pr_along_some: `rows` is a literal, so that the sums stay in registers. */
#define PR_ALONG_SOME(T, t, I, BYTES)                                          \
  typedef T pr_lanes_##t##_##BYTES __attribute__((                             \
      vector_size(BYTES), aligned(sizeof(T)), may_alias));                     \
  typedef I pr_mask_##t##_##BYTES __attribute__((vector_size(BYTES)));         \
  static inline __attribute__((always_inline)) void                            \
      pr_along_some_##t##_##BYTES(                                             \
          const int rows, T *to, const T *a, const int64_t *rows_at,           \
          const int64_t *a_at, const T *b, const int64_t *b_at, int64_t lines, \
          int64_t length) {                                                    \
    typedef pr_lanes_##t##_##BYTES V;                                          \
    typedef pr_mask_##t##_##BYTES M;                                           \
    enum { LANES = BYTES / sizeof(T) };                                        \
    const int64_t whole = length / LANES * LANES, last = length - LANES;       \
    const T *x[PR_ALONG_ROWS];                                                 \
    V sum[PR_ALONG_ROWS];                                                      \
    double total[PR_ALONG_ROWS] = {0};                                         \
    M fresh;                                                                   \
    for (int64_t n = 0; n < LANES; ++n)                                        \
      fresh[n] = -(I)(last + n >= whole);                                      \
    PR_UNROLL for (int i = 0; i < rows; ++i) {                                 \
      x[i] = a + rows_at[i];                                                   \
      sum[i] = (V){0};                                                         \
    }                                                                          \
    for (int64_t l = 0, count = 0; l < lines; ++l) {                           \
      const T *y = b + b_at[l];                                                \
      const int64_t at = a_at[l];                                              \
      for (int64_t j = 0; j < whole; j += LANES) {                             \
        const V v = *(const V *)(y + j);                                       \
        PR_UNROLL for (int i = 0; i < rows; ++i)                               \
          sum[i] += *(const V *)(x[i] + at + j) * v;                           \
      }                                                                        \
      if (whole < length) {                                                    \
        const V v = (V)((M) * (const V *)(y + last) & fresh);                  \
        PR_UNROLL for (int i = 0; i < rows; ++i)                               \
          sum[i] += (V)((M) * (const V *)(x[i] + at + last) & fresh) * v;      \
      }                                                                        \
      count += whole / LANES + 1;                                              \
      if (count < PR_ALONG_MOST && l + 1 < lines) continue;                    \
      count = 0;                                                               \
      PR_UNROLL for (int i = 0; i < rows; ++i) {                               \
        T part = 0;                                                            \
        for (int64_t n = 0; n < LANES; ++n)                                    \
          part += sum[i][n];                                                   \
        total[i] += part;                                                      \
        sum[i] = (V){0};                                                       \
      }                                                                        \
    }                                                                          \
    PR_UNROLL for (int i = 0; i < rows; ++i)                                   \
      to[i] = (T)total[i];                                                     \
  }                                                                            \
  static __attribute__((noinline, unused)) void pr_along_##t##_##BYTES(        \
      T *to, const T *a, const int64_t *rows_at, const int64_t *a_at,          \
      const T *b, const int64_t *b_at, int64_t rows, int64_t lines,            \
      int64_t length) {                                                        \
    int64_t i = 0;                                                             \
    PR_ALONG_EACH(PR_ALONG_ROWS, t, BYTES)                                     \
    PR_ALONG_EACH(4, t, BYTES)                                                 \
    PR_ALONG_EACH(2, t, BYTES)                                                 \
    PR_ALONG_EACH(1, t, BYTES)                                                 \
  }
#define PR_ALONG_EACH(count, t, BYTES)                                         \
  for (; rows - i >= count; i += count)                                        \
    pr_along_some_##t##_##BYTES(count, to + i, a, rows_at + i, a_at, b, b_at,  \
                                lines, length);

/* The widest vector that a line fills. */
#define PR_ALONG_IF(T, t, BYTES)                                               \
  if (length * (int64_t)sizeof(T) >= BYTES && BYTES <= PR_DOT_BYTES) {         \
    pr_along_##t##_##BYTES(to, a, rows_at, a_at, b, b_at, rows, lines,         \
                           length);                                            \
    return;                                                                    \
  }
#define PR_ALONG(T, t, LEAST)                                                  \
  static inline void pr_along_##t(                                             \
      T *to, const T *a, const int64_t *rows_at, const int64_t *a_at,          \
      const T *b, const int64_t *b_at, int64_t rows, int64_t lines,            \
      int64_t length) {                                                        \
    PR_ALONG_IF(T, t, 64)                                                      \
    PR_ALONG_IF(T, t, 32)                                                      \
    PR_ALONG_IF(T, t, 16)                                                      \
    PR_ALONG_IF(T, t, LEAST)                                                   \
    for (int64_t i = 0; i < rows; ++i)                                         \
      to[i] = 0;                                                               \
  }
PR_ALONG_SOME(float, f32, int32_t, 64)
PR_ALONG_SOME(float, f32, int32_t, 32)
PR_ALONG_SOME(float, f32, int32_t, 16)
PR_ALONG_SOME(float, f32, int32_t, 4)
PR_ALONG(float, f32, 4)
PR_ALONG_SOME(double, f64, int64_t, 64)
PR_ALONG_SOME(double, f64, int64_t, 32)
PR_ALONG_SOME(double, f64, int64_t, 16)
PR_ALONG_SOME(double, f64, int64_t, 8)
PR_ALONG(double, f64, 8)

#ifndef __clang__
#pragma GCC pop_options
#endif
#endif
