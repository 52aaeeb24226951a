// Elements of 16 bits in words of 32, without 16-bit types: the low half of a word is the element of even index.
// dtype: kDTypeF16 or kDTypeBf16. Needs args.h.

vec2 widen_pair(uint dtype, uint word) {
  if (dtype == kDTypeF16) return unpackHalf2x16(word);
  return vec2(uintBitsToFloat(word << 16), uintBitsToFloat(word & 0xffff0000u));
}

// NaN by its bits: compilers may take isnan for false.
bool is_nan(float x) { return (floatBitsToUint(x) & 0x7fffffffu) > 0x7f800000u; }

// Rounded to nearest, ties to even, as from_f32 of src/dtype.h; packHalf2x16 may round otherwise. Without branches, which
// would cost more than what they skip.
uint narrow_f16(float x) {
  const uint bits = floatBitsToUint(x), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  const uint normal = (rest + 0xfffu + ((rest >> 13) & 1u) - 0x38000000u) >> 13;
  // Below 2^-14: the mantissa in units of 2^-24. A shift by 25 leaves 0 and rounds to it.
  const uint shift = clamp(126u - min(rest >> 23, 125u), 1u, 25u), mantissa = (rest & 0x7fffffu) | 0x800000u;
  const uint down = mantissa >> shift, cut = mantissa & ((1u << shift) - 1u), middle = 1u << (shift - 1u);
  const uint subnormal = down + uint(cut + (down & 1u) > middle);
  uint result = rest < 0x38800000u ? subnormal : normal;
  result = rest >= 0x477ff000u ? 0x7c00u : result;  // rounds to 65536 or more
  result = rest > 0x7f800000u ? 0x7e00u : result;
  return sign | result;
}

uint narrow_bf16(float x) {
  const uint bits = floatBitsToUint(x), quiet = (bits >> 16) | 0x40u;
  const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return is_nan(x) ? quiet : rounded;
}

uint narrow(uint dtype, float x) { return dtype == kDTypeF16 ? narrow_f16(x) : narrow_bf16(x); }
uint narrow_pair(uint dtype, vec2 x) { return narrow(dtype, x.x) | (narrow(dtype, x.y) << 16); }
