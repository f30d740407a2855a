typedef long long int64_t;
typedef unsigned char uint8_t;
__constant__ float scale[2] = {2.f, 3.f};
__device__ const float shift[2] = {1.f, -1.f};

extern "C" __global__ void add(const float* x, float* y, int64_t n) {
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + 1.f;
}
extern "C" __global__ void __launch_bounds__(64) tables(float* y) {
    y[threadIdx.x] = scale[threadIdx.x & 1] + shift[threadIdx.x & 1];
}
extern "C" __global__ void dynamic_sum(const float* x, float* y, int n) {
    extern __shared__ __align__(16) float s[];
    int t = threadIdx.x;
    float a = 0.f;
    for (int i = t; i < n; i += blockDim.x) a += x[i];
    s[t] = a;
    __syncthreads();
    for (int o = blockDim.x / 2; o > 0; o >>= 1) {
        if (t < o) s[t] += s[t + o];
        __syncthreads();
    }
    if (t == 0) atomicAdd(y, s[0]);
}
extern "C" __global__ void warp_exchange(const float* x, float* y) {
    __shared__ float s[32];
    int t = threadIdx.x;
    s[t] = x[t];
    __syncwarp();
    float v = s[t ^ 1];
    __syncwarp();
    s[t] = v;
    y[t] = s[t];
}
extern "C" __global__ void halves(const float* x, float* y) {  // two masks at a time
    int t = threadIdx.x;
    if (t < 16) y[t] = __shfl_xor_sync(0x0000ffffu, x[t], 15);
    else y[t] = __shfl_xor_sync(0xffff0000u, x[t], 15);
}
#define SHUFFLE(T, name)                                                   \
    extern "C" __global__ void shuffle_##name(const T* x, T* y) {          \
        int t = blockIdx.x * blockDim.x + threadIdx.x;                     \
        T v = __shfl_xor_sync(0xffffffffu, x[t], 4);                       \
        y[t] = (T)__shfl_down_sync(0xffffffffu, v, 3);                     \
    }
SHUFFLE(float, float32)
SHUFFLE(double, float64)
SHUFFLE(int, int32)
SHUFFLE(long long, int64)
SHUFFLE(bool, bool)
SHUFFLE(signed char, int8)
SHUFFLE(uint8_t, uint8)
extern "C" __global__ void functions(const double* x, double* y, bool negate) {
    int i = threadIdx.x;
    float f = (float)x[i];
    double s = erff(f) + tanhf(f) + expf(f) + exp(x[i]) + erf(x[i]) + exp(f)
        + rsqrtf(f) + fmaxf(f, 1.f) + max(f, 2.0) + min(3LL, 4LL) + fabs(f)
        + __int_as_float(__float_as_int(f))
        + __longlong_as_double(__double_as_longlong(x[i])) + f * f + f;
    y[i] = negate ? -s : s;
}
extern "C" __global__ void where_am_i(int* y) {
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned i = block * blockDim.x * blockDim.y * blockDim.z + t;
    y[i] = i;
}
