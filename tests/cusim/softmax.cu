#define NT 128
__device__ __forceinline__ float warp_max(float v) {
    #pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
__device__ __forceinline__ float warp_sum(float v) {
    #pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
extern "C" __global__ void __launch_bounds__(NT)
softmax(const float* __restrict__ x, float* __restrict__ y, int n) {
    __shared__ float part[NT / 32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const float4* in = (const float4*)(x + (long long)blockIdx.x * n);
    float4* out = (float4*)(y + (long long)blockIdx.x * n);
    float m = -__int_as_float(0x7f800000);
    for (int i = threadIdx.x; i < n / 4; i += NT) {
        float4 v = in[i];
        m = fmaxf(fmaxf(m, fmaxf(v.x, v.y)), fmaxf(v.z, v.w));
    }
    m = warp_max(m);
    if (lane == 0) part[warp] = m;
    __syncthreads();
    m = warp_max(part[lane % (NT / 32)]);
    __syncthreads();
    float s = 0.f;
    for (int i = threadIdx.x; i < n / 4; i += NT) {
        float4 v = in[i];
        s += expf(v.x - m) + expf(v.y - m) + expf(v.z - m) + expf(v.w - m);
    }
    s = warp_sum(s);
    if (lane == 0) part[warp] = s;
    __syncthreads();
    s = warp_sum(lane < NT / 32 ? part[lane] : 0.f);
    for (int i = threadIdx.x; i < n / 4; i += NT) {
        float4 v = in[i];
        out[i] = make_float4(expf(v.x - m) / s, expf(v.y - m) / s,
                             expf(v.z - m) / s, expf(v.w - m) / s);
    }
}
