// What the attend kernels of attend_sm80.cu and attend_plain.cu share: which rows a block of threads works on, and the
// walk over the key tiles that they keep.
#pragma once
#include "attend_common.cuh"
#include "launch_attend80.h"

namespace seer::cuda {

// kAttendRows consecutive query rows of one head.
struct Work {
  AttendSequence seq;
  int head, kv_head;
  int first;   // row, of the sequence
  int offset;  // position of row 0
};

// The work of block `item` of the grid: sections of KV heads one after the other, longest rows first in each, so that
// the blocks of threads that run at one time sweep the same keys and what is left at the end is short.
__device__ __forceinline__ Work find_work(const AttendParams80 &p, int item) {
  Work w;
  w.seq = p.only;
  if (p.sequence != nullptr) {
    int low = 0, high = p.sequences - 1;  // the last sequence with first_item <= item
    while (low < high) {
      const int middle = (low + high + 1) >> 1;
      if (p.sequence[middle].first_item <= item)
        low = middle;
      else
        high = middle - 1;
    }
    w.seq = p.sequence[low];
  }
  const int chunks = (w.seq.q_len + kAttendRows - 1) / kAttendRows, kv_heads = p.heads / p.group;
  const int per_kv = chunks * p.group, local = item - w.seq.first_item;
  const int section = local / (per_kv * p.section) * p.section;
  const int width = min(p.section, kv_heads - section) * p.group;  // query heads
  const int at = local - section * per_kv;
  w.head = section * p.group + at % width;
  w.kv_head = w.head / p.group;
  w.first = (chunks - 1 - at / width) * kAttendRows;
  w.offset = w.seq.k_len - w.seq.q_len;
  return w;
}

// The same again, computed anew: for the places in which that is cheaper than to have held it in registers.
__device__ __forceinline__ Work find_work_again(const AttendParams80 &p) {
  int item = blockIdx.x;
  asm volatile("" : "+r"(item));
  return find_work(p, item);
}

// (cos, sin) of a pair of channels at the position of row `row` of the sequence.
__device__ __forceinline__ float2 turn_of(const AttendParams80 &p, const Work &work, int row, int pair) {
  const int at = work.offset + min(row, work.seq.q_len - 1), half = p.dim / 2;
  const float2 u = __ldg(reinterpret_cast<const float2 *>(p.coarse) + (at >> 6) * int64_t{half} + pair);
  const float2 v = __ldg(reinterpret_cast<const float2 *>(p.fine) + (at & 63) * half + pair);
  return make_float2(u.x * v.x - u.y * v.y, u.y * v.x + u.x * v.y);
}

// The key tiles, of 2^kKeysLog2 keys, that the rows of a work item keep, from the last down. With blocks of 32 the two
// halves of the rows have lists of their own, which are walked as one, by their union. Every lane of a warp holds one
// word of a window of 32, a bit a tile; the walk itself is the same in all lanes and warps.
template <int kKeysLog2, int kWarpRows>
class Walk {
public:
  __device__ __forceinline__ Walk(const AttendParams80 &p, const Work &work) : p_(p) {
    const int last = (work.offset + min(work.first + kAttendRows, work.seq.q_len) - 1) >> kKeysLog2;
    word_ = (last >> 10) * 32 + 32;
  }

  // The next tile, -1 after the last one. `mine`: this warp's rows keep it.
  __device__ __forceinline__ int next(bool &mine) {
    while (bits_ == 0) {
      // The highest word below word_ that is not empty, of the window that holds it or of those before.
      uint32_t filled = __ballot_sync(~0u, all_ != 0) & ((1u << (word_ & 31)) - 1);
      while (filled == 0) {
        word_ &= ~31;
        if (word_ == 0) return -1;
        word_ -= 32;
        fill();
        filled = __ballot_sync(~0u, all_ != 0);
      }
      const int lane = 31 - __clz(filled);
      word_ = (word_ & ~31) + lane;
      bits_ = __shfl_sync(~0u, all_, lane);
    }
    const int bit = 31 - __clz(bits_);
    bits_ ^= 1u << bit;
    mine = __shfl_sync(~0u, mine_, word_) >> bit & 1;
    return word_ * 32 + bit;
  }

private:
  // This lane's word of the window that begins with word_.
  __device__ __forceinline__ void fill() {
    const Work work = find_work_again(p_);
    const int x = word_ + (threadIdx.x & 31), shift = p_.block_log2 - kKeysLog2;
    const int list_rows = p_.block_log2 == 5 ? kAttendRows / 2 : kAttendRows;
    const int own = threadIdx.x / 32 * kWarpRows / list_rows;
    all_ = 0;
#pragma unroll 1
    for (int i = 0; i < kAttendRows / list_rows; ++i) {
      const int first = work.first + i * list_rows;
      if (first >= work.seq.q_len) break;
      const int last = (work.offset + min(first + list_rows, work.seq.q_len) - 1) >> kKeysLog2;
      uint32_t word = 0;
      if (x * 32 <= last) {
        word = ~0u;
        if (p_.mask != nullptr) {
          const uint32_t *row = p_.mask + work.seq.batch * p_.mask_batch + work.head * p_.mask_head +
                                (work.seq.mask_row + (first >> p_.block_log2)) * p_.mask_row;
          word = row[x >> shift] >> ((32 >> shift) * (x & ((1 << shift) - 1)));
#pragma unroll 1
          for (int s = 0; s < shift; ++s) word = twice(word);
        }
        if (last - x * 32 < 31) word &= (2u << (last - x * 32)) - 1;
      }
      all_ |= word;
      if (i == own) mine_ = word;
    }
  }

  const AttendParams80 &p_;
  int word_;                     // of the last tile
  uint32_t all_ = 0, mine_ = 0;  // this lane's words of the window: of all rows, of the warp's
  uint32_t bits_ = 0;            // of the tiles to come in word_
};

}  // namespace seer::cuda
