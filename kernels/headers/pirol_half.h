/* float16 and bfloat16 as 16 bits, from and to float: rounded to nearest, ties to even.
   What both targets include; a device has instructions for it. */
#ifdef __CUDA_ARCH__
PR_DEVICE float pr_widen_bf16(unsigned short a) {
  float wide;
  asm("mov.b32 %0, {%1, %2};" : "=f"(wide) : "h"((unsigned short)0), "h"(a));
  return wide;
}
PR_DEVICE float pr_widen_f16(unsigned short a) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(a));
  return wide;
}
PR_DEVICE unsigned short pr_narrow_f16(float a) {
  unsigned short half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(a));
  return half;
}
#else
PR_DEVICE float pr_widen_bf16(unsigned short a) {
  return pr_bits_i32((int)((unsigned)a << 16));
}
PR_DEVICE float pr_widen_f16(unsigned short a) {
  const int low = (a & 0x7fff) << 13, sign = (int)((unsigned)(a & 0x8000) << 16);
  const int beyond = (a & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
  return pr_bits_i32(pr_bits_f32(pr_bits_i32(low) * 0x1p112f) | beyond | sign);
}
PR_DEVICE unsigned short pr_narrow_f16(float a) {
  const int bits = pr_bits_f32(a), size = bits & 0x7fffffff;
  const int sign = (int)((unsigned)bits >> 16 & 0x8000);
  /* below 2^-14 the adder rounds: 0.5 has as its last bit a subnormal's */
  const int few = pr_bits_f32(pr_bits_i32(size) + 0.5f) - 0x3f000000;
  const int usual = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
  const int finite = size < 0x38800000 ? few : usual;
  const int beyond = size > 0x7f800000 ? 0x7e00 : 0x7c00;
  return (unsigned short)((size >= 0x47800000 ? beyond : finite) | sign);
}
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
PR_DEVICE unsigned short pr_narrow_bf16(float a) {
  unsigned short half;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(a));
  return half;
}
#else
PR_DEVICE unsigned short pr_narrow_bf16(float a) {
  const unsigned bits = (unsigned)pr_bits_f32(a);
  const unsigned near = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (unsigned short)(a != a ? bits >> 16 | 0x40 : near);
}
#endif
