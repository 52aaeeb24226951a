// attend on Hopper: block-sparse causal attention, forward. src/cuda/attend.cpp plans its launches;
// bench/cuda_attend.py tests and times it without the library.
//
// Sixty-four query rows of one head are a row group. A work item is kGroups row groups that read the same KV head. A
// persistent block of threads takes items from a counter and works on one with
//   warpgroup 0       warps 0, 1: load K and V tiles into two rings, in the order of the UNION of the groups' masks
//                     warp 2: takes the next item and stages its masks in shared memory
//                     warp 3: loads Q
//   warpgroups 1..    a row group each: RoPE on Q, S = Q K^T, online softmax, O += P V, over the tiles that its mask
//                     keeps
// so that a tile that several groups keep is loaded once. Tiles have numbers, slots, that count all tiles of all items
// of a block of threads; slot n of a ring of m stages is in stage n % m.
//
// The last rows of a head, which often keep everything, may be walked in several parts by as many blocks of threads:
// each an item with some of the tiles. The group that comes last to the end of its part adds them up (gather).
//
// Rows see exactly what the masks let them see, as they do in the other kernels: attend_sm90_seen.cuh.
//
// Rules that keep the rings alive (breaking each gave a hang or wrong numbers):
//   A  A group that holds V of one tile while it waits for K of its next must let the loads get there: the next tile
//      may be at most kReach slots ahead, kReach <= stages of K + stages of V. Otherwise it gives V back first.
//   B  A group arrives only on tiles it keeps; for the others the load warp arrives in its place when it fills a stage.
//   C  No barrier among the groups: their lists differ in length.
//   D  A group that skips slots may be turns of the ring ahead of the loads, where a parity says nothing. Full barriers
//      therefore number kBarriers, more than there are stages, and before a leap further than they can tell apart a
//      group waits for the loads' count.
#include <cstddef>

#include "attend_sm90_load.cuh"
#include "attend_sm90_math.cuh"
#include "attend_sm90_rotate.cuh"
#include "attend_sm90_seen.cuh"

namespace seer::cuda {
namespace {

// All threads of a group.
__device__ __forceinline__ void sync_group(int g) { asm volatile("bar.sync %0, 128;" ::"r"(1 + g) : "memory"); }

// Output straight from registers, 16 bytes a thread: any strides, any tail, and Q's buffer is free for the next rows.
template <class C>
__device__ __forceinline__ void store_rows(const AttendParams &p, const Item<C::kGroups> &item, int g,
                                           const float (&o)[C::kDim / 2], const Softmax &softmax, int thread) {
  using Type = typename C::Type;
  const int lane = thread & 31;
  const int row = item.group[g].row * kRows + thread / 32 * 16 + (lane >> 2);
  const int64_t token = int64_t{item.q_begin} + row;
  const int64_t batch = item.batch, head = item.group[g].head;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool inside = row + 8 * r < item.q_len;
    float sum = softmax.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float factor = sum > 0.f ? reciprocal_approx(sum) : 0.f;
    Type *out = static_cast<Type *>(p.out) + batch * p.out_batch + head * p.out_head + (token + 8 * r) * p.out_token +
                (lane & 3) * 8;
#pragma unroll
    for (int c = 0; c < C::kDim / 32; ++c) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        w[i] = pack(Type{}, o[16 * c + 4 * i + 2 * r] * factor, o[16 * c + 4 * i + 2 * r + 1] * factor);
      transpose_quad(w, lane);
      if (inside) __stcs(reinterpret_cast<uint4 *>(out + 32 * c), make_uint4(w[0], w[1], w[2], w[3]));
    }
    if (p.lse != nullptr && inside && (lane & 3) == 0)
      p.lse[batch * p.lse_batch + head * p.lse_head + (token + 8 * r) * p.lse_token] =
          sum > 0.f    ? (softmax.base[r] + log2_approx(sum)) * kLn2
          : sum == 0.f ? -INFINITY
                       : sum;  // NaN stays
  }
}

