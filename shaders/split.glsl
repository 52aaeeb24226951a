// A gate vector as two f16 a value: x 2^n = high + low, with 2^n such that the vector's largest value is between 2^14 and
// 2^15, but at most 2^70. What is lost is below 2^-21 of a value, or 2^-38 of the largest, or 2^-94.
//
// Vectors with a NaN, an infinity or a value of 2^56 or more are not taken apart; products of all others stay finite in
// whatever order they are scaled back.

// The bits of the magnitude of the largest value.
bool splits(uint largest) { return largest < 0x5b800000u; }

// The exponents of an f32: of 2^n; that of 2^-n is 254 less it.
uint split_exponent(uint largest) { return min(268 - (largest >> 23), 197); }

// The first 11 bits, by cutting the others off: a compiler may take what f16 makes of x for x.
vec4 split_high(vec4 x) { return uintBitsToFloat(floatBitsToUint(x) & 0xffffe000u); }
uvec2 pack_halves(vec4 x) { return uvec2(packHalf2x16(x.xy), packHalf2x16(x.zw)); }

uint largest_of(vec4 x) {
  const uvec4 bits = floatBitsToUint(x) & 0x7fffffffu;
  return max(max(bits.x, bits.y), max(bits.z, bits.w));
}
