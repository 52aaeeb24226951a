// What the warps of the Hopper attend kernel share: sizes, work items, the rings and their barriers. Rules:
// attend_sm90.cu.
#pragma once
#include "attend_common.cuh"
#include "launch.h"
#include "sm90.cuh"

namespace seer::cuda {

using namespace seer::sm90;

constexpr int kRows = 64;  // rows of a group and keys of a tile
constexpr int kThreads = 128;
constexpr int kBarriers = 32;       // full barriers of the ring, a power of two
constexpr int kPartTiles = 16;      // of the union that a part of a split item has, or more
constexpr int kEarlyChunks = 2;     // items of each head, its last rows, that come before all others
constexpr float kLargest = 1024.f;  // sum of exponentials of a thread's columns of a tile that is let pass

template <class Type_, int kDim_, int kGroups_, int kReach_, int kKStages_, int kVStages_, int kUp, int kDown>
struct Config {
  using Type = Type_;
  static constexpr int kDim = kDim_;
  static constexpr int kGroups = kGroups_;
  static constexpr uint32_t kReach = kReach_;  // rule A: slots ahead that the next tile may be
  static constexpr int kKStages = kKStages_, kVStages = kVStages_;
  static constexpr int kConsumerRegisters = kUp, kProducerRegisters = kDown;
  static constexpr int kTileBytes = kRows * kDim * 2;
  static constexpr int kStages = kKStages > kVStages ? kKStages : kVStages;
  static_assert(kBarriers > 2 * kStages && kReach <= kKStages + kVStages);
};

// What a group needs to know of its part of an item.
struct GroupItem {
  int32_t row;  // first token / 64, -1: none
  int32_t head;
  int32_t tiles;   // kept
  int32_t masked;  // first key block that reaches past the position of the first row
};

template <int kGroups>
struct Item {
  int32_t batch;  // -1: no more items
  int32_t kv_head, q_begin, q_len, k_begin, offset;
  int32_t tail_block, tail_keys;  // the last key block if it is a short one (else -1), and what it has
  int32_t words;                  // of the lists
  int32_t first_slot;             // of the ring, counted over all items of this block of threads
  int32_t part, parts, split;  // of an item that is walked in several parts, and which of those it is; else parts is 1
  GroupItem group[kGroups];
};

template <class C>
struct alignas(1024) Shared {
  uint8_t k[C::kKStages][C::kTileBytes];
  uint8_t v[C::kVStages][C::kTileBytes];
  uint8_t q[C::kGroups][C::kTileBytes];
  uint64_t k_full[kBarriers], v_full[kBarriers];
  uint64_t k_empty[C::kKStages], v_empty[C::kVStages];
  uint64_t q_full[C::kGroups], q_empty[C::kGroups];
  uint64_t item_full[2], item_empty[2];
  Item<C::kGroups> item[2];
  uint32_t k_progress, v_progress;  // slots that the load warps have taken
  uint32_t last[C::kGroups];        // whether a group's part is the last to be done
  uint32_t lists[1];  // in truth [2][kGroups + 1][list_words], the groups' masks and their union, and one word to spare
};

template <class C>
__device__ __forceinline__ uint32_t *list(Shared<C> &sm, int words, int buffer, int row) {
  return sm.lists + (buffer * (C::kGroups + 1) + row) * words;
}

struct Tile {
  int block;      // of keys
  uint32_t slot;  // of the ring
};

// A group's list and the union's, and where the group is in them. The first words of the search for the next tile are
// read before it is needed, because what stands between two wgmmas is not hidden by anything.
struct Walk {
  const uint32_t *own, *all;
  uint32_t own_word, all_word;

  // The tile before the first is {32 words, first_slot - 1}.
  __device__ __forceinline__ void peek(Tile tile) {
    own_word = own[tile.block >> 5];
    all_word = all[tile.block >> 5];
  }
  // The next tile below `tile`, whose words peek() has read; only where there is one.
  __device__ __forceinline__ Tile next(Tile tile) {
    const uint32_t below = (1u << (tile.block & 31)) - 1;
    int word = tile.block >> 5;
    own_word &= below;
    all_word &= below;
    while (own_word == 0) {
      tile.slot += __popc(all_word);
      --word;
      own_word = own[word];
      all_word = all[word];
    }
    const int bit = 31 - __clz(own_word);
    return {word * 32 + bit, tile.slot + __popc(all_word >> bit)};
  }
};

}  // namespace seer::cuda
