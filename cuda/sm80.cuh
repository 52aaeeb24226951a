// The instructions of Ampere and later that kernels are made of, one thin function each: asynchronous copies into
// shared memory, ldmatrix, mma, arithmetic. What Hopper alone has is in sm90.cuh, which includes this.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace seer::sm80 {

// --- Shared memory

__device__ __forceinline__ uint32_t smem_address(const void *p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
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

// 16 bytes, past L1.
__device__ __forceinline__ void copy_async(uint32_t smem, const void *global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem), "l"(global) : "memory");
}
// Zeros, and nothing read, unless `valid`.
__device__ __forceinline__ void copy_async(uint32_t smem, const void *global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
// The same, with what lies beside it asked for as well; nothing at all unless `issue`.
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
__device__ __forceinline__ void copy_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

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

// --- Launches

// Programmatic dependent launch (sm_90 on; nothing elsewhere or where the launch did not ask for it). A kernel waits
// before it touches what an earlier one wrote or reads, in every block of threads: so the wait of the next covers all
// before it.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// --- Arithmetic

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
// Rounded to nearest.
__device__ __forceinline__ void narrow(float x, float &y) { y = x; }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16 &y) { y = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, __half &y) { y = __float2half_rn(x); }

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two floats rounded to nearest, `low` in the lower half.
__device__ __forceinline__ uint32_t pack(__nv_bfloat16, float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ uint32_t pack(__half, float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// What pack() packs.
__device__ __forceinline__ float2 unpack(__nv_bfloat16, uint32_t x) {
  return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}
__device__ __forceinline__ float2 unpack(__half, uint32_t x) {
  return __half22float2(*reinterpret_cast<const __half2 *>(&x));
}
// Its lower half.
__device__ __forceinline__ float unpack_low(__nv_bfloat16, uint32_t x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float unpack_low(__half, uint32_t x) {
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

}  // namespace seer::sm80
