// (cos, sin) of a channel at a position, from the table that args.h describes, which starts `skip` bytes into its
// binding.
// Needs args.h and a buffer of vec2 named rope_table.
vec2 rope_turn(uint skip, uint half_dim, uint position, uint channel) {
  const uint base = skip / 8 + channel;
  const vec2 fine = rope_table[base + (position & (kRopeFineRows - 1)) * half_dim];
  const vec2 coarse = rope_table[base + (kRopeFineRows + (position >> kRopeShift)) * half_dim];
  return vec2(coarse.x * fine.x - coarse.y * fine.y, coarse.y * fine.x + coarse.x * fine.y);
}
