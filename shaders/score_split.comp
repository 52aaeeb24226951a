#version 450
#extension GL_GOOGLE_include_directive : require
// Gate vectors as two f16 each (split.glsl), for score_coopmat.comp and select_coopmat.comp.
//
// A vector of dim channels becomes dim / 2 words of high parts, then as many of low ones. Its 2^-n goes behind all
// vectors; it is NaN, and the parts mean nothing, where the vector cannot be taken apart.
#include "args.h"
#include "item.glsl"
#include "split.glsl"

layout(local_size_x = kSplitThreads) in;

layout(push_constant) uniform Push { SplitPush p; };
layout(binding = kSplitFrom) restrict readonly buffer From { vec4 from[]; };
layout(binding = kSplitTo) restrict writeonly buffer To { uvec2 to[]; };
layout(binding = kSplitTo) restrict writeonly buffer Powers { float powers[]; };

const uint LANES = kSplitThreads / kSplitVectors;  // of a vector

shared uint largest[kSplitVectors];  // the bits of its magnitude

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  const uint thread = gl_LocalInvocationID.x, lane = thread % LANES, slot = thread / LANES;
  const uint vector = item * kSplitVectors + slot, quads = p.dim / 4;
  const uint base = p.from_skip / 16 + vector * quads;
  const uint end = vector < p.vectors ? quads : 0;

  if (thread < kSplitVectors) largest[thread] = 0;
  barrier();
  uint most = 0;
  for (uint q = lane; q < end; q += LANES) most = max(most, largest_of(from[base + q]));
  atomicMax(largest[slot], most);
  barrier();
  const bool fine = splits(largest[slot]);
  const uint up = split_exponent(largest[slot]);
  const float factor = uintBitsToFloat(up << 23);
  const uint words = p.to_skip / 8 + vector * 2 * quads;
  for (uint q = lane; q < end; q += LANES) {
    const vec4 x = fine ? from[base + q] * factor : vec4(0.0), high = split_high(x);
    to[words + q] = pack_halves(high);
    to[words + quads + q] = pack_halves(x - high);
  }
  const float undo = fine ? uintBitsToFloat((254 - up) << 23) : uintBitsToFloat(0x7fc00000u);
  if (lane == 0 && end > 0) powers[p.to_skip / 4 + p.vectors * p.dim + vector] = undo;
}
