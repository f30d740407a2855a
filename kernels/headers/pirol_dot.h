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
#define PR_DOT_PANEL 256 /* bytes of a panel's row */
#define PR_DOT_FEW 24    /* so many rows are not worth packing for, */
#define PR_DOT_NEAR 1024 /* nor are terms that lie so near, in bytes */
#define PR_UNROLL _Pragma("GCC unroll 8")

#ifdef __clang__
#pragma clang fp contract(fast)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

/* pr_dot_tile: `rows`, `vecs` and `brings` are literals, so that the sums stay in
   registers. pr_dot_strip: `rows` rows by all columns. pr_dot_block: all rows. What is
   multiplied next is brought as far as the second cache (its lines may drive each other
   out of the first): what lies a block behind with `brings`, else `coming` rows.
   pr_dot: columns are read and written up to the next multiple of a vector.
   pr_dot_read: b is as it lies in memory, of at most a panel's columns; nothing behind
   them is read. For many rows each block of it is packed. */
#define PR_DOT_SOME(count, t)                                                  \
  for (; rows - i >= count; i += count, c += count * c_row) {                  \
    PR_UNROLL for (int n = 0; n < count; ++n)                                  \
      x[n] = a + (rows_at ? rows_at[i + n] : (i + n) * a_row);                 \
    for (int64_t n = 0; n < each && coming > 0; ++n, --coming, next += b_next) \
      for (int64_t j = 0; j < columns; j += PR_DOT_BYTES / sizeof(*b))         \
        __builtin_prefetch(next + j, 0, 2);                                    \
    pr_dot_strip_##t(count, c, c_row, x, at, b, b_term, columns, terms, more,  \
                     brings);                                                  \
  }
