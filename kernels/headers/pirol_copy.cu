// Copies of strided memory: to[i, .., p] = from[i, .., p] over eight axes, a thread an
// item. compiler/native/cuda.c launches them.
#define PR_COPY(N, T)                                                          \
  extern "C" __global__ void __launch_bounds__(256) pirol_copy_##N(            \
      T *__restrict__ to, const T *__restrict__ from, long long items,         \
      long long n0, long long n1, long long n2, long long n3, long long n4,    \
      long long n5, long long n6, long long n7, long long t0, long long t1,    \
      long long t2, long long t3, long long t4, long long t5, long long t6,    \
      long long t7, long long f0, long long f1, long long f2, long long f3,    \
      long long f4, long long f5, long long f6, long long f7) {                \
    const long long stride = (long long)gridDim.x * blockDim.x;                \
    const long long begin = (long long)blockIdx.x * blockDim.x + threadIdx.x;  \
    for (long long item = begin; item < items; item += stride) {               \
      long long rest = item, at = 0, out = 0;                                  \
      PR_AXIS(n7, t7, f7) PR_AXIS(n6, t6, f6) PR_AXIS(n5, t5, f5)              \
      PR_AXIS(n4, t4, f4) PR_AXIS(n3, t3, f3) PR_AXIS(n2, t2, f2)              \
      PR_AXIS(n1, t1, f1) PR_AXIS(n0, t0, f0)                                  \
      to[out] = from[at];                                                      \
    }                                                                          \
  }
#define PR_AXIS(n, t, f)                                                       \
  if (n != 1) {                                                                \
    const long long k = rest % n;                                              \
    rest /= n, out += k * t, at += k * f;                                      \
  }
PR_COPY(1, unsigned char)
PR_COPY(2, unsigned short)
PR_COPY(4, unsigned)
PR_COPY(8, unsigned long long)
