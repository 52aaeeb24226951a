// The walk of an item of the matrix kernels over tiles of KEYS keys, for the blocks that any of its HEADS heads keeps.
// Needs constants HEADS, KEYS, BLOCK and DTYPE, push constants `p`, mask_words[], and own_head(), the item's head that this
// subgroup works for.

const uint kNone = ~0u;

// A tile's place: where it begins among the keys and in the window's tensors, and how many of its keys exist.
struct Tile {
  uint key, k_at, v_at, present;
  bool edge;  // some row must not see all of its keys
  bool kept;  // by this subgroup's head
};

struct Walk {
  uint k_base, v_base, mask_at;
  uint sees, end;  // the last key that the first row sees; keys from `end` on are seen by no row
  uint word;       // of the mask, kNone before the first
  uint any_bits;   // blocks of that word still to come
  uint own_bits;   // all blocks of that word that this subgroup's head keeps
  uint left;       // keys of the block still to come
};
Walk walk;
Tile next;

// For queries [query0, query0 + queries) of the heads from head0 on.
void begin_walk(uint head0, uint query0, uint queries) {
  const uint kv_head = head0 / p.group;
  walk.k_base = p.k_base + kv_head * p.k_head;
  walk.v_base = p.v_base + kv_head * p.v_head;
  walk.mask_at = p.mask_base + head0 * p.mask_head + query0 / BLOCK * p.mask_row;
  walk.sees = p.position + query0;
  walk.end = min(walk.sees + queries, p.key_end);
  walk.word = kNone;
  walk.any_bits = 0u;
  walk.left = 0u;
}

// Makes `next` the next tile; its key is kNone at the end.
void step_walk() {
  if (walk.left > KEYS && next.key + KEYS < walk.end) {
    walk.left -= KEYS;
    next.key += KEYS;
  } else {
    const uint last = (walk.end - 1u) / BLOCK;
    while (walk.any_bits == 0u && walk.word != last / 32u) {
      walk.word++;
      walk.any_bits = walk.own_bits = (p.flags & kAttendMask) != 0u ? 0u : ~0u;
      if ((p.flags & kAttendMask) != 0u)
        [[unroll]] for (uint h = 0; h < HEADS; h++) {
          const uint bits = mask_words[walk.mask_at + h * p.mask_head + walk.word];
          walk.any_bits |= bits;
          if (h == own_head()) walk.own_bits = bits;
        }
      if (walk.word == last / 32u) walk.any_bits &= ~0u >> (31u - last % 32u);
    }
    next.key = kNone;
    if (walk.any_bits == 0u) return;
    const uint bit = uint(findLSB(walk.any_bits));
    walk.any_bits &= walk.any_bits - 1u;
    walk.left = BLOCK;
    next.key = (walk.word * 32u + bit) * BLOCK;
    next.kept = (walk.own_bits >> bit & 1u) != 0u;
  }
  next.k_at = walk.k_base + next.key * p.k_token;
  next.v_at = walk.v_base + next.key * p.v_token;
  next.present = min(p.key_end - next.key, KEYS);
  next.edge = next.key + KEYS > min(walk.sees + 1u, p.key_end);
}

// Not 0 if any of the 16-bit values is Inf or NaN: their exponent is all ones, and the only one that 1 carries out of.
uint specials(uvec4 w) {
  const uint exponents = DTYPE == kF16 ? 0x7c007c00u : 0x7f807f80u, one = DTYPE == kF16 ? 0x04000400u : 0x00800080u;
  const uvec4 carried = (w & exponents) + one;
  return (carried.x | carried.y | carried.z | carried.w) & 0x80008000u;
}
