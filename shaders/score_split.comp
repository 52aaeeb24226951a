#version 450
#extension GL_GOOGLE_include_directive : require
// Gate vectors as two f16 each, for score_coopmat.comp: x 2^n = high + low, with 2^n such that the vector's largest
// value is between 2^14 and 2^15. What is lost is below 2^-21 of a value, or 2^-38 of the largest.
//
// A vector of dim channels becomes dim / 2 words of high parts, then as many of low ones. Its 2^-n goes behind all
// vectors; it is NaN, and the parts mean nothing, where the vector has a NaN or an infinity.
#include "args.h"
#include "item.glsl"

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
  for (uint q = lane; q < end; q += LANES) {
    const uvec4 bits = floatBitsToUint(from[base + q]) & 0x7fffffffu;
    most = max(most, max(max(bits.x, bits.y), max(bits.z, bits.w)));
  }
  atomicMax(largest[slot], most);
  barrier();
  const uint bits = largest[slot];
  const bool finite = bits < 0x7f800000u;
  // As the exponents of an f32: 2^n, and 254 less it for 2^-n. Neither leaves the normal numbers.
  const uint up = min(268 - min(bits >> 23, 254), 253);
  const float factor = uintBitsToFloat(up << 23);
  const uint words = p.to_skip / 8 + vector * 2 * quads;
  for (uint q = lane; q < end; q += LANES) {
    const vec4 x = finite ? from[base + q] * factor : vec4(0.0);
    // The first 11 bits, by cutting the others off: a compiler may take what f16 makes of x for x.
    const vec4 high = uintBitsToFloat(floatBitsToUint(x) & 0xffffe000u), low = x - high;
    to[words + q] = uvec2(packHalf2x16(high.xy), packHalf2x16(high.zw));
    to[words + quads + q] = uvec2(packHalf2x16(low.xy), packHalf2x16(low.zw));
  }
  const float undo = finite ? uintBitsToFloat((254 - up) << 23) : uintBitsToFloat(0x7fc00000u);
  if (lane == 0 && end > 0) powers[p.to_skip / 4 + p.vectors * p.dim + vector] = undo;
}
