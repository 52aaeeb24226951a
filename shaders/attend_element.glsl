// Elements of tensors in buffers of words, and their conversion. Needs constants DIM, DTYPE and PAIRED: whether every
// row begins at an even element and DIM is even, so that a word holds two channels of one row.

const uint kF32 = 1u, kF16 = 2u, kBf16 = 3u;  // DType

uint f32_to_bf16(float x) {
  const uint u = floatBitsToUint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;  // NaN, made quiet
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

// packHalf2x16 may round as it likes; this rounds to nearest, ties to even.
uint f32_to_f16(float x) {
  const uint u = floatBitsToUint(x), sign = (u >> 16) & 0x8000u, rest = u & 0x7fffffffu;
  if (rest > 0x7f800000u) return sign | 0x7e00u;
  if (rest >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or more
  if (rest < 0x38800000u)  // below 2^-14: add 0.5 so that the addition rounds at 2^-24
    return sign | (floatBitsToUint(uintBitsToFloat(rest) + 0.5) - 0x3f000000u);
  return sign | ((rest + 0xfffu + ((rest >> 13) & 1u) - 0x38000000u) >> 13);
}

uint narrow(float x) { return DTYPE == kF16 ? f32_to_f16(x) : f32_to_bf16(x); }

// Two channels as they are in shared memory -> f32.
vec2 widen(uint pair) {
  if (DTYPE == kF16) return unpackHalf2x16(pair);
  return vec2(uintBitsToFloat(pair << 16), uintBitsToFloat(pair & 0xffff0000u));
}

// Defines NAME(at, c): channels 2 c and 2 c + 1 (0 beyond DIM) of the row that begins at element `at` of words, two
// words of f32 or one of 16-bit values.
#define SEER_DEFINE_LOAD(NAME, words)                                                        \
  uvec2 NAME(uint at, uint c) {                                                              \
    const uint e = at + 2u * c;                                                              \
    const bool both = PAIRED || 2u * c + 1u < DIM;                                           \
    if (DTYPE == kF32) return uvec2(words[e], both ? words[e + 1u] : 0u);                    \
    if (PAIRED) return uvec2(words[e >> 1], 0u);                                             \
    const uint low = (words[e >> 1] >> (16u * (e & 1u))) & 0xffffu;                          \
    const uint high = both ? words[(e + 1u) >> 1] >> (16u * ((e + 1u) & 1u)) & 0xffffu : 0u; \
    return uvec2(low | (high << 16), 0u);                                                    \
  }

// Defines NAME(e, x): stores one 16-bit element whose word may be shared with a neighbour that another invocation
// writes at the same time.
#define SEER_DEFINE_STORE_HALF(NAME, words)              \
  void NAME(uint e, float x) {                           \
    const uint shift = 16u * (e & 1u);                   \
    atomicAnd(words[e >> 1], ~(0xffffu << shift));       \
    atomicOr(words[e >> 1], narrow(x) << shift);         \
  }

// Defines NAME(at, c, x): stores channels 2 c and 2 c + 1 (those below DIM) of the row that begins at element `at`.
#define SEER_DEFINE_STORE(NAME, STORE_HALF, words)                       \
  SEER_DEFINE_STORE_HALF(STORE_HALF, words)                              \
  void NAME(uint at, uint c, vec2 x) {                                   \
    const uint e = at + 2u * c;                                          \
    const bool both = PAIRED || 2u * c + 1u < DIM;                       \
    if (DTYPE == kF32) {                                                 \
      words[e] = floatBitsToUint(x.x);                                   \
      if (both) words[e + 1u] = floatBitsToUint(x.y);                    \
    } else if (PAIRED) {                                                 \
      words[e >> 1] = narrow(x.x) | (narrow(x.y) << 16);                 \
    } else {                                                             \
      STORE_HALF(e, x.x);                                                \
      if (both) STORE_HALF(e + 1u, x.y);                                 \
    }                                                                    \
  }
