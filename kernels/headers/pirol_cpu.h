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
PR_SIMD float expf(float);
PR_SIMD float logf(float);
PR_SIMD float tanhf(float);
PR_SIMD float erff(float);
PR_SIMD double exp(double);
PR_SIMD double log(double);
PR_SIMD double tanh(double);
PR_SIMD double erf(double);
#endif

/* The larger value, as `a > b ? a : b`, but NaN if either is NaN. */
#define PR_EXTREMES(T, t)                                                      \
  PR_DEVICE T pr_max_##t(T a, T b) { return (a > b || a != a) ? a : b; }       \
  PR_DEVICE T pr_min_##t(T a, T b) { return (a < b || a != a) ? a : b; }
PR_EXTREMES(float, f32)
PR_EXTREMES(double, f64)

/* How the lanes' copies of an accumulator are joined. */
#define PR_PRAGMA(text) _Pragma(#text)
#define PR_REDUCTION(T, t, low, high)                                          \
  PR_PRAGMA(omp declare reduction(max_##t : T : omp_out =                      \
      pr_max_##t(omp_out, omp_in)) initializer(omp_priv = low))                \
  PR_PRAGMA(omp declare reduction(min_##t : T : omp_out =                      \
      pr_min_##t(omp_out, omp_in)) initializer(omp_priv = high))
PR_REDUCTION(float, f32, -PR_INF_f32, PR_INF_f32)
PR_REDUCTION(double, f64, -PR_INF_f64, PR_INF_f64)

#endif
