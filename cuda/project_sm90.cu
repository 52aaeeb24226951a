// project for Hopper (sm_90a): gate = rope(pooled W) by wgmma, for matrices of bf16 with 128 columns and vectors that
// pool.cu left as terms of bf16 (launch_gate.h): the maximum and the minimum of bf16 tokens are one term each, an
// average three. So it takes five products of 128 channels where project.cu, which splits f32, takes nine.
//
// A work item is a tile of rows of a head. One warp brings the matrix, one the terms, 64 channels at a time, each
// through a ring of its own; a warpgroup has 64 rows. The matrix is asked for before the kernel that pools has ended.
#include "gate_mma.cuh"
#include "launch_gate.h"
#include "sm90.cuh"

namespace seer::cuda {
namespace {

constexpr int kOut = 128;
constexpr int kWeightTile = 64 * kOut * 2;  // bytes of 64 rows of a matrix
constexpr int kQuads = kOut / 4;            // of two (cos, sin) in a row of a table of angles

// Slots that are filled and emptied in turn.
template <int kSlots>
struct Ring {
  uint64_t *full, *empty;
  int slot = 0;
  uint32_t turn = 0;
  __device__ __forceinline__ void next() {
    if (++slot == kSlots) slot = 0, turn ^= 1;
  }
  __device__ __forceinline__ void wait_full() const { sm90::barrier_wait(full + slot, turn); }
  __device__ __forceinline__ void wait_empty() const { sm90::barrier_wait(empty + slot, turn ^ 1); }
};

// Where a row of pooled vectors goes: the row of gate vectors, < 0: nowhere, and its position.
struct Place {
  int row, position;
  __device__ __forceinline__ Place(const ProjectTermsParams &p, int pooled_row) {
    ProjectSequence seq = p.only;
    if (p.sequence != nullptr)
      seq = p.sequence[find_index(p.sequence, p.sequences, pooled_row, &ProjectSequence::pooled_row)];
    const int block = pooled_row - seq.pooled_row;
    const bool inside = block >= 0 && block < seq.blocks;
    row = inside ? seq.gate_row + block : -1;
    position = inside ? seq.position + block : 0;
  }
};

// The table of fine angles in shared memory: every other row is turned by 64 bytes, so that neighbouring rows lie in
// different banks.
__device__ __forceinline__ int fine_place(int row, int quad) { return row * kQuads + (quad + 4 * row) % kQuads; }

// By kLoaders threads: the table, whole. Not by bulk copies, which would be many and in the way of the others.
constexpr int kLoaders = 64;
__device__ __forceinline__ void load_fine(float4 *to, const float *from, uint64_t *barrier, int thread) {
#pragma unroll 4
  for (int i = thread; i < 64 * kQuads; i += kLoaders)
    copy_async(smem_address(to + fine_place(i / kQuads, i % kQuads)), reinterpret_cast<const float4 *>(from) + i);
  copy_wait_all();
  sm90::barrier_arrive(barrier);
}

template <int kGroups>
constexpr int kTermSlots = term_slots(kGroups *kTermRows);

// kGroups warpgroups that multiply.
template <int kGroups>
__device__ __forceinline__ void project(const CUtensorMap &weights, const ProjectTermsParams &p) {
  constexpr int kSlots = kTermSlots<kGroups>, kTermBytes = kGroups * kTermTile;
  extern __shared__ char raw[];
  char *const term_tiles = raw + (-smem_address(raw) & 1023);
  char *const weight_tiles = term_tiles + kSlots * kTermBytes;
  float4 *const fine = reinterpret_cast<float4 *>(weight_tiles + kWeightSlots * kWeightTile);
  __shared__ uint64_t barriers[2 * (kSlots + kWeightSlots)], fine_full;
  Ring<kSlots> terms{barriers, barriers + kSlots};
  Ring<kWeightSlots> weight{barriers + 2 * kSlots, barriers + 2 * kSlots + kWeightSlots};
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      sm90::barrier_init(terms.full + i, 1);
      sm90::barrier_init(terms.empty + i, kGroups * 4);  // warps
    }
    for (int i = 0; i < kWeightSlots; ++i) {
      sm90::barrier_init(weight.full + i, 1);
      sm90::barrier_init(weight.empty + i, kGroups * 4);
    }
    sm90::barrier_init(&fine_full, kLoaders);
    sm90::barrier_init_fence();
  }
  __syncthreads();
  const int group = threadIdx.x / 128, chunks = 2 * __popc(p.bits);  // of 64 channels
  const bool average = p.bits & kPoolAvg;
  const auto terms_of = [&](int chunk) { return average && chunk >= chunks - 2 ? 3 : 1; };