// A group's part of an item is done: what it has made of its rows goes to memory. True where it was the last one, which
// then has all of them, added up in their order.
template <class C>
__device__ __forceinline__ bool gather(Shared<C> &sm, const AttendParams &p, const Item<C::kGroups> &item, int g,
                                       float (&o)[C::kDim / 2], Softmax &softmax, int thread) {
  constexpr int kFloats = kAttendPartial[C::kDim == 128];
  const int group = item.split * C::kGroups + g;
  float *all = p.partial + int64_t{group} * p.split * kFloats + thread, *own = all + item.part * kFloats;
#pragma unroll
  for (int i = 0; i < C::kDim / 2; ++i) __stcg(own + i * kThreads, o[i]);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    __stcg(own + (C::kDim / 2 + r) * kThreads, softmax.base[r]);
    __stcg(own + (C::kDim / 2 + 2 + r) * kThreads, softmax.sum[r]);
  }
  __threadfence();
  sync_group(g);
  if (thread == 0) {
    const bool last = atomicAdd(p.counter + 2 + group, 1u) == item.parts - 1;
    if (last) p.counter[2 + group] = 0;
    sm.last[g] = last;
  }
  sync_group(g);
  if (sm.last[g] == 0) return false;
  __threadfence();
#pragma unroll
  for (int i = 0; i < C::kDim / 2; ++i) o[i] = 0.f;
  softmax = {{kLowest, kLowest}, {0.f, 0.f}};
#pragma unroll 1
  for (int part = 0; part < item.parts; ++part, all += kFloats) {
    float before[2], now[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float base = __ldcg(all + (C::kDim / 2 + r) * kThreads);
      const float high = fmaxf(softmax.base[r], base);
      before[r] = exp2_approx(softmax.base[r] - high);
      now[r] = exp2_approx(base - high);
      softmax.base[r] = high;
      softmax.sum[r] = softmax.sum[r] * before[r] + __ldcg(all + (C::kDim / 2 + 2 + r) * kThreads) * now[r];
    }
#pragma unroll
    for (int i = 0; i < C::kDim / 2; ++i)
      o[i] = o[i] * before[i >> 1 & 1] + __ldcg(all + i * kThreads) * now[i >> 1 & 1];
  }
  return true;
}

template <class C>
struct Consumer {
  Shared<C> &sm;
  const AttendParams &p;
  const int g;
  const bool first_lane;

  // Rule D. `gap`: slots since the last tile whose V this group has waited for; that much is proof of where the
  // producer is.
  __device__ __forceinline__ void leap(uint32_t slot, uint32_t gap) const {
    if (gap < kBarriers - C::kStages) return;
    const uint32_t enough = slot - kBarriers + C::kStages;
    bool passed = true;
    do {
      if (first_lane)
        passed = static_cast<int32_t>(atomicAdd(&sm.k_progress, 0) - enough) > 0 &&
                 static_cast<int32_t>(atomicAdd(&sm.v_progress, 0) - enough) > 0;
    } while (!__all_sync(~0u, passed));
  }
  __device__ __forceinline__ void wait_k(uint32_t slot) const {
    barrier_wait(&sm.k_full[slot % kBarriers], slot / kBarriers & 1);
  }
  __device__ __forceinline__ void wait_v(uint32_t slot) const {
    barrier_wait(&sm.v_full[slot % kBarriers], slot / kBarriers & 1);
  }
  __device__ __forceinline__ void wait_v_and_k(uint32_t v, uint32_t k) const {
    const bool v_done = barrier_try(&sm.v_full[v % kBarriers], v / kBarriers & 1);
    const bool k_done = barrier_try(&sm.k_full[k % kBarriers], k / kBarriers & 1);
    if (!v_done) wait_v(v);
    if (!k_done) wait_k(k);
  }
  __device__ __forceinline__ void release(uint64_t *empty) const {
    if (first_lane) barrier_arrive(empty);
  }
  __device__ __forceinline__ void release_k(uint32_t slot) const { release(&sm.k_empty[slot % C::kKStages]); }
  __device__ __forceinline__ void release_v(uint32_t slot) const { release(&sm.v_empty[slot % C::kVStages]); }

