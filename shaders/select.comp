#version 450
#extension GL_GOOGLE_include_directive : require
// select: a row of the block mask from a row of scores, by the rules of src/select_rule.h.
//
// The best of a row are found without sorting: a score's bits become a key that orders as the scores do, and the bits of
// the keep-th largest key are found one after the other by counting how many keys reach a candidate. Of keys equal to it
// the lowest indices are kept.
#include "args.h"
#include "causal.glsl"
#include "item.glsl"

layout(local_size_x = kRowThreads) in;
layout(constant_id = 0) const uint CACHED = 0;
layout(constant_id = 1) const uint MODE = kSelectDense;

layout(push_constant) uniform Push { SelectPush p; };
layout(binding = kSelectScores) restrict readonly buffer Scores { uint scores[]; };
layout(binding = kSelectMask) restrict writeonly buffer Mask { uint mask[]; };
layout(binding = kSelectStats) restrict buffer Stats { uint stats[]; };  // SelectStats: 3 counters of 64 bits
#include "rows.glsl"
#include "select_stats.glsl"

shared uint ranks[kRowThreads];

uint key_at(uint base, uint j) { return CACHED != 0 ? row_word(base, j) : key_of(row_word(base, j)); }

uint count_from(uint base, uint n, uint key, inout uint turn) {
  uint count = 0;
  for (uint j = gl_LocalInvocationID.x; j < n; j += kRowThreads) count += key_at(base, j) >= key ? 1 : 0;
  return sum_counts(count, turn);
}

// What decides over a score, the same for a whole row.
struct Cut {
  Softmax softmax;
  uint key;    // best: the lowest that is kept
  uint equal;  // how many of those equal to it; 0xffffffff: all
};

Cut find_cut(uint base, uint causal) {
  Cut cut;
  cut.softmax = Softmax(0.0, 0.0);
  cut.key = 0;
  cut.equal = 0xffffffffu;
  if (MODE == kSelectSoftmax) cut.softmax = softmax_of(base, causal);
  if (MODE == kSelectAbove) cut.key = key_of(floatBitsToUint(p.threshold));
  if (MODE == kSelectBest) {
    uint turn = 0;
    clear_counters();
    cut.key = LEAST_KEY;
    if (count_from(base, causal, LEAST_KEY, turn) <= p.keep) return cut;
    uint key = 0;
    for (int bit = 31; bit >= 0; bit--) {
      const uint candidate = key | (1u << bit);
      const uint count = count_from(base, causal, candidate, turn);
      if (count < p.keep) continue;
      key = candidate;
      if (count == p.keep) {
        cut.key = key;
        return cut;
      }
    }
    cut.key = key;
    cut.equal = p.keep - count_from(base, causal, key + 1, turn);
  }
  return cut;
}

bool is_kept(Cut cut, uint base, uint j) {
  if (MODE == kSelectSoftmax) return probability(cut.softmax, row_word(base, j)) > p.threshold;
  if (MODE == kSelectAbove) return key_at(base, j) > cut.key;
  return key_at(base, j) >= cut.key;
}

// Of the scores of word w that equal the cut, those beyond the first `left`, as bits to drop; `left` becomes what is
// left for the words behind.
uint drop_equals(Cut cut, uint base, uint w, uint causal, inout uint left) {
  const uint thread = gl_LocalInvocationID.x;
  uint equals = 0;
  for (uint j = 32 * w; j < min(32 * w + 32, causal); j++)
    if (key_at(base, j) == cut.key) equals |= 1u << (j & 31);
  const uint mine = uint(bitCount(equals));
  ranks[thread] = mine;
  barrier();
  for (uint step = 1; step < kRowThreads; step *= 2) {  // inclusive sums
    const uint before = thread >= step ? ranks[thread - step] : 0;
    barrier();
    ranks[thread] += before;
    barrier();
  }
  const uint rank = ranks[thread] - mine, total = ranks[kRowThreads - 1];
  barrier();
  uint keep = left > rank ? left - rank : 0;
  for (; keep > 0 && equals != 0; keep--) equals &= equals - 1;
  left -= min(left, total);
  return equals;
}

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  const uint thread = gl_LocalInvocationID.x;
  const uint row = item % p.rows, head = item / p.rows;
  const uint base = p.scores_skip / 4 + head * p.scores_head + row * p.scores_row;
  const uint mask_base = p.mask_skip / 4 + head * p.mask_head + row * p.mask_row;
  const uint causal = causal_blocks(p.row + row, p.q_len, p.offset, p.block);
  const uint causal_words = (causal + 31) / 32, last_word = causal_words - 1;

  if (MODE != kSelectDense && CACHED != 0) {
    for (uint j = thread; j < causal; j += kRowThreads)
      cache_word(j, MODE == kSelectSoftmax ? scores[base + j] : key_of(scores[base + j]));
    barrier();
  }
  Cut cut;
  if (MODE != kSelectDense) cut = find_cut(base, causal);

  uint kept = 0;
  uint left = MODE == kSelectBest ? cut.equal : 0;
  for (uint w0 = 0; w0 < p.words; w0 += kRowThreads) {
    const uint w = w0 + thread;
    uint bits = 0;
    if (w < causal_words) {
      const uint end = min(32 * w + 32, causal);
      if (MODE == kSelectDense) {
        bits = 0xffffffffu >> (32 * w + 32 - end);
      } else {
        for (uint j = 32 * w; j < end; j++)
          if (is_kept(cut, base, j)) bits |= 1u << (j & 31);
      }
    }
    if (MODE == kSelectBest && cut.equal != 0xffffffffu) bits &= ~drop_equals(cut, base, w, causal, left);
    if (MODE != kSelectDense) {
      if (w == 0 && (p.flags & kSelectKeepFirst) != 0) bits |= 1;
      if (w == last_word && (p.flags & kSelectKeepDiagonal) != 0) bits |= 1u << ((causal - 1) & 31);
    }
    if (w < p.words) mask[mask_base + w] = bits;
    kept += uint(bitCount(bits));
  }

  uint turn = 0;
  clear_counters();
  kept = sum_counts(kept, turn);
  const bool empty = MODE != kSelectDense && kept == 0;
  // The thread that wrote this word before.
  if (empty && thread == last_word % kRowThreads) mask[mask_base + last_word] = 1u << ((causal - 1) & 31);
  if (thread == 0 && (p.flags & kSelectCount) != 0) add_row_stats(empty ? 1 : kept, empty ? 1 : 0, item == 0);
}
