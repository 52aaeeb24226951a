// What attend_split.comp and attend_coopmat.comp walk over, strips of STRIP keys that the item's rows keep, and where a
// thread's pieces of a tile lie. Needs constants SIZE, THREADS, CHUNKS, EVEN, BLOCK, STRIP and STRIPS, push constants
// `p` and mask_words[].

const uint kNone = ~0u;

uint thread() { return gl_SubgroupID * SIZE + gl_SubgroupInvocationID; }

// The strips that the item's rows keep, the lowest first. All lanes load the same words of the mask, so that compilers
// see that all of them walk the same way.
uint mask_at, last_block;  // keys from (last_block + 1) * BLOCK on are seen by no row
uint word, bits, bits_ahead;  // of the mask; its blocks still to come; and the word after it
uint last_strip, strips_left;  // the strip told of last, and how many of its block are still to come

uint word_of_mask(uint at) {
  const uint last = last_block / 32u;
  uint found = ~0u;
  if ((p.flags & kAttendMask) != 0u) found = mask_words[mask_at + min(at, last)];
  return at < last ? found : found & ~0u >> (31u - last_block % 32u);
}

void begin_walk() {
  word = strips_left = 0u;
  bits = word_of_mask(0u);
  bits_ahead = word_of_mask(1u);
}

uint next_strip(uint end) {
  if (STRIPS > 1u && strips_left != 0u && last_strip + STRIP < end) {
    strips_left--;
    last_strip += STRIP;
    return last_strip;
  }
  while (bits == 0u && word != last_block / 32u) {
    word++;
    bits = bits_ahead;
    bits_ahead = word_of_mask(word + 1u);
  }
  if (bits == 0u) return kNone;
  last_strip = (word * 32u + uint(findLSB(bits))) * BLOCK;
  bits &= bits - 1u;
  strips_left = STRIPS - 1u;
  return last_strip;
}

// Where a thread's pieces of a tile lie.
uint row_of(uint piece) {
  return EVEN ? thread() / CHUNKS + piece * (THREADS / CHUNKS) : (piece * THREADS + thread()) / CHUNKS;
}
uint chunk_of(uint piece) { return EVEN ? thread() % CHUNKS : (piece * THREADS + thread()) % CHUNKS; }
