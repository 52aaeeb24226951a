// score: see cuda/score.cu.
#include "score.h"

#include <algorithm>
#include <string>

#include "../block_mask.h"
#include "../checked.h"

namespace seer::cuda {

const char *ScoreTile::suffix() const {
  if (any) return "_32_any";
  return rows == 128 ? "_128" : rows == 64 ? "_64" : "_32";
}

ScoreTile score_tile(const CudaDevice &device, const GateVectors &gate, int64_t rows, int64_t longest, int largest) {
  const auto aligned = [](const float *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (gate.dim > kScoreDim || gate.dim % 4 != 0 || !aligned(gate.q) || !aligned(gate.k))
    return {.rows = 32, .any = true};
  // Large tiles load less; small ones are more, where there are few, and a row's tiles follow one another.
  const int64_t tiles = rows * gate.q_heads, enough = 4 * int64_t{device.caps.multiprocessors};
  const auto fits = [&](int size) { return size <= largest && score_shared(size, 0) <= device.caps.max_shared; };
  if (longest >= 1024 && tiles / 128 >= enough / 2 && fits(128)) return {.rows = 128};
  return {.rows = tiles / 64 >= enough && fits(64) ? 64 : 32};
}

ScoreParams score_params(const GateVectors &gate, int64_t block, int64_t longest) {
  const int64_t elements = checked_mul(longest, gate.k_heads, gate.dim);
  SEER_REQUIRE(
      elements <= INT32_MAX, Status::unsupported,
      "a sequence's gate vectors have %lld elements (%lld key blocks, %lld heads of %lld channels); the kernels "
      "take 2147483647",
      (long long)elements, (long long)longest, (long long)gate.k_heads, (long long)gate.dim);
  ScoreParams p{};
  p.q = gate.q;
  p.k = gate.k;
  p.q_heads = int32_t(gate.q_heads);
  p.k_heads = int32_t(gate.k_heads);
  p.dim = int32_t(gate.dim);
  p.scale = float(gate.scale);
  p.block = int32_t(block);
  return p;
}

void launch_logits(CudaDevice &device, const GateVectors &gate, std::vector<GateSequence> &rows, ScoreParams &p) {
  int64_t wanted = 0, longest = 0;
  for (const GateSequence &s : rows) {
    wanted += s.rows;
    longest = std::max(longest, causal_blocks(s.first_row + s.rows - 1, s.q_len, s.offset, p.block));
  }
  const ScoreTile tile = score_tile(device, gate, wanted, longest, 64);
  set_rows(*device.recorder, rows, tile.rows, p);
  constexpr int64_t kTilesOfBlock = 4;
  p.col_tiles = kTilesOfBlock;
  const Kernel &kernel = device.kernel("score", std::string("score_logits") + tile.suffix());
  device.recorder->launch(kernel,
                          {.blocks = uint64_t(checked_mul(p.items, gate.q_heads)),
                           .blocks_y = uint32_t(ceil_div(longest, kTilesOfBlock * kScoreCols)),
                           .threads = tile.threads(),
                           .shared = uint64_t(score_shared(tile.rows, 0)),
                           .overlap = true},
                          p);
}

void score(CudaDevice &device, Exec &exec, const ScoreArgs &args) {
  Recorder &recorder = *device.recorder;
  recorder.stage(exec);
  std::vector<GateSequence> rows;
  int64_t wanted = 0, longest = 0;
  for (const Sequence &s : args.sequences) {
    const int64_t n = s.q_blocks(args.block);
    if (n == 0) continue;
    GateSequence row{};
    row.scores_at = s.batch * args.scores.stride_batch + s.mask_row * args.scores.stride_token;
    row.q_len = int32_t(s.q_len);
    row.offset = int32_t(s.offset());
    row.rows = int32_t(n);
    row.q_row = int32_t(s.q_row);
    row.k_row = int32_t(s.k_row);
    rows.push_back(row);
    wanted += n;
    longest = std::max(longest, s.k_blocks(args.block));
  }
  if (rows.empty()) return;
  ScoreParams p = score_params(args.gate, args.block, longest);
  p.scores = args.scores.data;
  p.scores_head = args.scores.stride_head;
  p.scores_row = args.scores.stride_token;
  p.cols = int32_t(args.cols);
  p.fill = 1;
  if (!args.softmax) return launch_logits(device, args.gate, rows, p);

  const ScoreTile tile = score_tile(device, args.gate, wanted, longest, 32);
  set_rows(recorder, rows, tile.rows, p);
  const Kernel &kernel = device.kernel("score", std::string("score_probs") + tile.suffix());
  recorder.launch(kernel,
                  {.blocks = uint64_t(checked_mul(p.items, args.gate.q_heads)),
                   .threads = tile.threads(),
                   .shared = uint64_t(score_shared(tile.rows, 0)),
                   .overlap = true},
                  p);
}

}  // namespace seer::cuda
