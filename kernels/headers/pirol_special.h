/* Functions beyond libm's, for the CPU and CUDA, all in double: float's are rounded.
   What is not a number, and what is infinite, is as Paddle's kernels have it. */
#ifndef PIROL_SPECIAL_H
#define PIROL_SPECIAL_H
#define PR_PI 3.14159265358979323846

/* libm's lgamma writes to a variable that all threads share. */
#ifdef PIROL_CPU_H
double lgamma_r(double, int *);
PR_DEVICE double pr_lgamma_f64(double x) {
  int sign;
  return lgamma_r(x, &sign);
}
#else
PR_DEVICE double pr_lgamma_f64(double x) { return lgamma(x); }
#endif

/* The logarithm's series at 10 and above; below by psi(x) = psi(x + 1) - 1 / x, and
   left of 0 by psi(x) = psi(1 - x) - pi / tan(pi x). */
PR_DEVICE double pr_digamma(double x) {
  double rest = 0;
  if (x == 0) return copysign(PR_INF_f64, -x);
  if (x < 0) {
    const double part = x - rint(x);
    if (part == 0) return PR_NAN_f64;
    rest = fabs(part) == 0.5 ? 0 : -PR_PI / tan(PR_PI * part);
    x = 1 - x;
  }
  for (; x < 10; x += 1) rest -= 1 / x;
  const double z = 1 / (x * x);
  const double far = z * (691.0 / 32760 - z / 12);
  const double near = z * (1.0 / 252 - z * (1.0 / 240 - z * (1.0 / 132 - far)));
  return rest + (log(x) - 0.5 / x - z * (1.0 / 12 - z * (1.0 / 120 - near)));
}

/* The sum of (q + k)^-s over k, of q > 0 and s > 1: some terms, and of the rest what
   Euler and Maclaurin say; the numbers are (2k)! by those of Bernoulli. */
PR_DEVICE double pr_zeta(double s, double q) {
  const double by[12] = {12, -720, 30240, -1209600, 47900160, -1.8924375803183791606e9,
                         7.47242496e10, -2.950130727918164224e12,
                         1.1646782814350067249e14, -4.5979787224074726105e15,
                         1.8152105401943546773e17, -7.1661652561756670113e18};
  double last = pow(q, -s), sum = last, at = q, factor = s;
  for (int k = 0; k < 9 || at <= 9; ++k) {
    at += 1;
    last = pow(at, -s);
    sum += last;
  }
  sum += last * at / (s - 1) - last / 2;
  for (int k = 0; k < 12; ++k) {
    last /= at;
    sum += factor * last / by[k];
    factor *= (s + 2 * k + 1) * (s + 2 * k + 2);
    last /= at;
  }
  return sum;
}

/* The derivative of order n, up to 170, of digamma: (-1)^(n + 1) n! zeta(n + 1, x);
   left of 0 the terms before it and behind it are sums of their own. */
PR_DEVICE double pr_polygamma_f64(double n, double x) {
  if (n == 0) return pr_digamma(x);
  if (!(n > 0 && n <= 170 && n == floor(n))) return PR_NAN_f64;
  const double s = n + 1, odd = n == 2 * floor(n / 2) ? -1 : 1;
  if (x <= 0 && x == floor(x)) return odd * PR_INF_f64;
  double times = odd;
  for (double k = 2; k <= n; k += 1) times *= k;
  if (x > 0) return times * pr_zeta(s, x);
  const double part = ceil(x) - x;
  const double before = pr_zeta(s, part) - pr_zeta(s, 1 - x);
  return times * (pr_zeta(s, 1 - part) + odd * before);
}

/* A first guess of two digits (Winitzki's), and steps by Halley's rule: 2, 6, 18
   digits. Near 1 erfc tells the error. */
PR_DEVICE double pr_erfinv_f64(double x) {
  const double size = fabs(x);
  if (!(size < 1)) return x != x ? x : copysign(PR_INF_f64, x);
  if (size < 1e-9) return x * 0.88622692545275801365 + 0;
  const double rest = log1p(-size * size), b = rest / 0.147;
  const double t = 2 / (PR_PI * 0.147) + rest / 2, root = sqrt(t * t - b);
  double y = sqrt(t > 0 ? -b / (root + t) : root - t);
  for (int k = 0; k < 3; ++k) {
    const double over = size <= 0.5 ? erf(y) - size : 1 - size - erfc(y);
    const double step = over / (1.12837916709551257390 * exp(-y * y));
    y -= step / (1 + y * step);
  }
  return x < 0 ? -y : y;
}

/* I_n of |x|, n 0 or 1, times exp(-|x|) if scaled; n -1 is -I_1. The sum of powers, of
   which none is negative, and from 20 on of inverse powers, all digits there. */
PR_DEVICE double pr_bessel(int order, int scaled, double x) {
  const double a = fabs(x), sign = order < 0 ? -1 : 1;
  const int n = order != 0;
  double term = 1, sum = 1, slope = 0, lost = 0;
  if (a < 20) { /* a small error of the square is many times that of the sum */
    const double square = a * a, error = fma(a, a, -square);
    for (int k = 1; k < 64 && term > sum * 1e-17; ++k) {
      term *= square / (4 * k * (k + n));
      const double next = sum + term;
      lost += term < sum ? sum - next + term : term - next + sum;
      slope += k * term;
      sum = next;
    }
    sum += lost + (square > 0 ? slope * (error / square) : 0);
    return sign * (n ? a / 2 : 1) * sum * (scaled ? exp(-a) : 1);
  }
  for (int k = 1; k < 40 && fabs(term) > 1e-17; ++k) {
    term *= ((2 * k - 1) * (2 * k - 1) - 4 * n) / (8 * a * k);
    sum += term;
  }
  return sign * sum * 0.39894228040143267794 / sqrt(a) * (scaled ? 1 : exp(a));
}
PR_DEVICE double pr_i0_f64(double x) { return pr_bessel(0, 0, x); }
PR_DEVICE double pr_i0e_f64(double x) { return pr_bessel(0, 1, x); }
PR_DEVICE double pr_i1_f64(double x) { return pr_bessel(x < 0 ? -1 : 1, 0, x); }
PR_DEVICE double pr_i1e_f64(double x) { return pr_bessel(x < 0 ? -1 : 1, 1, x); }

#define PR_SPECIAL(name)                                                       \
  PR_DEVICE float pr_##name##_f32(float x) { return (float)pr_##name##_f64(x); }
PR_SPECIAL(lgamma)
PR_SPECIAL(erfinv)
PR_SPECIAL(i0)
PR_SPECIAL(i0e)
PR_SPECIAL(i1)
PR_SPECIAL(i1e)
PR_DEVICE float pr_polygamma_f32(float n, float x) {
  return (float)pr_polygamma_f64(n, x);
}
#endif
