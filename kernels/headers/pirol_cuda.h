// What every CUDA kernel begins with; NVRTC and the simulator read the same text.
#define PR_DEVICE static __device__ __forceinline__
#define PR_INF_f32 __int_as_float(0x7f800000)
#define PR_INF_f64 __longlong_as_double(0x7ff0000000000000LL)
#define PR_NAN_f32 __int_as_float(0x7fffffff)
#define PR_NAN_f64 __longlong_as_double(0x7fffffffffffffffLL)

// The larger value, as `a > b ? a : b`, but NaN if either is NaN.
#define PR_EXTREMES(T, t)                                                      \
  PR_DEVICE T pr_max_##t(T a, T b) { return (a > b || a != a) ? a : b; }       \
  PR_DEVICE T pr_min_##t(T a, T b) { return (a < b || a != a) ? a : b; }
PR_EXTREMES(float, f32)
PR_EXTREMES(double, f64)

// The same, but of two zeros of different signs either.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define PR_EITHER(name, op)                                                    \
  PR_DEVICE float pr_##name##_f32(float a, float b) {                          \
    float found;                                                               \
    asm(#op ".NaN.f32 %0, %1, %2;" : "=f"(found) : "f"(a), "f"(b));            \
    return found;                                                              \
  }
#else
#define PR_EITHER(name, op)                                                    \
  PR_DEVICE float pr_##name##_f32(float a, float b) { return pr_##op##_f32(a, b); }
#endif
PR_EITHER(largest, max)
PR_EITHER(smallest, min)

// sqrt(a * a + b * b), and its logarithm: by the larger of the two, and where that is
// near 1 by what the sum of squares is beyond 1.
#define PR_HYPOT(T, t, s)                                                      \
  PR_DEVICE T pr_hypot_##t(T a, T b) { return hypot##s(a, b); }                \
  PR_DEVICE T pr_log_hypot_##t(T a, T b) {                                     \
    const T x = fabs##s(a), y = fabs##s(b);                                    \
    const T large = x > y ? x : y, less = x > y ? y : x;                       \
    if (x == PR_INF_##t || y == PR_INF_##t) return PR_INF_##t;                 \
    if (a != a || b != b || large == 0) return log##s(a + b);                  \
    if (!(large > (T)0.5 && large < (T)2))                                     \
      return log##s(large) + log1p##s(less / large * (less / large)) / 2;      \
    const double beyond =                                                      \
        ((double)large - 1) * ((double)large + 1) + (double)less * less;       \
    return log1p##s((T)beyond) / 2;                                            \
  }
PR_HYPOT(float, f32, f)
PR_HYPOT(double, f64, )

PR_DEVICE float pr_fmod_f32(float a, float b) { return fmodf(a, b); }
PR_DEVICE double pr_fmod_f64(double a, double b) { return fmod(a, b); }

// Division rounded down, and its remainder; by 0 gives 0, the lowest by -1 wraps.
#define PR_DIVISION(T, U, t)                                                   \
  PR_DEVICE T pr_idiv_##t(T a, T b) {                                          \
    const T by = (b == 0 || b == -1) ? 1 : b;                                  \
    const T q = (T)(a / by);                                                   \
    const T r = (T)(a - q * by);                                               \
    const T down = (T)(q - ((r != 0) & ((r < 0) != (by < 0))));                \
    return b == 0 ? 0 : b == -1 ? (T)((U)0 - (U)a) : down;                     \
  }                                                                            \
  PR_DEVICE T pr_rem_##t(T a, T b) {                                           \
    const T by = (b == 0 || b == -1) ? 1 : b;                                  \
    const T r = (T)(a - (T)(a / by) * by);                                     \
    return (T)(r + (((r != 0) & ((r < 0) != (by < 0))) ? by : 0));             \
  }
PR_DIVISION(signed char, unsigned, i8)
PR_DIVISION(unsigned char, unsigned, u8)
PR_DIVISION(short, unsigned, i16)
PR_DIVISION(int, unsigned, i32)
PR_DIVISION(long long, unsigned long long, i64)

// Shifts; by less than 0, or by all bits or more: what is left is 0, or the sign.
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
PR_SHIFTS(long long, unsigned long long, i64)

