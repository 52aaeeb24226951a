// The counters of select: 64 bits in two words, in a buffer of words named stats. Needs the push constants p.

// A carry is whoever's addition overflows the low word.
void add_to_stats(uint counter, uint low, uint high) {
  const uint at = p.stats_skip / 4 + 2 * counter;
  const uint before = atomicAdd(stats[at], low);
  if (before > 0xffffffffu - low) high++;
  if (high != 0) atomicAdd(stats[at + 1], high);
}

// The blocks that some rows keep, how many of them fell back, and once a dispatch its causal blocks.
void add_row_stats(uint kept, uint fell_back, bool first) {
  add_to_stats(0, kept, 0);
  if (fell_back != 0) add_to_stats(2, fell_back, 0);
  if (first) add_to_stats(1, p.causal_low, p.causal_high);
}
