// Which sequence of a call a piece of work belongs to: a launch has a table of sequences, or a single one.
#pragma once
#include <cstdint>

namespace seer::cuda {

// The last of the sequences that does not begin behind `item`; they rise by `first`. Parameters of a kernel come by
// reference: they are read where they are needed, and not held in registers.
template <class Sequence>
__device__ __forceinline__ int find_index(const Sequence *const &table, const int32_t &sequences, int item,
                                          int32_t Sequence::*first = &Sequence::first_item) {
  int low = 0, high = sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) >> 1;
    if (table[middle].*first <= item)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}
template <class Sequence>
__device__ __forceinline__ Sequence find_sequence(const Sequence *table, const Sequence &only, int sequences,
                                                  int item) {
  if (table == nullptr) return only;
  return table[find_index(table, sequences, item)];
}

}  // namespace seer::cuda
