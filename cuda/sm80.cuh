// The instructions of Ampere and later that the attend kernel for them is made of, one thin function each: asynchronous
// copies into shared memory, ldmatrix, mma.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace seer::sm80 {

__device__ __forceinline__ uint32_t smem_address(const void *p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes, past L1; zeros, and nothing read, unless `valid`; nothing at all unless `issue`.
__device__ __forceinline__ void copy_async(bool issue, uint32_t smem, const void *global, bool valid) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %3, 0;\n@p cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n}" ::"r"(
          smem),
      "l"(global), "r"(valid ? 16 : 0), "r"(static_cast<uint32_t>(issue))
      : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's copies but those of the last kPending groups.
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(smem)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&x)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(smem)
               : "memory");
}

// D += A B: A 16x16 (row g = lane / 4 and g + 8 in words 0, 1; the second eight columns in words 2, 3), B 16x8, D 16x8
// (columns 2 (lane % 4) + {0, 1} of row g in words 0, 1, of row g + 8 in words 2, 3).
__device__ __forceinline__ void mma(__nv_bfloat16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma(__half, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack(__nv_bfloat16, float low, float high) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&x);
}
__device__ __forceinline__ uint32_t pack(__half, float low, float high) {
  const __half2 x = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&x);
}

// The lower 16 bits.
__device__ __forceinline__ float unpack(__nv_bfloat16, uint32_t x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float unpack(__half, uint32_t x) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(x)));
}
// Not 0 if one of two values is infinite or no number.
__device__ __forceinline__ uint32_t not_finite(__nv_bfloat16, uint32_t x) {
  return ((x & 0x7f807f80u) + 0x00800080u) & 0x80008000u;
}
__device__ __forceinline__ uint32_t not_finite(__half, uint32_t x) {
  return ((x & 0x7c007c00u) + 0x04000400u) & 0x80008000u;
}

// x = y if `so`. What the compiler must not turn into an index, which would put an array of registers into memory.
__device__ __forceinline__ void choose(uint32_t &x, bool so, uint32_t y) {
  asm("{\n.reg .pred p;\nsetp.ne.u32 p, %1, 0;\n@p mov.b32 %0, %2;\n}"
      : "+r"(x)
      : "r"(static_cast<uint32_t>(so)), "r"(y));
}

__device__ __forceinline__ void store_word(uint32_t smem, uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(smem), "r"(x) : "memory");
}
__device__ __forceinline__ uint32_t load_word(uint32_t smem) {
  uint32_t x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(smem) : "memory");
  return x;
}
__device__ __forceinline__ void load_words(uint32_t (&x)[4], uint32_t smem) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(smem)
               : "memory");
}
__device__ __forceinline__ void store_words(uint32_t smem, const uint32_t (&x)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(smem), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace seer::sm80
