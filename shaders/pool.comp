#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// pool: one pass over q or k writes each block's maximum, minimum and average, and the rotated copy that attend reads.
//
// Neighbouring threads take neighbouring channels, so that loads are as wide as memory likes them; the tokens of a block
// are shared among the threads that have the same channels. A thread has the channels of a lane in both halves of a
// head, which RoPE turns together. A NaN among the tokens makes all three pools of its channel NaN. Max and min may drop
// it; the sum does not, but may also be a NaN of two infinities, so that then the tokens are looked at again.
#include "args.h"
#include "elements.glsl"
#include "item.glsl"

layout(local_size_x = kPoolThreads) in;
layout(constant_id = 0) const uint DTYPE = kDTypeF32;
layout(constant_id = 1) const uint WORDS = 1;
layout(constant_id = 2) const uint UNITS = 32;
layout(constant_id = 3) const uint ROTATE = kPoolOnly;
layout(constant_id = 4) const uint POOL = 1;
layout(constant_id = 5) const uint TOKENS = 1;
layout(constant_id = 6) const uint BITS = 7;  // PoolBits of src/gate.h

layout(push_constant) uniform Push { PoolPush p; };
layout(binding = kPoolX) restrict readonly buffer X { uint x[]; };
layout(binding = kPoolX) restrict readonly buffer X4 { uvec4 x4[]; };
layout(binding = kPoolPooled) restrict writeonly buffer Pooled { float pooled[]; };
layout(binding = kPoolRotated) restrict buffer Rotated { uint rotated[]; };
layout(binding = kPoolRotated) restrict writeonly buffer Rotated4 { uvec4 rotated4[]; };
layout(binding = kPoolTable) restrict readonly buffer Table { vec2 rope_table[]; };
layout(binding = kPoolTable) restrict readonly buffer Table4 { vec4 rope_table4[]; };
#include "rope.glsl"

const uint PER_WORD = DTYPE == kDTypeF32 ? 1 : 2;
const uint WIDE = WORDS == 0 ? 1 : WORDS * PER_WORD;  // elements of each half, at most 8
const uint GROUPS = kPoolThreads / UNITS;
const uint SHARE = (2 * WIDE + GROUPS - 1) / GROUPS;  // of a thread, of the channels of its unit

shared float parts[kPoolThreads * 16];
shared uint nan_parts[kPoolThreads];

// The words of elements e .. e + WIDE - 1. Without words: the element alone, in the low half.
uvec4 load(uint e) {
  if (WORDS == 4) return x4[PER_WORD == 1 ? e >> 2 : e >> 3];
  if (WORDS == 1) return uvec4(x[PER_WORD == 1 ? e : e >> 1], 0, 0, 0);
  return uvec4((x[e >> 1] >> (16 * (e & 1))) & 0xffffu, 0, 0, 0);
}

// Two 16-bit elements that share a word may belong to two threads, or one of them to nobody: neither may lose it.
void store(uint e, uvec4 words) {
  if (WORDS == 4) {
    rotated4[PER_WORD == 1 ? e >> 2 : e >> 3] = words;
  } else if (WORDS == 1) {
    rotated[PER_WORD == 1 ? e : e >> 1] = words.x;
  } else {
    const uint shift = 16 * (e & 1);
    atomicAnd(rotated[e >> 1], ~(0xffffu << shift));
    atomicOr(rotated[e >> 1], words.x << shift);
  }
}

float element(uvec4 words, uint i) {
  if (DTYPE == kDTypeF32) return uintBitsToFloat(words[i]);
  const vec2 pair = widen_pair(DTYPE, words[i / 2]);
  return (i & 1) == 0 ? pair.x : pair.y;
}

// (cos, sin) of an even channel and of the next one.
vec4 two_turns(uint position, uint channel) {
  const uint base = p.table_skip / 8 + channel;
  const vec4 fine = rope_table4[(base + (position & (kRopeFineRows - 1)) * p.half_dim) / 2];
  const vec4 coarse = rope_table4[(base + (kRopeFineRows + (position >> kRopeShift)) * p.half_dim) / 2];
  return coarse.xxzz * fine + coarse.yyww * vec4(-fine.y, fine.x, -fine.w, fine.z);
}

void write_rotated(uvec4 first, uvec4 second, uint position, uint channel, uint e) {
  if (ROTATE == kPoolCopies) {
    store(e, first);
    if (p.half_dim + channel < p.dim) store(e + p.half_dim, second);
    return;
  }
  uvec4 a = uvec4(0), b = uvec4(0);
  [[unroll]] for (uint i = 0; i < WIDE; i += 2) {
    // With several channels a thread, their number and half_dim are even: two turns a load.
    const vec4 t = WIDE == 1 ? vec4(rope_turn(p.table_skip, p.half_dim, position, channel), 0.0, 0.0)
                             : two_turns(position, channel + i);
    [[unroll]] for (uint k = 0; k < min(WIDE, 2); k++) {
      const float cosine = t[2 * k], sine = t[2 * k + 1];
      const float u = element(first, i + k), v = element(second, i + k);
      const float y = u * cosine - v * sine, z = v * cosine + u * sine;
      if (DTYPE == kDTypeF32) {
        a[i + k] = floatBitsToUint(y);
        b[i + k] = floatBitsToUint(z);
      } else {
        a[i / 2] |= narrow(DTYPE, y) << (16 * k);
        b[i / 2] |= narrow(DTYPE, z) << (16 * k);
      }
    }
  }
  store(e, a);
  store(e + p.half_dim, b);
}

