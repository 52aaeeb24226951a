// The two families of block masks that every benchmark of sparse attention uses, so that numbers compare.
//
// random: every causal block of every head and row is drawn on its own; the worst case for sharing loads.
// structured: what learned gates look like: block 0, the diagonal, two blocks before it, columns that a head (and, less
// so, its KV group) returns to from every row, and a quarter noise.
// Both keep the diagonal and fill row i with max(1, round(density * (i + 1))) blocks (random: on average).
#pragma once
#include <cstdint>
#include <string>

#include "block_mask.h"

namespace seer::tool {

enum class MaskFamily { random, structured };
MaskFamily parse_family(const std::string &name);
const char *family_name(MaskFamily family);

// n x n blocks, lower triangular; the same bits for the same arguments on every machine. group: query heads per KV
// head.
BlockMask bench_mask(MaskFamily family, int64_t n, int64_t heads, int64_t group, double density, uint64_t seed);

double mask_density(const BlockMask &mask);
// s: kept blocks per block loaded when `rows` consecutive rows of a head walk the union of their lists.
double mask_sharing(const BlockMask &mask, int64_t rows);

}  // namespace seer::tool