  __device__ __forceinline__ void start_qk(float (&s)[32], uint32_t slot) const {
    hold(s);
    wgmma_fence();
    issue_qk<C>(s, smem_address(sm.q[g]), smem_address(sm.k[0]) + slot % C::kKStages * C::kTileBytes);
    wgmma_commit();
  }
  __device__ __forceinline__ void start_pv(float (&o)[C::kDim / 2], const uint32_t (&probs)[16], uint32_t slot) const {
    hold(o);
    wgmma_fence();
    issue_pv<C>(o, probs, smem_address(sm.v[0]) + slot % C::kVStages * C::kTileBytes);
    wgmma_commit();
  }
  // What is ahead of a row's position, in the tiles that may hold such keys.
  __device__ __forceinline__ void mask(float (&s)[32], const Item<C::kGroups> &item, int block, int thread) const {
    if (block >= item.group[g].masked)
      mask_causal(s, block * kRows - item.offset - item.group[g].row * kRows, thread / 32 * 16 + (thread >> 2 & 7),
                  thread & 31);
  }

  // Rows of V past the sequence's end may hold anything: 0 * NaN must not reach the output. Groups that share the tile
  // write the same zeros.
  __device__ __forceinline__ void clear_v_tail(uint32_t slot, int keys, int thread) const {
    uint4 *tile = reinterpret_cast<uint4 *>(sm.v[slot % C::kVStages]);
    for (int i = thread; i < kRows * C::kDim / 8; i += kThreads)
      if (i / 8 % kRows >= keys) tile[i] = make_uint4(0, 0, 0, 0);  // swizzling moves words within a row
    fence_async_proxy();
    sync_group(g);
  }

  // O += P V of a tile that the causal mask cuts and whose V holds, or may hold, what is not finite.
  __device__ __forceinline__ void add_seen_only(float (&o)[C::kDim / 2], const uint32_t (&probs)[16],
                                                const Item<C::kGroups> &item, Tile tile, int thread) const {
    add_seen<C>(o, probs, sm.v[tile.slot % C::kVStages], tile.block * kRows - item.offset - item.group[g].row * kRows,
                thread / 32 * 16 + (thread >> 2 & 7), thread & 31);
  }
  // O is the product of a row's first tile, which the mask cuts: if it has met what is not finite, it is made anew.
  __device__ __forceinline__ void mend_first(float (&o)[C::kDim / 2], const uint32_t (&probs)[16],
                                             const Item<C::kGroups> &item, Tile tile, int thread) const {
    if (!tainted<C>(o)) return;
#pragma unroll
    for (int i = 0; i < C::kDim / 2; ++i) o[i] = 0.f;
    add_seen_only(o, probs, item, tile, thread);
  }
  // O += P V of a tile, with nothing but `beside` beside it. `first`: of the row's first tile.
  template <class Beside>
  __device__ __forceinline__ void add_values(float (&o)[C::kDim / 2], const uint32_t (&probs)[16],
                                             const Item<C::kGroups> &item, Tile tile, uint32_t first, int thread,
                                             Beside beside) const {
    const bool cut = tile.block >= item.group[g].masked;
    wait_v(tile.slot);
    if (cut && tile.slot != first && poisoned<C>(sm.v[tile.slot % C::kVStages], thread & 31)) {
      beside();
      add_seen_only(o, probs, item, tile, thread);
    } else {
      start_pv(o, probs, tile.slot);
      beside();
      wgmma_wait<0>();
      hold(o);
      if (cut && tile.slot == first) mend_first(o, probs, item, tile, thread);
    }
    release_v(tile.slot);
  }

  // S of a tile has been computed: K is free, and after a row's last tile Q is.
  __device__ __forceinline__ void release_operands(uint32_t slot, int left) const {
    release_k(slot);
    if (left == 1) release(&sm.q_empty[g]);
  }