// The number of another type with the same bits.
#define PR_BITS(T, S, t)                                                       \
  PR_DEVICE S pr_bits_##t(T a) {                                               \
    union { T from; S to; } both;                                              \
    both.from = a;                                                             \
    return both.to;                                                            \
  }
PR_BITS(float, int, f32)
PR_BITS(int, float, i32)
PR_BITS(double, long long, f64)
PR_BITS(long long, double, i64)

// sums[i, j] += left[k, row i] * right[k, column j] for the 16 terms in shared memory,
// whose rows are 65 apart: of a 64 x 64 tile the four rows from threadIdx.x / 16 * 4 on,
// and every sixteenth column from threadIdx.x % 16 on. The 16 terms are added up before
// they join the sum: rounding errors grow with the number of terms added one by one.
#define PR_OUTER(T, t, fma)                                                    \
  PR_DEVICE void pr_outer_##t(T *sums, const T *left, const T *right) {        \
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16;           \
    T part[16] = {0};                                                          \
    for (int k = 0; k < 16; ++k) {                                             \
      T a[4], b[4];                                                            \
      for (int i = 0; i < 4; ++i) {                                            \
        a[i] = left[k * 65 + row + i];                                         \
        b[i] = right[k * 65 + column + 16 * i];                                \
      }                                                                        \
      for (int i = 0; i < 4; ++i)                                              \
        for (int j = 0; j < 4; ++j)                                            \
          part[i * 4 + j] = fma(a[i], b[j], part[i * 4 + j]);                  \
    }                                                                          \
    for (int i = 0; i < 16; ++i) sums[i] += part[i];                           \
  }
PR_OUTER(float, f32, fmaf)
PR_OUTER(double, f64, fma)

// The lanes of a warp, in order, add their terms to the sums of their places; those below
// 0 have none. A place is the lane's of its number, so that no two lanes share a sum.
#define PR_ADD_IN_TURN(T, U, t)                                                \
  PR_DEVICE void pr_add_in_turn_##t(T *sums, long long to, T term) {           \
    unsigned rest = __ballot_sync(0xffffffffu, to >= 0);                       \
    for (; rest; rest &= rest - 1) {                                           \
      const int lane = __ffs((int)rest) - 1;                                   \
      const int at = __shfl_sync(0xffffffffu, (int)to, lane);                  \
      const T other = (T)__shfl_sync(0xffffffffu, term, lane);                 \
      if (at % 32 == threadIdx.x % 32) sums[at] = (T)((U)sums[at] + (U)other); \
    }                                                                          \
  }
PR_ADD_IN_TURN(float, float, f32)
PR_ADD_IN_TURN(double, double, f64)
PR_ADD_IN_TURN(signed char, unsigned, i8)
PR_ADD_IN_TURN(unsigned char, unsigned, u8)
PR_ADD_IN_TURN(short, unsigned, i16)
PR_ADD_IN_TURN(int, unsigned, i32)
PR_ADD_IN_TURN(long long, unsigned long long, i64)

// a / b as a division rounds it, from r = pr_inverse(b): the quotient by r is one unit
// off at most, and its remainder, which is exact, sets it right (all numbers that come
// near enough to the middle of two were tried). far is set where that may not hold: at
// numbers too small or too large, Inf and NaN.
PR_DEVICE float pr_inverse(float b) {
  return b >= 0x1p-40f && b <= 0x1p40f ? 1 / b : PR_NAN_f32;
}
PR_DEVICE float pr_over(float a, float b, float r, unsigned char *far) {
  const float near = a * r, quotient = fmaf(-fmaf(near, b, -a), r, near);
  *far |= !(fabsf(quotient) >= 0x1p-60f) & (a != r - r);
  return quotient;
}

// Memory in one access; both ends are multiples of its size.
#define PR_MOVE(N, T)                                                          \
  PR_DEVICE void pr_move_##N(void *to, const void *from) {                     \
    *(T *)to = *(const T *)from;                                               \
  }
PR_MOVE(2, unsigned short)
PR_MOVE(4, unsigned)
PR_MOVE(8, uint2)
PR_MOVE(16, uint4)
