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