  // The tiles of one row group, at least one. S of the next tile is issued before P V of this one, so that the tensor
  // cores have work while this group computes a softmax. `last_slot`: the last tile before these whose V this group has
  // waited for; the last of these on return. `thread` is within the warpgroup.
  __device__ __forceinline__ void tiles(const Item<C::kGroups> &item, Walk walk, float (&o)[C::kDim / 2],
                                        Softmax &softmax, uint32_t &last_slot, int thread) const {
    float s[32], factor[2];
    uint32_t probs[16], fresh[16];
    const uint32_t zero = p.heads >> 31;  // but ptxas cannot know
    Tile tile{item.words * 32, static_cast<uint32_t>(item.first_slot) - 1};
    walk.peek(tile);
    tile = walk.next(tile);
    leap(tile.slot, tile.slot - last_slot);
    int left = item.group[g].tiles;  // from `tile` on
    const int masked = item.group[g].masked;
    const uint32_t first = tile.slot;
    walk.peek(tile);
    wait_k(tile.slot);
    start_qk(s, tile.slot);
    Tile next = tile;
    if (left > 1) next = walk.next(tile);
    wgmma_wait<0>();
    hold(s);
    release_operands(tile.slot, left);
    mask(s, item, tile.block, thread);
    softmax.step(s, p.scale_log2, factor);
    round_probs<C>(s, probs);
    if (tile.block == item.tail_block) {
      wait_v(tile.slot);
      clear_v_tail(tile.slot, item.tail_keys, thread);
    }
    while (--left > 0) {
      bool moved;
      Tile after = next;
      walk.peek(next);
      const bool cut = tile.block >= masked;
      if (next.slot - tile.slot <= C::kReach && next.block < masked && (!cut || tile.slot == first)) {  // rule A
        wait_v_and_k(tile.slot, next.slot);
        hold(o);
        start_qk(s, next.slot);
        start_pv(o, probs, tile.slot);
        if (left > 1) after = walk.next(next);
        wgmma_wait<1>();
        hold(s);
        release_operands(next.slot, left);
        moved = false;
        if (!softmax.template step_as_is<C>(s, p.scale_log2, fresh)) {
          moved = softmax.step(s, p.scale_log2, factor);
          round_probs<C>(s, fresh);
        }
        wgmma_wait<0>();
        hold(o);
        if (cut) mend_first(o, probs, item, tile, thread);
        release_v(tile.slot);
        // P V has read `probs` until now. ptxas would merge what it sees to be a copy, and then serialise wgmma
        // (C7513).
#pragma unroll
        for (int i = 0; i < 16; ++i) probs[i] = fresh[i] ^ zero;
      } else {
        add_values(o, probs, item, tile, first, thread, [&] {
          if (left > 1) after = walk.next(next);
        });
        leap(next.slot, next.slot - tile.slot);
        wait_k(next.slot);
        start_qk(s, next.slot);
        wgmma_wait<0>();
        hold(s);
        release_operands(next.slot, left);
        mask(s, item, next.block, thread);
        moved = softmax.step(s, p.scale_log2, factor);
        round_probs<C>(s, probs);
      }
      if (moved) scale_rows<C>(o, factor);
      tile = next;
      next = after;
    }
    add_values(o, probs, item, tile, first, thread, [] {});
    last_slot = __shfl_sync(~0u, tile.slot, 0);  // the same in all lanes already, but see run()
  }

  // What decides about branches here must be visibly the same for all lanes of a warp. Where ptxas cannot prove it, it
  // keeps list positions, descriptors and barrier addresses out of the uniform registers everywhere in the loop, which
  // costs about 10 % of the kernel's speed. compile.py looks for it in the machine code.
  __device__ __forceinline__ void run(int thread) const {
    uint32_t last_slot = ~0u;
    RotateQ<C> rotation;
    next_item(rotation, 0, thread);
    for (int it = 0;; ++it) {
      const int b = it & 1;
      const Item<C::kGroups> &item = sm.item[b];
      if (item.batch < 0) return;
      barrier_wait(&sm.q_full[g], it & 1);
      if (p.coarse != nullptr && item.group[g].tiles > 0) {
        rotation.apply(sm.q[g], thread);
        sync_group(g);
      }
      float o[C::kDim / 2];
#pragma unroll
      for (int i = 0; i < C::kDim / 2; ++i) o[i] = 0.f;
      Softmax softmax{{kLowest, kLowest}, {0.f, 0.f}};
      if (item.group[g].tiles > 0) {
        const Walk walk{list<C>(sm, p.list_words, b, g), list<C>(sm, p.list_words, b, C::kGroups), 0, 0};
        tiles(item, walk, o, softmax, last_slot, thread);
      } else {
        release(&sm.q_empty[g]);
      }
      next_item(rotation, it + 1, thread);
      if (item.group[g].row >= 0 && (item.parts == 1 || gather<C>(sm, p, item, g, o, softmax, thread)))
        store_rows<C>(p, item, g, o, softmax, thread);
      __syncwarp();                                                // all lanes have read the item
      if ((thread & 31) == 31) barrier_arrive(&sm.item_empty[b]);  // racecheck knows of the last lane's reads alone
    }
  }

