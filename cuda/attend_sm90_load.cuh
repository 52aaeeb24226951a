// The warps of the Hopper attend kernel that bring work: the scheduler, and the threads that load K, V and Q.
#pragma once
#include <climits>

#include "attend_sm90_shared.cuh"
#include "sequences.cuh"

namespace seer::cuda {

using namespace seer::sm90;

// --- Scheduler warp

// Word x of the list of `row` of `head` in blocks of 64, cut to the blocks 0 .. last.
__device__ __forceinline__ uint32_t mask_word(const AttendParams &p, const AttendSequence &seq, int head, int row,
                                              int last, int x) {
  if (x * 32 > last) return 0;  // also where there is no row
  uint32_t word = ~0u;
  if (p.mask != nullptr) {
    const uint32_t *words =
        p.mask + seq.batch * p.mask_batch + head * p.mask_head + (seq.mask_row + (row >> p.mask_shift)) * p.mask_row;
    word = p.mask_shift == 0 ? words[x] : twice(words[x >> 1] >> (16 * (x & 1)));
  }
  return last - x * 32 < 31 ? word & ((2u << (last - x * 32)) - 1) : word;
}

// The bits of word x that stand for blocks from .. to - 1.
__device__ __forceinline__ uint32_t between(int x, int from, int to) {
  const int low = min(max(from - x * 32, 0), 32), high = min(max(to - x * 32, 0), 32);
  return static_cast<uint32_t>((1ull << high) - 1) & ~static_cast<uint32_t>((1ull << low) - 1);
}

// Makes the union of the groups' lists and counts what they keep; the last count is the union's.
template <class C>
__device__ __forceinline__ void unite(uint32_t *lists, int pitch, int words, int (&tiles)[C::kGroups + 1], int lane) {
#pragma unroll
  for (int &n : tiles) n = 0;
  for (int x = lane; x < words; x += 32) {
    uint32_t all = 0;
#pragma unroll
    for (int i = 0; i < C::kGroups; ++i) {
      const uint32_t word = lists[i * pitch + x];
      tiles[i] += __popc(word);
      all |= word;
    }
    lists[C::kGroups * pitch + x] = all;
    tiles[C::kGroups] += __popc(all);
  }
#pragma unroll
  for (int &n : tiles) n = __reduce_add_sync(~0u, n);
}

template <class C>
__device__ __forceinline__ void schedule(Shared<C> &sm, const AttendParams &p, const CUtensorMap *q_map) {
  const int lane = threadIdx.x & 31;
  int slot = 0;
  int work = blockIdx.x;
  for (int it = 0;;) {
    const int b = it & 1;
    barrier_wait(&sm.item_empty[b], (it >> 1 & 1) ^ 1);
    Item<C::kGroups> &item = sm.item[b];
    if (work >= p.items) {
      if (lane == 0) {
        item.batch = -1;
        barrier_arrive(&sm.item_full[b]);
        // The last block of threads to get here has seen every other take its last number: leave the counter at 0.
        __threadfence();
        if (atomicAdd(p.counter + 1, 1u) == gridDim.x - 1) {
          p.counter[0] = 0;
          p.counter[1] = 0;
        }
      }
      return;
    }
    AttendSequence seq = p.only;
    int index = 0;
    if (p.sequence != nullptr) {
      index = find_index(p.sequence, p.sequences, work);
      seq = p.sequence[index];
    }
    // The last rows of all heads first: they are the longest, and some masks keep all of them. Then sections of KV
    // heads one after the other, longest rows first in each: the blocks of threads that run at one time then sweep the
    // same keys, and what is left at the end is short.
    const int rows = (seq.q_len + kRows - 1) / kRows;
    const int kv_heads = p.heads / p.group;
    const int width_of_one = p.heads_first ? 1 : p.group;  // items of a KV head that start at one row
    const int first_items = width_of_one * kv_heads;       // which may be split
    const int per_kv = seq.items / kv_heads - (p.split - 1) * width_of_one;
    const int early = min(kEarlyChunks, per_kv / width_of_one);
    const int early_items = early * width_of_one * kv_heads;
    int at = work - seq.first_item, section = 0, width = kv_heads, chunk = 0;
    const bool first = at < first_items * p.split;
    const int part = first ? at / first_items : 0;
    at -= first_items * (first ? part : p.split - 1);
    const int split = index * first_items + at;
    if (at >= early_items) {
      const int late_per_kv = per_kv - early * width_of_one;
      at -= early_items;
      section = at / (late_per_kv * p.section) * p.section;
      width = min(p.section, kv_heads - section);
      at -= section * late_per_kv;
      chunk = early;
    }
    // at = (chunk of rows, KV head, head of its group), or heads_first: (place in the KV head's list of rows, KV head)
    const int per_chunk = width * width_of_one;
    chunk += at / per_chunk;
    const int rest = at % per_chunk;
    const int kv_head = section + rest / width_of_one;
    const int offset = seq.k_len - seq.q_len;
    const int g = min(lane, C::kGroups - 1);  // lane g knows group g
    const int place = chunk * C::kGroups + g;
    const int down = p.heads_first ? place / p.group : place;
    const int head = kv_head * p.group + (p.heads_first ? place : rest) % p.group;
    const int row = rows - 1 - down;
    const int last = row < 0 ? -1 : (offset + min((row + 1) * kRows, seq.q_len) - 1) / kRows;
    // Q is loaded when the group has read its last rows and is waiting for it: by then it should be in L2.
    if (lane < C::kGroups && row >= 0) tma_prefetch_5d(q_map, 0, seq.q_begin + row * kRows, 0, head, seq.batch);
    const int blocks = __reduce_max_sync(~0u, last) + 1, words = (blocks + 31) / 32;
    uint32_t *lists = list<C>(sm, p.list_words, b, 0);
    for (int base = 0; base < C::kGroups * words; base += 32) {
      const int at = base + lane, i = min(at / words, C::kGroups - 1), x = at - i * words;
      const int row_i = __shfl_sync(~0u, row, i), head_i = __shfl_sync(~0u, head, i),
                last_i = __shfl_sync(~0u, last, i);
      if (x < words) lists[i * p.list_words + x] = mask_word(p, seq, head_i, row_i, last_i, x);
    }
    __syncwarp();
    int tiles[C::kGroups + 1];
    unite<C>(lists, p.list_words, words, tiles, lane);
    // All parts of an item come to the same result; those that it has no use for are passed over.
    const int parts = first ? min(max(tiles[C::kGroups] / kPartTiles, 1), p.split) : 1;
    if (part >= parts) {
      if (lane == 0) work = gridDim.x + atomicAdd(p.counter, 1u);
      work = __shfl_sync(~0u, work, 0);
      continue;
    }
    if (parts > 1) {
      const int from = part * blocks / parts, to = (part + 1) * blocks / parts;
      for (int x = lane; x < words; x += 32)
#pragma unroll
        for (int i = 0; i < C::kGroups; ++i) lists[i * p.list_words + x] &= between(x, from, to);
      unite<C>(lists, p.list_words, words, tiles, lane);
    }
#pragma unroll
    for (int i = 0; i < C::kGroups; ++i) {
      const int row_i = __shfl_sync(~0u, row, i), head_i = __shfl_sync(~0u, head, i);
      if (lane == 0) item.group[i] = {max(row_i, -1), head_i, tiles[i], (offset + row_i * kRows + 1) / kRows};
    }
    if (lane == 0) {
      item.batch = seq.batch;
      item.kv_head = kv_head;
      item.q_begin = seq.q_begin;
      item.q_len = seq.q_len;
      item.k_begin = seq.k_begin;
      item.offset = offset;
      item.tail_keys = seq.k_len % kRows;
      item.tail_block = item.tail_keys == 0 ? -1 : seq.k_len / kRows;
      item.words = words;
      item.first_slot = slot;
      item.part = part;
      item.parts = parts;
      item.split = split;
    }
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(&sm.item_full[b]);
      work = gridDim.x + atomicAdd(p.counter, 1u);
    }
    work = __shfl_sync(~0u, work, 0);
    slot += tiles[C::kGroups];
    ++it;
  }
}

