/* Tiles of matrix products of bfloat16, added up in float: c[i, j] = sum over k of
   a[i, k] * b[k, j]. a[i, k] lies at i * a_row + k. b holds terms in pairs: b[k, j] lies
   at (k / 2 * b_term + j) * 2 + k % 2, with 0 behind the last term of an odd number.
   Where the processor multiplies bfloat16, subnormal numbers count as 0. */
#ifndef PIROL_DOT_BF16_H
#define PIROL_DOT_BF16_H
#include "pirol_dot.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { PR_PAIRS = PR_DOT_BYTES / 4, PR_DOT_PAIRS = 64 };
typedef float pr_sums __attribute__((vector_size(PR_DOT_BYTES), aligned(4), may_alias));
typedef uint32_t pr_pairs
    __attribute__((vector_size(PR_DOT_BYTES), aligned(4), may_alias));
typedef uint32_t pr_pair __attribute__((aligned(2), may_alias));

/* to[k / 2 * width + j] = the pair of from[k * step + j] and the term behind it; 0 stands
   for what lies behind the last term or column. */
static inline __attribute__((unused)) void pr_pairs_of(
    void *pairs, const uint16_t *from, int64_t step, int64_t columns, int64_t width,
    int64_t terms) {
  uint32_t *to = pairs;
  for (int64_t k = 0; k < terms; k += 2, from += 2 * step, to += width) {
    const int64_t both = k + 1 < terms ? columns : 0;
    for (int64_t j = 0; j < both; ++j)
      to[j] = from[j] | (uint32_t)from[step + j] << 16;
    for (int64_t j = both; j < columns; ++j) to[j] = from[j];
    for (int64_t j = columns; j < width; ++j) to[j] = 0;
  }
}

#ifdef __clang__
#pragma clang fp contract(fast)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

/* sum + the products of both of each pair */
static inline __attribute__((always_inline)) pr_sums pr_add_pairs(
    pr_sums sum, uint32_t a, pr_pairs b) {
#ifdef __AVX512BF16__
  const __m512i x = _mm512_set1_epi32((int)a);
  return (pr_sums)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)b);
#else
  const pr_pairs x = a - (pr_pairs){0};
  sum += (pr_sums)(x << 16) * (pr_sums)(b << 16);
  return sum + (pr_sums)(x & 0xffff0000u) * (pr_sums)(b & 0xffff0000u);
#endif
}

/* `rows`, `vecs` and `last` are literals, so that the sums stay in registers; last: it is
   the one term behind the pairs. */
static inline __attribute__((always_inline)) void pr_tile_bf16(
    const int rows, const int vecs, float *c, int64_t c_row, const uint16_t *a,
    int64_t a_row, const uint16_t *b, int64_t b_term, int64_t terms, int more,
    const int last) {
  pr_sums sum[PR_DOT_ROWS][PR_DOT_VECS];
  PR_UNROLL for (int i = 0; i < rows; ++i)
    PR_UNROLL for (int j = 0; j < vecs; ++j)
      sum[i][j] = (pr_sums){0};
  for (int64_t k = 0; k < terms; k += 2) {
    const uint16_t *next = b + k * b_term;
    pr_pairs y[PR_DOT_VECS];
    PR_UNROLL for (int j = 0; j < vecs; ++j)
      y[j] = *(const pr_pairs *)(next + j * PR_PAIRS * 2);
    PR_UNROLL for (int i = 0; i < rows; ++i) {
      const uint32_t x = last ? a[i * a_row + k] : *(const pr_pair *)(a + i * a_row + k);
      PR_UNROLL for (int j = 0; j < vecs; ++j)
        sum[i][j] = pr_add_pairs(sum[i][j], x, y[j]);
    }
  }
  PR_UNROLL for (int i = 0; i < rows; ++i)
    PR_UNROLL for (int j = 0; j < vecs; ++j) {
      pr_sums *to = (pr_sums *)(c + i * c_row + j * PR_PAIRS);
      if (more) sum[i][j] += *to;
      *to = sum[i][j];
    }
}

/* Columns are read and written up to the next multiple of a vector. */
static inline __attribute__((always_inline)) void pr_strip_bf16(
    const int rows, float *c, int64_t c_row, const uint16_t *a, int64_t a_row,
    const uint16_t *b, int64_t b_term, int64_t columns, int64_t terms, int more,
    const int last) {
  int64_t j = 0;
#define PR_TILE(vecs)                                                               \
  pr_tile_bf16(rows, vecs, c + j, c_row, a, a_row, b + j * 2, b_term, terms, more, last)
  for (; columns - j > (PR_DOT_VECS - 1) * PR_PAIRS; j += PR_DOT_VECS * PR_PAIRS)
    PR_TILE(PR_DOT_VECS);
  for (; columns - j > PR_PAIRS; j += 2 * PR_PAIRS) PR_TILE(2);
  if (columns > j) PR_TILE(1);
#undef PR_TILE
}

/* Of an even number of terms, or of one. */
static inline __attribute__((always_inline)) void pr_rows_bf16(
    float *c, int64_t c_row, const uint16_t *a, int64_t a_row, const uint16_t *b,
    int64_t b_term, int64_t rows, int64_t columns, int64_t terms, int more,
    const int last) {
  int64_t i = 0;
#define PR_SOME(count)                                                              \
  for (; rows - i >= count; i += count)                                             \
    pr_strip_bf16(count, c + i * c_row, c_row, a + i * a_row, a_row, b, b_term,     \
                  columns, terms, more, last);
  PR_SOME(PR_DOT_ROWS)
  PR_SOME(4)
  PR_SOME(2)
  PR_SOME(1)
#undef PR_SOME
}

static __attribute__((noinline, unused)) void pr_dot_bf16(
    float *c, int64_t c_row, const uint16_t *a, int64_t a_row, const uint16_t *b,
    int64_t b_term, int64_t rows, int64_t columns, int64_t terms) {
  const int64_t even = terms - terms % 2;
  int64_t k = 0;
  do {
    const int64_t left = even - k;
    const int64_t some = left < 2 * PR_DOT_PAIRS ? left : 2 * PR_DOT_PAIRS;
    pr_rows_bf16(c, c_row, a + k, a_row, b + k * b_term, b_term, rows, columns, some,
                 k > 0, 0);
    k += 2 * PR_DOT_PAIRS;
  } while (k < even);
  if (terms % 2)
    pr_rows_bf16(c, c_row, a + even, a_row, b + even * b_term, b_term, rows, columns, 1,
                 1, 1);
}

#ifndef __clang__
#pragma GCC pop_options
#endif
#endif