  // Waits for an item; the angles of its rows are asked for.
  __device__ __forceinline__ void next_item(RotateQ<C> &rotation, int it, int thread) const {
    barrier_wait(&sm.item_full[it & 1], it >> 1 & 1);
    const Item<C::kGroups> &item = sm.item[it & 1];
    rotation = {};  // nothing of the last one need be kept
    if (p.coarse != nullptr && item.batch >= 0)
      rotation.load(p, item.offset + item.group[g].row * kRows, item.offset + item.q_len - 1, thread);
  }
};

template <class C>
__device__ __forceinline__ void attend(const CUtensorMap &q_map, const CUtensorMap &k_map, const CUtensorMap &v_map,
                                       const AttendParams &p) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared<C> &sm = *reinterpret_cast<Shared<C> *>(raw);
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / kThreads, 0);
  const int warp = __shfl_sync(~0u, threadIdx.x / 32 % 4, 0), lane = threadIdx.x & 31;
  uint64_t clock = 0, time = 0;
  if (threadIdx.x == 0) {
    tma_prefetch_map(&q_map);
    tma_prefetch_map(&k_map);
    tma_prefetch_map(&v_map);
    for (int i = 0; i < kBarriers; ++i) barrier_init(&sm.k_full[i], 1), barrier_init(&sm.v_full[i], 1);
    for (int i = 0; i < C::kKStages; ++i) barrier_init(&sm.k_empty[i], 4 * C::kGroups);
    for (int i = 0; i < C::kVStages; ++i) barrier_init(&sm.v_empty[i], 4 * C::kGroups);
    for (int i = 0; i < C::kGroups; ++i) barrier_init(&sm.q_full[i], 1), barrier_init(&sm.q_empty[i], 4);
    for (int i = 0; i < 2; ++i) {
      barrier_init(&sm.item_full[i], 1);
      barrier_init(&sm.item_empty[i], 3 + 4 * C::kGroups);  // load_tiles twice, load_q, consumer warps
    }
    sm.k_progress = sm.v_progress = 0;
    barrier_init_fence();
  }
  __syncthreads();
  wait_for_previous();
  if (warpgroup == 0) {
    registers_down<C::kProducerRegisters>();
    if (warp == 0 && lane == 0) {
      if (p.clocks != nullptr && blockIdx.x == 0) {
        clock = clock64();
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
      }
      load_tiles<C, C::kKStages>(sm, sm.k, sm.k_full, sm.k_empty, &sm.k_progress, &k_map, p);
      if (p.clocks != nullptr && blockIdx.x == 0) {
        uint64_t now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
        p.clocks[0] += clock64() - clock;
        p.clocks[1] += now - time;
      }
    } else if (warp == 1 && lane == 0) {
      load_tiles<C, C::kVStages>(sm, sm.v, sm.v_full, sm.v_empty, &sm.v_progress, &v_map, p);
    } else if (warp == 2) {
      schedule<C>(sm, p, &q_map);
    } else if (warp == 3 && lane == 0) {
      load_q<C>(sm, &q_map);
    }
  } else {
    registers_up<C::kConsumerRegisters>();
    Consumer<C>{sm, p, warpgroup - 1, lane == 0}.run(threadIdx.x % kThreads);
  }
}

}  // namespace

#define SEER_ATTEND(name, ...)                                                              \
  using name##_config = Config<__VA_ARGS__>;                                                \
  extern "C" __global__ void __launch_bounds__((name##_config::kGroups + 1) * kThreads, 1)  \
      name(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,    \
           const __grid_constant__ CUtensorMap v, const __grid_constant__ AttendParams p) { \
    attend<name##_config>(q, k, v, p);                                                      \
  }                                                                                         \
  extern "C" __constant__ int name##_shared = offsetof(Shared<name##_config>, lists);

SEER_ATTEND(attend_bf16_128, __nv_bfloat16, 128, 3, 5, 5, 5, 152, 56)
SEER_ATTEND(attend_f16_128, __half, 128, 3, 5, 5, 5, 152, 56)
SEER_ATTEND(attend_bf16_64, __nv_bfloat16, 64, 3, 8, 10, 10, 152, 56)
SEER_ATTEND(attend_f16_64, __half, 64, 3, 8, 10, 10, 152, 56)

}  // namespace seer::cuda
