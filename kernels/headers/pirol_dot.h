/* Tiles of matrix products: c[i, j] = sum over k of a[i, k] * b[k, j]. The terms of an
   element are added up in their order, in blocks of PR_DOT_TERMS, whatever the tile.
   a[i, k] lies at i * a_row + k * a_term, or at rows_at[i] + terms_at[k]. */
#ifndef PIROL_DOT_H
#define PIROL_DOT_H
#include <stdint.h>

#if defined(__AVX512F__)
#define PR_DOT_BYTES 64
#define PR_DOT_VECS 4
#elif defined(__AVX__)
#define PR_DOT_BYTES 32
#define PR_DOT_VECS 2
#elif defined(__aarch64__)
#define PR_DOT_BYTES 16
#define PR_DOT_VECS 4
#else
#define PR_DOT_BYTES 16
#define PR_DOT_VECS 2
#endif
#define PR_DOT_ROWS 6
#define PR_DOT_TERMS 64
#define PR_UNROLL _Pragma("GCC unroll 8")

#ifdef __clang__
#pragma clang fp contract(fast)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

/* pr_dot_tile: `rows` and `vecs` are literals, so that the sums stay in registers.
   pr_dot_strip: `rows` rows by all columns. Columns are read and written up to the
   next multiple of a vector. What is multiplied after the block at hand is brought as
   far as the second cache: its lines may drive each other out of the first. */
#define PR_DOT_SOME(count, t)                                                  \
  for (; rows - i >= count; i += count, to += count * c_row) {                 \
    PR_UNROLL for (int n = 0; n < count; ++n)                                  \
      x[n] = a + (rows_at ? rows_at[i + n] : (i + n) * a_row + k * a_term);    \
    pr_dot_strip_##t(count, to, c_row, x, at, y, b_term, columns, some,        \
                     k > 0);                                                   \
  }
#define PR_DOT(T, t)                                                           \
  typedef T pr_vec_##t __attribute__((vector_size(PR_DOT_BYTES),               \
                                      aligned(sizeof(T)), may_alias));         \
  static inline __attribute__((always_inline)) void pr_dot_tile_##t(           \
      const int rows, const int vecs, T *c, int64_t c_row,                     \
      const T *const *a, const int64_t *at, const T *b, int64_t b_term,        \
      int64_t terms, int more) {                                               \
    enum { LANES = PR_DOT_BYTES / sizeof(T) };                                 \
    pr_vec_##t sum[PR_DOT_ROWS][PR_DOT_VECS];                                  \
    PR_UNROLL for (int i = 0; i < rows; ++i)                                   \
      PR_UNROLL for (int j = 0; j < vecs; ++j)                                 \
        sum[i][j] = (pr_vec_##t){0};                                           \
    for (int64_t k = 0; k < terms; ++k) {                                      \
      pr_vec_##t y[PR_DOT_VECS];                                               \
      const int64_t place = at[k];                                             \
      PR_UNROLL for (int j = 0; j < vecs; ++j) {                               \
        y[j] = *(const pr_vec_##t *)(b + k * b_term + j * LANES);              \
        __builtin_prefetch(b + (k + PR_DOT_TERMS) * b_term + j * LANES, 0, 2); \
      }                                                                        \
      PR_UNROLL for (int i = 0; i < rows; ++i) {                               \
        const pr_vec_##t x = a[i][place] - (pr_vec_##t){0};                    \
        PR_UNROLL for (int j = 0; j < vecs; ++j)                               \
          sum[i][j] += x * y[j];                                               \
      }                                                                        \
    }                                                                          \
    PR_UNROLL for (int i = 0; i < rows; ++i)                                   \
      PR_UNROLL for (int j = 0; j < vecs; ++j) {                               \
        pr_vec_##t *to = (pr_vec_##t *)(c + i * c_row + j * LANES);            \
        if (more) sum[i][j] += *to;                                            \
        *to = sum[i][j];                                                       \
      }                                                                        \
  }                                                                            \
  static inline __attribute__((always_inline)) void pr_dot_strip_##t(          \
      const int rows, T *c, int64_t c_row, const T *const *a,                  \
      const int64_t *at, const T *b, int64_t b_term, int64_t columns,          \
      int64_t terms, int more) {                                               \
    enum { LANES = PR_DOT_BYTES / sizeof(T) };                                 \
    int64_t j = 0;                                                             \
for (; columns - j > (PR_DOT_VECS - 1) * LANES; j += PR_DOT_VECS * LANES)  \
      pr_dot_tile_##t(rows, PR_DOT_VECS, c + j, c_row, a, at, b + j, b_term,   \
                      terms, more);                                            \
    for (; columns - j > LANES; j += 2 * LANES)                                \
      pr_dot_tile_##t(rows, 2, c + j, c_row, a, at, b + j, b_term, terms,      \
                      more);                                                   \
    if (columns > j)                                                           \
      pr_dot_tile_##t(rows, 1, c + j, c_row, a, at, b + j, b_term, terms,      \
                      more);                                                   \
  }                                                                            \
  static __attribute__((noinline, unused)) void pr_dot_##t(                    \
      T *c, int64_t c_row, const T *a, int64_t a_row, int64_t a_term,          \
      const int64_t *rows_at, const int64_t *terms_at, const T *b,             \
      int64_t b_term, int64_t rows, int64_t columns, int64_t terms) {          \
    int64_t k = 0, even[PR_DOT_TERMS];                                         \
    for (int n = 0; n < PR_DOT_TERMS; ++n)                                     \
      even[n] = n * a_term;                                                    \
    do {                                                                       \
      const int64_t left = terms - k;                                          \
      const int64_t some = left < PR_DOT_TERMS ? left : PR_DOT_TERMS;          \
      const int64_t *at = terms_at ? terms_at + k : even;                      \
      const T *x[PR_DOT_ROWS], *y = b + k * b_term;                            \
      T *to = c;                                                               \
      int64_t i = 0;                                                           \
      PR_DOT_SOME(PR_DOT_ROWS, t)                                              \
      PR_DOT_SOME(4, t)                                                        \
      PR_DOT_SOME(2, t)                                                        \
      PR_DOT_SOME(1, t)                                                        \
      k += PR_DOT_TERMS;                                                       \
    } while (k < terms);                                                       \
  }
PR_DOT(float, f32)
PR_DOT(double, f64)

#ifndef __clang__
#pragma GCC pop_options
#endif
#endif