  if (group == kGroups) {  // loads
    if constexpr (kGroups == 2) sm90::registers_down<40>();
    if (threadIdx.x == kGroups * 128) {
      for (int item = blockIdx.x; item < p.items; item += gridDim.x) {
        const int head = item % p.gate_heads;
        for (int chunk = 0; chunk < chunks; ++chunk, weight.next()) {
          weight.wait_empty();
          sm90::barrier_expect(weight.full + weight.slot, kWeightTile);
          char *to = weight_tiles + weight.slot * kWeightTile;
          for (int half = 0; half < 2; ++half)
            sm90::tma_load_2d(to + half * kWeightTile / 2, &weights, weight.full + weight.slot, half * 64,
                              (head * chunks + chunk) * 64);
        }
      }
    } else if (threadIdx.x >= kGroups * 128 + 64) {
      if (p.coarse != nullptr) load_fine(fine, p.fine, &fine_full, threadIdx.x - kGroups * 128 - 64);
    } else if (threadIdx.x == kGroups * 128 + 32) {
      wait_for_previous();
      const int all_terms = chunks + (average ? 4 : 0);
      for (int item = blockIdx.x; item < p.items; item += gridDim.x) {
        const int head = item % p.gate_heads * p.pooled_heads / p.gate_heads;
        const int tile = p.first_tile + item / p.gate_heads * kGroups;
        const char *from =
            static_cast<const char *>(p.terms) + (int64_t{head} * p.tiles + tile) * all_terms * kTermTile;
        const int groups = min(kGroups, p.tiles - tile);
        for (int term = 0; term < all_terms; ++term, terms.next()) {
          terms.wait_empty();
          sm90::barrier_expect(terms.full + terms.slot, groups * kTermTile);
          for (int g = 0; g < groups; ++g)
            sm90::bulk_load(term_tiles + terms.slot * kTermBytes + g * kTermTile,
                            from + (g * all_terms + term) * kTermTile, kTermTile, terms.full + terms.slot);
        }
      }
    }
    return;
  }

  if constexpr (kGroups == 2) sm90::registers_up<232>();
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  wait_for_previous();  // what is written here may still be read by a kernel ahead
  let_next_start();
  for (int item = blockIdx.x; item < p.items; item += gridDim.x) {
    const int head = item % p.gate_heads;
    const int row = (p.first_tile + item / p.gate_heads * kGroups + group) * kTermRows + warp * 16 + lane / 4;
    const Place places[2] = {{p, row}, {p, row + 8}};
    float4 coarse[8];  // of a thread's channels; asked for now, for it takes its time
    const auto load_coarse = [&](int position) {
      if (p.coarse == nullptr) return;
      const float4 *from = reinterpret_cast<const float4 *>(p.coarse) + position / 64 * int64_t{kQuads} + lane % 4;
#pragma unroll
      for (int n = 0; n < 8; ++n) coarse[n] = __ldg(from + n * 4);
    };
    load_coarse(places[0].position);
    float sum[64] = {};
    for (int chunk = 0; chunk < chunks; ++chunk, weight.next()) {
      // Tensor cores truncate as they add: only a few products at a time, which are then added by rounding.
      float part[64];
      const int count = terms_of(chunk);
      weight.wait_full();
      const uint64_t b =
          sm90::descriptor(smem_address(weight_tiles + weight.slot * kWeightTile), kWeightTile / 2, 1024);
      auto used = terms;
      for (int term = 0; term < count; ++term, used.next()) {
        used.wait_full();
        const uint64_t a =
            sm90::descriptor(smem_address(term_tiles + used.slot * kTermBytes + group * kTermTile), 16, 1024);
        sm90::wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; ++step)
          sm90::wgmma_ab(__nv_bfloat16{}, part, sm90::advance(a, step * 32), sm90::advance(b, step * 2048),
                         term | step);
        sm90::wgmma_commit();
      }
      sm90::wgmma_wait<0>();
      sm90::hold(part);
      if (lane == 0) sm90::barrier_arrive(weight.empty + weight.slot);
      for (int term = 0; term < count; ++term, terms.next())
        if (lane == 0) sm90::barrier_arrive(terms.empty + terms.slot);
#pragma unroll
      for (int i = 0; i < 64; ++i) sum[i] += part[i];
    }

    if (p.coarse != nullptr) sm90::barrier_wait(&fine_full, 0);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int position = places[side].position;
      if (side == 1 && position / 64 != places[0].position / 64) load_coarse(position);
      if (places[side].row < 0) continue;
      float *to = p.gate + (int64_t{places[side].row} * p.gate_heads + head) * kOut + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        float2 low = make_float2(sum[n * 4 + side * 2], sum[n * 4 + side * 2 + 1]);
        float2 high = make_float2(sum[n * 4 + 32 + side * 2], sum[n * 4 + 32 + side * 2 + 1]);
        if (p.coarse != nullptr) {
          const float4 u = coarse[n], v = fine[fine_place(position % 64, n * 4 + lane % 4)];
          rotate_two(u, v, low, high);
        }
        *reinterpret_cast<float2 *>(to + n * 8) = low;
        *reinterpret_cast<float2 *>(to + n * 8 + 64) = high;
      }
    }
  }
}

}  // namespace

#define SEER_PROJECT(name, kGroups)                                                                     \
  extern "C" __global__ void __launch_bounds__(project_terms_threads(kGroups *kTermRows), 1)            \
      name(const __grid_constant__ CUtensorMap weights, const __grid_constant__ ProjectTermsParams p) { \
    project<kGroups>(weights, p);                                                                       \
  }
SEER_PROJECT(project_terms_64, 1)
SEER_PROJECT(project_terms_128, 2)

}  // namespace seer::cuda