#define PR_DOT(T, t)                                                           \
  typedef T pr_vec_##t __attribute__((vector_size(PR_DOT_BYTES),               \
                                      aligned(sizeof(T)), may_alias));         \
  static inline __attribute__((always_inline)) void pr_dot_tile_##t(           \
      const int rows, const int vecs, T *c, int64_t c_row,                     \
      const T *const *a, const int64_t *at, const T *b, int64_t b_term,        \
      int64_t terms, int more, const int brings) {                             \
    enum { LANES = PR_DOT_BYTES / sizeof(T) };                                 \
    pr_vec_##t sum[PR_DOT_ROWS][PR_DOT_VECS];                                  \
    PR_UNROLL for (int i = 0; i < rows; ++i)                                   \
      PR_UNROLL for (int j = 0; j < vecs; ++j)                                 \
        sum[i][j] = (pr_vec_##t){0};                                           \
    for (int64_t k = 0; k < terms; ++k) {                                      \
      pr_vec_##t y[PR_DOT_VECS];                                               \
      const int64_t place = at[k];                                             \
      PR_UNROLL for (int j = 0; j < vecs; ++j) {                               \
        const T *from = b + k * b_term + j * LANES;                            \
        y[j] = *(const pr_vec_##t *)from;                                      \
        if (brings) __builtin_prefetch(from + PR_DOT_TERMS * b_term, 0, 2);    \
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
      int64_t terms, int more, const int brings) {                             \
    enum { LANES = PR_DOT_BYTES / sizeof(T) };                                 \
    int64_t j = 0;                                                             \
    for (; columns - j > (PR_DOT_VECS - 1) * LANES; j += PR_DOT_VECS * LANES)  \
      pr_dot_tile_##t(rows, PR_DOT_VECS, c + j, c_row, a, at, b + j, b_term,   \
                      terms, more, brings);                                    \
    for (; columns - j > LANES; j += 2 * LANES)                                \
      pr_dot_tile_##t(rows, 2, c + j, c_row, a, at, b + j, b_term, terms,      \
                      more, brings);                                           \
    if (columns > j)                                                           \
      pr_dot_tile_##t(rows, 1, c + j, c_row, a, at, b + j, b_term, terms,      \
                      more, brings);                                           \
  }                                                                            \
  static inline __attribute__((always_inline)) void pr_dot_block_##t(          \
      T *c, int64_t c_row, const T *a, int64_t a_row, const int64_t *rows_at,  \
      const int64_t *at, const T *b, int64_t b_term, int64_t rows,             \
      int64_t columns, int64_t terms, int more, const int brings,              \
      const T *next, int64_t b_next, int64_t coming) {                         \
    const int64_t strips = (rows + PR_DOT_ROWS - 1) / PR_DOT_ROWS;             \
    const int64_t each = coming ? (coming + strips - 1) / strips : 0;          \
    const T *x[PR_DOT_ROWS];                                                   \
    int64_t i = 0;                                                             \
    PR_DOT_SOME(PR_DOT_ROWS, t)                                                \
    PR_DOT_SOME(4, t)                                                          \
    PR_DOT_SOME(2, t)                                                          \
    PR_DOT_SOME(1, t)                                                          \
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
      pr_dot_block_##t(c, c_row, a + k * a_term, a_row, rows_at,               \
                       terms_at ? terms_at + k : even, b + k * b_term, b_term, \
                       rows, columns, some, k > 0, 1, b, 0, 0);                \
      k += PR_DOT_TERMS;                                                       \
    } while (k < terms);                                                       \
  }                                                                            \
  static __attribute__((noinline, unused)) void pr_dot_read_##t(               \
      T *c, int64_t c_row, const T *a, int64_t a_row, int64_t a_term,          \
      const int64_t *rows_at, const int64_t *terms_at, const T *b,             \
      int64_t b_term, int64_t rows, int64_t columns, int64_t terms) {          \
    enum { LANES = PR_DOT_BYTES / sizeof(T) };                                 \
    enum { WIDE = PR_DOT_PANEL / sizeof(T) };                                  \
    const int64_t whole = (columns + LANES - 1) / LANES * LANES;               \
    const int even_lines = b_term % LANES == 0 || whole > 2 * LANES;           \
    const int near =                                                           \
        b_term * (int64_t)sizeof(T) <= PR_DOT_NEAR && even_lines;              \
    const int as_is = rows <= PR_DOT_FEW || near;                              \
    const T *const end = b + (terms - 1) * b_term + columns;                   \
    T packed[PR_DOT_TERMS * WIDE] __attribute__((aligned(PR_DOT_BYTES)));      \
    int64_t k = 0, even[PR_DOT_TERMS];                                         \
    for (int n = 0; n < PR_DOT_TERMS; ++n)                                     \
      even[n] = n * a_term;                                                    \
    do {                                                                       \
      const int64_t left = terms - k;                                          \
      const int64_t some = left < PR_DOT_TERMS ? left : PR_DOT_TERMS;          \
      const int64_t *at = terms_at ? terms_at + k : even;                      \
      const T *x = a + k * a_term, *y = b + k * b_term;                        \
      if (as_is && end - (y + (some - 1) * b_term) >= whole) {                 \
        pr_dot_block_##t(c, c_row, x, a_row, rows_at, at, y, b_term, rows,     \
                         columns, some, k > 0, 1, y, 0, 0);                    \
      } else {                                                                 \
        for (int64_t n = 0; n < some; ++n, y += b_term)                        \
          if (end - y >= whole)                                                \
            for (int64_t j = 0; j < whole; j += LANES)                         \
              *(pr_vec_##t *)(packed + n * WIDE + j) =                         \
                  *(const pr_vec_##t *)(y + j);                                \
          else                                                                 \
            for (int64_t j = 0; j < whole; ++j)                                \
              packed[n * WIDE + j] = j < columns ? y[j] : 0;                   \
        pr_dot_block_##t(c, c_row, x, a_row, rows_at, at, packed, WIDE, rows,  \
                         columns, some, k > 0, 0,                              \
                         left > some ? y : b + columns, b_term, some);         \
      }                                                                        \
      k += PR_DOT_TERMS;                                                       \
    } while (k < terms);                                                       \
  }
PR_DOT(float, f32)
PR_DOT(double, f64)

#ifndef __clang__
#pragma GCC pop_options
#endif
#endif
