#define KERNEL(name) extern "C" __global__ void name(const float* x, float* y, int n)
#define T (int)threadIdx.x
#define I (int)(blockIdx.x * blockDim.x + threadIdx.x)

KERNEL(oob_write) { if (I <= n) y[I] = x[I < n ? I : 0]; }
KERNEL(oob_read4) {
    float4 v = ((const float4*)x)[I + 1];
    if (I * 4 < n) y[I] = v.x + v.y + v.z + v.w;
}
KERNEL(oob_before) { y[I] = x[I - 1]; }
KERNEL(oob_array) {
    __shared__ float s[32];
    for (int i = T; i < n; i += 32) s[i & 63] = x[i];
    y[T] = s[T];
}
KERNEL(oob_global) {
    static float counter[4];
    counter[T & 3] = 1.f;
    y[I] = counter[T & 3];
}
KERNEL(misaligned) {
    float4 v = *(const float4*)(x + 4 * T + 1 - (T == 63));
    y[T] = v.x + v.w;
}
KERNEL(no_barrier) {
    __shared__ float s[256];
    s[T] = x[T];
    y[T] = s[255 - T];
}
KERNEL(no_second_barrier) {
    __shared__ float s[256];
    s[T] = x[T];
    __syncthreads();
    float v = s[T ? T - 1 : 0];
    s[T] = v;
    __syncthreads();
    y[T] = s[T];
}
KERNEL(no_warp_barrier) {  // a shuffle does not order memory
    __shared__ float s[32];
    s[T] = x[T];
    float v = __shfl_xor_sync(0xffffffffu, x[T], 1);
    y[T] = s[T ^ 1] + v;
}
KERNEL(many_readers) {
    __shared__ float s[1];
    if (T == 0) s[0] = x[0];
    __syncthreads();
    float v = s[0];
    if (T == 0) s[0] = 0.f;
    y[T] = v;
}
KERNEL(uninitialised_shared) {
    __shared__ float s[256];
    if (T < 128) s[T] = x[T];
    __syncthreads();
    y[T] = s[T];
}
KERNEL(uninitialised_output) { y[I] += x[I]; }
KERNEL(unwritten) { if (I < n - 3) y[I] = x[I]; }
KERNEL(divergent) {
    if (T < 100) {
        __syncthreads();
        y[T] = x[T];
    } else {
        __syncthreads();
        y[T] = 0.f;
    }
}
KERNEL(exit_late) {
    y[T] = 0.f;
    if (T >= 200) return;
    __syncthreads();
    y[T] = x[T];
}
KERNEL(exit_early) {
    y[T] = 0.f;
    if (T < 56) return;
    __syncthreads();
    y[T] = x[T];
}
KERNEL(block_race) { y[T] = x[T] + blockIdx.x; }
KERNEL(block_read_race) {
    float v = 0.f;
    if (blockIdx.x == 0) y[T] = x[T];
    else v = y[T];
    y[blockDim.x * (1 + blockIdx.x) + T] = v;
}
KERNEL(block_atomic_race) {
    if (T == 0) y[0] = 0.f;
    __syncthreads();
    atomicAdd(y, x[T]);
}
KERNEL(absent_lanes) {
    float v = x[T];
    if ((T & 31) < 16) v += __shfl_down_sync(0xffffffffu, v, 8);
    y[T] = v;
}
KERNEL(exited_lanes) {
    y[T] = 0.f;
    if ((T & 31) < 16) return;
    y[T] = __shfl_xor_sync(0xffffffffu, x[T], 1);
}
KERNEL(inactive_source) {
    y[T] = 0.f;
    if ((T & 31) < 16) y[T] = __shfl_sync(0x0000ffffu, x[T], 20);
}
KERNEL(not_in_mask) { y[T] = __shfl_xor_sync(0x0000ffffu, x[T], 1); }
KERNEL(divergent_warp) {
    if (T & 1) y[T] = __shfl_xor_sync(0xffffffffu, x[T], 1);
    else y[T] = __shfl_xor_sync(0xffffffffu, x[T], 2);
}
KERNEL(write_read_only) { ((float*)x)[T] = 1.f; y[T] = 2.f; }
__constant__ float table[2] = {1.f, 2.f};
KERNEL(write_constant) { table[T & 1] = x[T]; }
KERNEL(division_by_zero) { y[I] = (float)(n / (n - 256)); }
