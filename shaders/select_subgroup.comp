#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// select for subgroups of SIZE: what select.comp does, a row by a subgroup.
//
// A lane has every SIZE-th score of the row, in registers if HELD of them are enough, so that a ballot makes words of the
// mask. The cut of the best is looked for between the row's least and greatest score, mostly by halving the values, and
// every third time by halving the keys, which takes 32 steps at most whatever the values are.
#include "args.h"
#include "causal.glsl"
#include "item.glsl"

layout(local_size_x = kRowThreads) in;
layout(constant_id = 0) const uint SIZE = 32;  // of a subgroup, a power of two and at most kRowThreads
layout(constant_id = 1) const uint MODE = kSelectBest;
layout(constant_id = 2) const uint HELD = 16;  // scores of a lane; 0: they are read again each time

layout(push_constant) uniform Push { SelectPush p; };
layout(binding = kSelectScores) restrict readonly buffer Scores { uint scores[]; };
layout(binding = kSelectMask) restrict writeonly buffer Mask { uint mask[]; };
layout(binding = kSelectStats) restrict buffer Stats { uint stats[]; };  // SelectStats: 3 counters of 64 bits
#include "scores.glsl"
#include "select_stats.glsl"

const uint ROWS = kRowThreads / SIZE;          // of an item
const uint WORDS = SIZE > 32 ? SIZE / 32 : 1;  // of a ballot

shared uint totals[2];  // of the item: blocks kept, rows that fell back

uint lane() { return gl_SubgroupInvocationID; }

uint row_base, causal;
uint held[HELD > 0 ? HELD : 1];

// The row's score lane() + i * SIZE, as a word (MODE softmax) or a key; what is not there cannot be kept.
uint load(uint i) {
  const uint j = i * SIZE + lane();
  const uint word = j < causal ? scores[row_base + j] : NEGATIVE_INFINITY;
  return MODE == kSelectSoftmax ? word : key_of(word);
}
uint value(uint i) { return HELD > 0 ? held[i] : load(i); }

// Scores of a lane that this row has: the same for all of them.
uint steps() { return (causal + SIZE - 1) / SIZE; }