// The channels, as bits, in which one of a thread's tokens is NaN.
uint find_nan(uint x_base, uint group, uint count, bool second) {
  uint nan = 0;
  [[dont_unroll]] for (uint t = group; t < count; t += GROUPS)
    [[dont_unroll]] for (uint side = 0; side < (second ? 2 : 1); side++) {
      const uvec4 words = load(x_base + t * p.x_token + side * p.half_dim);
      [[unroll]] for (uint i = 0; i < WIDE; i++) nan |= is_nan(element(words, i)) ? 1u << (side * WIDE + i) : 0u;
    }
  return nan;
}

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  const uint thread = gl_LocalInvocationID.x;
  const uint block = item / p.tiles, unit = (item % p.tiles) * UNITS + thread % UNITS, group = thread / UNITS;
  const bool live = unit < p.units;
  const uint head = unit / p.lanes, channel = (unit % p.lanes) * WIDE;
  const bool second = p.half_dim + channel < p.dim;  // an odd head has one channel less in its second half
  const uint from = block * p.block, count = live ? min(p.block, p.tokens - from) : 0;

  const uint size = DTYPE == kDTypeF32 ? 4 : 2;
  const uint x_base = p.x_skip / size + from * p.x_token + head * p.x_head + channel;
  const uint rotated_base = p.rotated_skip / size + from * p.rotated_token + head * p.rotated_head + channel;

  float high[16], low[16], sum[16];
  [[unroll]] for (uint i = 0; i < 2 * WIDE; i++) {
    high[i] = uintBitsToFloat(0xff800000u);
    low[i] = uintBitsToFloat(0x7f800000u);
    sum[i] = 0.0;
  }
  for (uint t0 = group; t0 < count; t0 += GROUPS * TOKENS) {
    uvec4 words[TOKENS][2];
    [[unroll]] for (uint u = 0; u < TOKENS; u++) {
      const uint t = t0 + u * GROUPS, e = x_base + t * p.x_token;
      words[u][0] = words[u][1] = uvec4(0);
      if (t < count) {
        words[u][0] = load(e);
        if (second) words[u][1] = load(e + p.half_dim);
      }
    }
    [[unroll]] for (uint u = 0; u < TOKENS; u++) {
      const uint t = t0 + u * GROUPS;
      if (t >= count) break;
      if (POOL != 0) {
        [[unroll]] for (uint side = 0; side < 2; side++) {
          [[unroll]] for (uint i = 0; i < WIDE; i++) {
            const float v = element(words[u][side], i);
            const uint c = side * WIDE + i;
            if ((BITS & 1) != 0) high[c] = v > high[c] ? v : high[c];
            if ((BITS & 2) != 0) low[c] = v < low[c] ? v : low[c];
            sum[c] += v;
          }
        }
      }
      if (ROTATE != kPoolOnly)
        write_rotated(words[u][0], words[u][1], p.position + from + t, channel, rotated_base + t * p.rotated_token);
    }
  }
  if (POOL == 0 || block < p.unpooled) return;

  const uint row = p.pooled_skip / 4 + (block - p.unpooled) * p.pooled_row + head * p.pooled_head + channel;
  const float tokens = float(min(p.block, p.tokens - from));
  uint base = row;
  if ((BITS & 3) != 0) {
    uint suspects = 0, nan = 0;
    [[unroll]] for (uint c = 0; c < 2 * WIDE; c++) suspects |= is_nan(sum[c]) ? 1u << c : 0u;
    if (suspects != 0) nan = find_nan(x_base, group, count, second);
    nan_parts[thread] = nan;
  }
  [[dont_unroll]] for (uint kind = 0; kind < 3; kind++) {
    if (((BITS >> kind) & 1) == 0) continue;
    barrier();  // the parts of the kind before are read
    [[unroll]] for (uint c = 0; c < 2 * WIDE; c++)
      parts[c * kPoolThreads + thread] = kind == 0 ? high[c] : kind == 1 ? low[c] : sum[c];
    barrier();
    // The threads of the same channels share these, too.
    if (live) {
      uint any_nan = 0;
      if ((BITS & 3) != 0)
        for (uint g = 0; g < GROUPS; g++) any_nan |= nan_parts[g * UNITS + thread % UNITS];
      for (uint c = group * SHARE; c < min((group + 1) * SHARE, 2 * WIDE); c++) {
        const uint part = c * kPoolThreads + thread % UNITS;
        float value = parts[part];
        for (uint g = 1; g < GROUPS; g++) {
          const float other = parts[part + g * UNITS];
          value = kind == 0 ? max(value, other) : kind == 1 ? min(value, other) : value + other;
        }
        if (kind == 2) value /= tokens;
        if (((any_nan >> c) & 1) != 0) value = uintBitsToFloat(0x7fc00000u);
        if (c < WIDE)
          pooled[base + c] = value;
        else if (second)
          pooled[base + p.half_dim + c - WIDE] = value;
      }
    }
    base += p.dim;
  }
}
