// What the tensor-core kernels of the gate share: matrix fragments from shared memory, products, the launch of the next
// kernel while this one still runs. All of it exists from sm_80 on.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "launch_gate.h"

namespace seer::cuda {

__device__ __forceinline__ uint32_t shared_address(const void *p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c += a b, 16 x 16 times 16 x 8. Lane l has c of row l / 4 (0, 1) and l / 4 + 8 (2, 3), columns l % 4 * 2 and the
// next.
__device__ __forceinline__ void multiply_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A pair of values as kCount pairs of bf16. What is not finite has no second term.
template <int kCount>
__device__ __forceinline__ void split(float a, float b, uint32_t (&term)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const __nv_bfloat162 t = __floats2bfloat162_rn(a, b);
    term[i] = reinterpret_cast<const uint32_t &>(t);
    const float2 back = __bfloat1622float2(t);
    a = fabsf(back.x) <= 3.3e38f ? a - back.x : 0.f;
    b = fabsf(back.y) <= 3.3e38f ? b - back.y : 0.f;
  }
}

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

// The last sequence whose first item is not behind `item`.
template <class Sequence>
__device__ __forceinline__ Sequence find_sequence(const Sequence *table, const Sequence &only, int sequences,
                                                  int item) {
  if (table == nullptr) return only;
  int low = 0, high = sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) >> 1;
    if (table[middle].first_item <= item)
      low = middle;
    else
      high = middle - 1;
  }
  return table[low];
}

// Key blocks that block row r sees; see causal_blocks in src/block_mask.h.
__device__ __forceinline__ int causal_blocks(const GateSequence &s, int r, int block) {
  return (s.offset + min((r + 1) * block, s.q_len) + block - 1) / block;
}

}  // namespace seer::cuda
