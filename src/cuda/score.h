// What score and select share: lists of rows, and the launches of cuda/score.cu.
#pragma once
#include <vector>

#include "../../cuda/launch_gate.h"
#include "kernels.h"

namespace seer::cuda {

// The tile of block rows of the kernels for these vectors, of at most `largest` rows, when `rows` of each head are
// wanted and the longest sees so many columns.
struct ScoreTile {
  int rows = 32;
  bool any = false;  // the kernel for any number of channels

  const char *suffix() const;  // of the kernel's name
  uint32_t threads() const { return uint32_t(score_threads(rows)); }
};
ScoreTile score_tile(const CudaDevice &device, const GateVectors &gate, int64_t rows, int64_t longest, int largest);

// The vectors' part of the parameters, for sequences of up to `longest` key blocks. Throws unsupported if the kernels'
// 32-bit offsets within a sequence do not reach that far.
ScoreParams score_params(const GateVectors &gate, int64_t block, int64_t longest);

// Fills in sequences, only and sequence of p (ScoreParams, SelectRowsParams).
template <class Params>
void set_sequences(Recorder &recorder, const std::vector<GateSequence> &rows, Params &p) {
  p.sequences = int32_t(rows.size());
  p.only = rows.front();
  if (rows.size() > 1) p.sequence = recorder.upload(std::span<const GateSequence>(rows));
}
// And first_item of each, and items: tiles of so many rows.
template <class Params>
void set_rows(Recorder &recorder, std::vector<GateSequence> &rows, int64_t tile, Params &p) {
  int64_t items = 0;
  for (GateSequence &s : rows) {
    s.first_item = int32_t(items);
    items += (s.rows + tile - 1) / tile;
  }
  p.items = int32_t(items);
  set_sequences(recorder, rows, p);
}

// Logits of `rows`, at scores_at of each in p.scores; see ScoreParams.
void launch_logits(CudaDevice &device, const GateVectors &gate, std::vector<GateSequence> &rows, ScoreParams &p);

}  // namespace seer::cuda
