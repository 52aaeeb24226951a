// The Hopper instructions that the kernels here are made of, one thin function each: mbarrier, TMA loads, wgmma,
// register reallocation. Names and operands follow the PTX manual; what a caller must know stands above each. With them
// comes all of sm80.cuh.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "sm80.cuh"

namespace seer::sm90 {

using namespace seer::sm80;

// --- mbarrier. A barrier is in phase 0 after init; wait(b, parity) returns once the phase of that parity has
// completed, which it takes for granted when the current phase has the other parity: a waiter must know that it is at
// most one phase away.

__device__ __forceinline__ void barrier_init(uint64_t *b, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(b)), "r"(count));
}
// Makes barrier_init visible to TMA; before the __syncthreads that lets others use the barriers.
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;"); }
__device__ __forceinline__ void barrier_arrive(uint64_t *b, uint32_t count = 1) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(b)), "r"(count) : "memory");
}
// One arrival, and `bytes` that TMA will bring, before the phase completes.
__device__ __forceinline__ void barrier_expect(uint64_t *b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(b)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra.uni done;\nbra.uni again;\ndone:\n}" ::"r"(smem_address(b)),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ bool barrier_try(uint64_t *b, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(smem_address(b)), "r"(parity)
               : "memory");
  return done;
}

// --- TMA. Cache policies are those that createpolicy makes for a fraction of 1.

constexpr uint64_t kEvictFirst = 0x12F0000000000000ull;
constexpr uint64_t kEvictLast = 0x14F0000000000000ull;

__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ __forceinline__ void tma_load_5d(void *smem, const CUtensorMap *map, uint64_t *barrier, uint64_t policy,
                                            int c0, int c1, int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(smem_address(smem)),
      "l"(map), "r"(smem_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void tma_prefetch_5d(const CUtensorMap *map, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global.tile [%0, {%1, %2, %3, %4, %5}];" ::"l"(map), "r"(c0),
               "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}
// A box of two dimensions.
__device__ __forceinline__ void tma_load_2d(void *smem, const CUtensorMap *map, uint64_t *barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(smem_address(smem)),
      "l"(map), "r"(smem_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}
// Bytes as they lie, a multiple of 16.
__device__ __forceinline__ void bulk_load(void *smem, const void *from, uint32_t bytes, uint64_t *barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   smem_address(smem)),
               "l"(from), "r"(bytes), "r"(smem_address(barrier))
               : "memory");
}

// Shared memory written by ordinary stores, then read by wgmma or TMA: in each writing thread, before the barrier.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- Clusters of blocks of threads

__device__ __forceinline__ int cluster_size() {
  int n;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
  return n;
}
__device__ __forceinline__ int cluster_rank() {
  int n;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(n));
  return n;
}
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// Where block `rank` of the cluster has what this one has at `address`.
__device__ __forceinline__ uint32_t address_in(uint32_t address, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
// Stores 8 bytes in a block of the cluster; its barrier counts them.
__device__ __forceinline__ void send(uint32_t to, uint32_t barrier, float x, float y) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to), "f"(x),
               "f"(y), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void barrier_wait_cluster(uint64_t *barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
      "@p bra.uni done;\nbra.uni again;\ndone:\n}" ::"r"(smem_address(barrier)),
      "r"(parity)
      : "memory");
}

// --- Register reallocation: by all warps of a warpgroup, one branch of the role split each.

template <int kRegisters>
__device__ __forceinline__ void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- wgmma. All four warps of a warpgroup issue the same ones in the same order.

// Shared memory operand with 128-byte swizzle. Tiles are [column half][row][64 elements], as a TMA box of 64 columns
// writes them. K-major (Q, K): lbo unused, sbo = 8 rows = 1024 bytes. MN-major (V, transposed): lbo = bytes from one 64
// columns to the next, sbo = 8 rows.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t lbo, uint32_t sbo) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(lbo >> 4) << 16 |
         static_cast<uint64_t>(sbo >> 4) << 32 | 1ull << 62;
}
// The operand `bytes` further on.
__device__ __forceinline__ uint64_t advance(uint64_t descriptor, uint32_t bytes) {
  return (descriptor & ~0ull << 32) | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}
// Before the first wgmma after registers that it reads or accumulates in were written.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler does not know that wgmma writes its accumulators late. Holding them on both sides of the wait keeps it
// from moving reads above the wait, or writes below the issue.
template <int kCount>
__device__ __forceinline__ void hold(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define SEER_F8(d, i)                                                                                         \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define SEER_F32(d) SEER_F8(d, 0), SEER_F8(d, 8), SEER_F8(d, 16), SEER_F8(d, 24)
#define SEER_F64(d) SEER_F32(d), SEER_F8(d, 32), SEER_F8(d, 40), SEER_F8(d, 48), SEER_F8(d, 56)
#define SEER_R32                                                                                                       \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30," \
  "%31"
#define SEER_R64                                                                                                  \
  SEER_R32                                                                                                        \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58," \
  "%59,%60,%61,%62,%63"

// The element types that wgmma multiplies here. For each: S = A B^T with 64 columns (both operands K-major in shared
// memory), and D += P V with V transposed and P in registers, for 64 and 128 columns.
#define SEER_WGMMA(Type, kind)                                                                             \
  __device__ __forceinline__ void wgmma_abt(Type, float(&d)[32], uint64_t a, uint64_t b, int accumulate) { \
    asm volatile(                                                                                          \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                       \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." kind "." kind " {" SEER_R32                          \
        "}, %32, %33, p, 1, 1, 0, "                                                                        \
        "0;\n}"                                                                                            \
        : SEER_F32(d)                                                                                      \
        : "l"(a), "l"(b), "r"(accumulate));                                                                \
  }                                                                                                        \
  __device__ __forceinline__ void wgmma_pv(Type, float(&d)[32], const uint32_t *p, uint64_t v) {           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." kind "." kind " {" SEER_R32                 \
                 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"                                                  \
                 : SEER_F32(d)                                                                             \
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));                                    \
  }                                                                                                        \
  __device__ __forceinline__ void wgmma_pv(Type, float(&d)[64], const uint32_t *p, uint64_t v) {           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." kind "." kind " {" SEER_R64                \
                 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"                                                  \
                 : SEER_F64(d)                                                                             \
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));                                    \
  }

SEER_WGMMA(__nv_bfloat16, "bf16")
SEER_WGMMA(__half, "f16")
#undef SEER_WGMMA

// For the gate, of 128 columns: D = A B^T with A in registers, D = A B with B MN-major; both add to D if `accumulate`.
__device__ __forceinline__ void wgmma_abt(__nv_bfloat16, float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                          int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SEER_R64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 0;\n}"
      : SEER_F64(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
}
__device__ __forceinline__ void wgmma_ab(__nv_bfloat16, float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SEER_R64 "}, %64, %65, p, 1, 1, 0, 1;\n}"
      : SEER_F64(d)
      : "l"(a), "l"(b), "r"(accumulate));
}

#undef SEER_R64
#undef SEER_R32
#undef SEER_F64
#undef SEER_F32
#undef SEER_F8

// --- Arithmetic

__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace seer::sm90