// --- Load warps, one thread each

// K or V tiles of the union, in ring order. Each has its own thread: the two rings then run ahead as far as each can.
template <class C, int kStages>
__device__ __forceinline__ void load_tiles(Shared<C> &sm, uint8_t (*ring)[C::kTileBytes], uint64_t *full,
                                           uint64_t *empty, uint32_t *progress, const CUtensorMap *map,
                                           const AttendParams &p) {
  uint32_t slot = 0, stage = 0, phase = 1;
  for (int it = 0;; ++it) {
    const int b = it & 1;
    barrier_wait(&sm.item_full[b], it >> 1 & 1);
    const Item<C::kGroups> &item = sm.item[b];
    if (item.batch < 0) return;
    const int batch = item.batch, head = item.kv_head, begin = item.k_begin;
    const uint32_t *own = list<C>(sm, p.list_words, b, 0);
    for (int x = item.words - 1; x >= 0; --x) {
      uint32_t word[C::kGroups], all = 0;
#pragma unroll
      for (int g = 0; g < C::kGroups; ++g) all |= word[g] = own[g * p.list_words + x];
      while (all != 0) {
        const int bit = 31 - __clz(all);
        all ^= 1u << bit;
        int skips = 0;
#pragma unroll
        for (int g = 0; g < C::kGroups; ++g) skips += ~word[g] >> bit & 1;
        const int key = begin + (x * 32 + bit) * kRows;
        barrier_wait(&empty[stage], phase);
        barrier_expect(&full[slot % kBarriers], C::kTileBytes);
        tma_load_5d(ring[stage], map, &full[slot % kBarriers], kEvictLast, 0, key, 0, head, batch);
        if (skips != 0) barrier_arrive(&empty[stage], 4 * skips);  // rule B; four warps to a group
        ++slot;
        atomicExch(progress, slot);
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
    }
    barrier_arrive(&sm.item_empty[b]);
  }
}

// The rows of every group, each as soon as the group has read its last ones: one thread that looks at all, for a group
// that is far behind must not hold up another.
template <class C>
__device__ __forceinline__ void load_q(Shared<C> &sm, const CUtensorMap *q_map) {
  int next[C::kGroups] = {};  // item of each group, INT_MAX: no more
  int done = 0;               // items before this one are behind all groups
  for (int running = C::kGroups; running > 0;) {
#pragma unroll
    for (int g = 0; g < C::kGroups; ++g) {
      const int it = next[g], b = it & 1;
      if (it == INT_MAX || !barrier_try(&sm.q_empty[g], (it & 1) ^ 1) || !barrier_try(&sm.item_full[b], it >> 1 & 1))
        continue;
      const Item<C::kGroups> &item = sm.item[b];
      if (item.batch < 0) {
        next[g] = INT_MAX;
        --running;
        continue;
      }
      if (item.group[g].tiles == 0) {
        barrier_arrive(&sm.q_full[g]);
      } else {
        barrier_expect(&sm.q_full[g], C::kTileBytes);
        tma_load_5d(sm.q[g], q_map, &sm.q_full[g], kEvictFirst, 0, item.q_begin + item.group[g].row * kRows, 0,
                    item.group[g].head, item.batch);
      }
      ++next[g];
      int behind = next[0];
#pragma unroll
      for (int i = 1; i < C::kGroups; ++i) behind = min(behind, next[i]);
      if (done < behind) barrier_arrive(&sm.item_empty[done++ & 1]);
    }
    __nanosleep(100);
  }
}

}  // namespace seer::cuda