// Runs over i, the scores of a lane, by fours where they are held: a branch for each would cost more than it saves.
#define EACH_SCORE(i)                                                                     \
  [[unroll]] for (uint i##0 = 0; i##0 < (HELD > 0 ? HELD : steps()); i##0 += 4)           \
    if (i##0 < steps())                                                                   \
      [[unroll]] for (uint i = i##0; i < i##0 + 4; i++)

uint count_from(uint key) {
  uint count = 0;
  EACH_SCORE(i) count += value(i) >= key ? 1 : 0;
  return subgroupAdd(count);
}

float value_of(uint key) { return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key); }

// What decides over a score, the same for a whole row.
struct Cut {
  Softmax softmax;
  uint key;    // above: it is not kept; best: the lowest that is
  uint equal;  // best: how many of those equal to it; 0xffffffff: all
};

Cut best_cut() {
  Cut cut;
  cut.softmax = Softmax(0.0, 0.0);
  cut.key = LEAST_KEY;
  cut.equal = 0xffffffffu;
  uint count = 0, least = 0xffffffffu, most = 0;
  EACH_SCORE(i) {
    const uint key = value(i);
    if (key >= LEAST_KEY) {
      count++;
      least = min(least, key);
      most = max(most, key);
    }
  }
  if (subgroupAdd(count) <= p.keep) return cut;
  // At least `keep` keys reach `low`, fewer reach high + 1.
  uint low = subgroupMin(least), high = subgroupMax(most);
  for (uint turn = 0; low < high; turn++) {
    uint middle = low + (high - low) / 2 + 1;
    if (turn % 3 != 2) {
      const uint word = floatBitsToUint(0.5 * value_of(low) + 0.5 * value_of(high));
      if (is_valid(word)) middle = clamp(key_of(word), low + 1, high);
    }
    const uint reach = count_from(middle);
    if (reach < p.keep) {
      high = middle - 1;
      continue;
    }
    low = middle;
    if (reach == p.keep) {
      cut.key = low;
      return cut;
    }
  }
  cut.key = low;
  cut.equal = p.keep - count_from(low + 1);
  return cut;
}

Softmax softmax_of_row() {
  Softmax s;
  s.top = -3.402823466e38;  // lowest
  s.sum = 0.0;
  EACH_SCORE(i) {
    const uint word = value(i);
    if (is_valid(word)) s.top = max(s.top, uintBitsToFloat(word));
  }
  s.top = subgroupMax(s.top);
  EACH_SCORE(i) s.sum += weight(s, value(i));
  s.sum = subgroupAdd(s.sum);
  return s;
}

// Word `w` of the row's mask, with what every row keeps.
uint finished(uint w, uint bits) {
  if (w == 0 && (p.flags & kSelectKeepFirst) != 0) bits |= 1;
  if (w == (causal - 1) / 32 && (p.flags & kSelectKeepDiagonal) != 0) bits |= 1u << ((causal - 1) & 31);
  return bits;
}

// Writes the mask; returns how many blocks this lane's words keep.
uint write_mask(uint mask_base, Cut cut) {
  uint kept = 0, taken = 0, word = 0;
  EACH_SCORE(i) {
    const uint x = value(i);
    bool keep;
    if (MODE == kSelectSoftmax)
      keep = probability(cut.softmax, x) > p.threshold;
    else if (MODE == kSelectAbove)
      keep = x > cut.key;
    else
      keep = x >= cut.key;
    if (MODE == kSelectBest && cut.equal != 0xffffffffu) {
      const uvec4 equals = subgroupBallot(x == cut.key);
      if (x == cut.key && taken + subgroupBallotExclusiveBitCount(equals) >= cut.equal) keep = false;
      taken += subgroupBallotBitCount(equals);
    }
    const uvec4 ballot = subgroupBallot(keep);
    if (SIZE >= 32) {
      [[unroll]] for (uint b = 0; b < WORDS; b++) {
        const uint w = i * WORDS + b;
        if (i < steps() && w < p.words && lane() == w % SIZE) {
          const uint bits = finished(w, ballot[b]);
          mask[mask_base + w] = bits;
          kept += uint(bitCount(bits));
        }
      }
    } else {
      const uint each = 32 / SIZE, part = i % each, w = i / each;
      word = (part == 0 ? 0 : word) | ballot.x << (part * SIZE);
      const bool whole = i < steps() && (part == each - 1 || i + 1 == steps());
      if (whole && w < p.words && lane() == w % SIZE) {
        const uint bits = finished(w, word);
        mask[mask_base + w] = bits;
        kept += uint(bitCount(bits));
      }
    }
  }
  return kept;
}

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  if (gl_LocalInvocationID.x < 2) totals[gl_LocalInvocationID.x] = 0;
  barrier();
  const uint index = item * ROWS + gl_SubgroupID, row = index % p.rows, head = index / p.rows;
  if (head < p.heads) {
    row_base = p.scores_skip / 4 + head * p.scores_head + row * p.scores_row;
    causal = causal_blocks(p.row + row, p.q_len, p.offset, p.block);
    const uint mask_base = p.mask_skip / 4 + head * p.mask_head + row * p.mask_row;
    if (HELD > 0)
      EACH_SCORE(i) held[i] = load(i);

    Cut cut;
    cut.softmax = Softmax(0.0, 0.0);
    cut.key = MODE == kSelectAbove ? key_of(floatBitsToUint(p.threshold)) : 0;
    cut.equal = 0xffffffffu;
    if (MODE == kSelectSoftmax) cut.softmax = softmax_of_row();
    if (MODE == kSelectBest) cut = best_cut();
    uint kept = subgroupAdd(write_mask(mask_base, cut));
    // Words behind those of the row, beginning with the lane that did not write the last.
    const uint words = (causal + 31) / 32;
    for (uint w = words + lane(); w < p.words; w += SIZE) mask[mask_base + w] = 0;
    if (kept == 0 && lane() == (words - 1) % SIZE) mask[mask_base + words - 1] = 1u << ((causal - 1) & 31);
    if (lane() == 0) {
      atomicAdd(totals[0], max(kept, 1));
      if (kept == 0) atomicAdd(totals[1], 1);
    }
  }
  barrier();
  if (gl_LocalInvocationID.x == 0 && (p.flags & kSelectCount) != 0) add_row_stats(totals[0], totals[1], item == 0);
}
