/* Functions of float32 in less time than libmvec takes, of 2 ulp or less: they are
   inlined, and what lanes and the rest of a loop compute is the same. Every number takes
   as long as any other: libmvec calls a scalar function for each exp that is 0 or inf,
   as of what a softmax is masked with, and for each log of what is no positive number. */
#ifndef PIROL_MATH_H
#define PIROL_MATH_H
#include <string.h>

#ifdef __FMA__
#define PR_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define PR_FMA(a, b, c) ((a) * (b) + (c))
#endif

static inline uint32_t pr_bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
static inline float pr_float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

/* r of exp(x) = 2^n * exp(r), where adding 1.5 * 2^23 rounds to n: in the last bits of
   `shifted`. */
static inline float pr_exp_rest(float x, float *shifted) {
  *shifted = PR_FMA(x, 0x1.715476p+0f, 0x1.8p23f);
  const float n = *shifted - 0x1.8p23f;
  return PR_FMA(n, -0x1.7f7d1cp-20f, PR_FMA(n, -0x1.62e4p-1f, x));
}

/* exp(x) of |x| < 87, to 1e-7. */
static inline float pr_exp_within(float x) {
  float shifted;
  const float r = pr_exp_rest(x, &shifted);
  float p = 0x1.10627cp-7f;
  p = PR_FMA(p, r, 0x1.572a02p-5f);
  p = PR_FMA(p, r, 0x1.5557aep-3f);
  p = PR_FMA(p, r, 0x1.fffdfcp-2f);
  p = PR_FMA(r * r, p, r) + 1.0f;
  return pr_float_of(pr_bits_of(p) + (pr_bits_of(shifted) << 23));
}

/* exp(x), where 2^n is two factors, since it may be no float. */
static inline float pr_exp_f32(float x) {
  const float low = x < -104.0f ? -104.0f : x, t = low > 89.0f ? 89.0f : low;
  float shifted;
  const float r = pr_exp_rest(t, &shifted);
  float p = 0x1.6850e4p-10f;
  p = PR_FMA(p, r, 0x1.123bccp-7f);
  p = PR_FMA(p, r, 0x1.555b98p-5f);
  p = PR_FMA(p, r, 0x1.55548ep-3f);
  p = PR_FMA(p, r, 0x1.fffff8p-2f);
  p = PR_FMA(r * r, p, r) + 1.0f;
  const int32_t whole = (int32_t)(pr_bits_of(shifted) - 0x4b400000u);
  const int32_t half = whole >> 1;
  const float one = pr_float_of((uint32_t)(half + 127) << 23);
  const float two = pr_float_of((uint32_t)(whole - half + 127) << 23);
  return p * one * two;
}

static inline float pr_sigmoid_f32(float x) { return 1.0f / (1.0f + pr_exp_f32(-x)); }

/* log(m) + e * log(2), where m is within a factor of sqrt(2) of 1. Coefficients by
   S. Moshier, of Cephes. */
static inline float pr_log_f32(float x) {
  const int tiny = x < 0x1p-126f;
  const uint32_t bits = pr_bits_of(tiny ? x * 0x1p23f : x) - 0x3f3504f3u;
  const float e = (float)((int32_t)bits >> 23) - (tiny ? 23.0f : 0.0f);
  const float f = pr_float_of((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0f, z = f * f;
  float p = 7.0376836292e-2f;
  p = PR_FMA(p, f, -1.1514610310e-1f);
  p = PR_FMA(p, f, 1.1676998740e-1f);
  p = PR_FMA(p, f, -1.2420140846e-1f);
  p = PR_FMA(p, f, 1.4249322787e-1f);
  p = PR_FMA(p, f, -1.6668057665e-1f);
  p = PR_FMA(p, f, 2.0000714765e-1f);
  p = PR_FMA(p, f, -2.4999993993e-1f);
  p = PR_FMA(p, f, 3.3333331174e-1f);
  p = PR_FMA(p * f, z, e * -2.12194440e-4f);
  p = PR_FMA(z, -0.5f, p);
  const float found = PR_FMA(e, 0.693359375f, f + p);
  const float none = x == 0.0f ? -__builtin_inff() : __builtin_nanf("");
  return x > 0.0f ? (x < __builtin_inff() ? found : x) : none;
}

/* log(1 + x), and what the sum lost. */
static inline float pr_log1p_f32(float x) {
  const float u = 1.0f + x, lost = x - (u - 1.0f);
  const float found = pr_log_f32(u);
  const int plain = u > 0.0f && u < __builtin_inff();
  const float whole = found + (plain ? lost / u : 0.0f);
  return __builtin_fabsf(x) < 0x1p-25f ? x : whole;
}

/* x + x^3 q(x^2) near 0, else 1 - 2 / (exp(2x) + 1), which is 1 from 9.02 on. */
static inline float pr_tanh_f32(float x) {
  const float a = __builtin_fabsf(x), z = x * x;
  const float far = 1.0f - 2.0f / (pr_exp_within(2.0f * (a > 10.0f ? 10.0f : a)) + 1.0f);
  float q = -0x1.825856p-8f;
  q = PR_FMA(q, z, 0x1.54b8ap-6f);
  q = PR_FMA(q, z, -0x1.b898dep-5f);
  q = PR_FMA(q, z, 0x1.1109aep-3f);
  q = PR_FMA(q, z, -0x1.55553ep-2f);
  const float near = PR_FMA(q * z, a, a);
  return __builtin_copysignf(a > 0.6f ? far : near, x);
}

/* x + x q(x^2) near 0, else 1 - exp(-x p(x)), which is 1 from 3.92 on. Coefficients by
   N. Juffa. */
static inline float pr_erf_f32(float x) {
  const float a = __builtin_fabsf(x), z = x * x, u = a > 4.0f ? 4.0f : a;
  float p = -1.72853470e-5f;
  p = PR_FMA(p, u, 3.83197126e-4f);
  p = PR_FMA(p, u, -3.88396438e-3f);
  p = PR_FMA(p, u, 2.42546219e-2f);
  p = PR_FMA(p, u, -1.06777877e-1f);
  p = PR_FMA(p, u, -6.34846687e-1f);
  p = PR_FMA(p, u, -1.28717512e-1f);
  const float far = 1.0f - pr_exp_within(PR_FMA(p, u, -u));
  float q = -5.96761703e-4f;
  q = PR_FMA(q, z, 4.99119423e-3f);
  q = PR_FMA(q, z, -2.67681349e-2f);
  q = PR_FMA(q, z, 1.12819925e-1f);
  q = PR_FMA(q, z, -3.76125336e-1f);
  q = PR_FMA(q, z, 1.28379166e-1f);
  const float near = PR_FMA(q, a, a);
  return __builtin_copysignf(a > 0.927734375f ? far : near, x);
}

#endif
