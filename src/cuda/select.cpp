// select: see cuda/select_sm90.cu and cuda/score.cu, which have the threshold, and cuda/select.cu, which selects from
// scores. For ratio and budget from gate vectors the logits of a band of rows at a time go to scratch, where the L2
// cache keeps them until they have been looked at.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "../block_mask.h"
#include "../checked.h"
#include "../select_rule.h"
#include "score.h"

namespace seer::cuda {
namespace {

constexpr int64_t kShortRow = 64;     // columns, up to which wgmma's tiles are too large
constexpr int64_t kLongEnough = 256;  // columns, for cuda/select_sm90.cu
constexpr int64_t kBandBytes = int64_t{16} << 20;

bool needs_bands(const SelectArgs &args) {
  return !args.scores.data && (args.rule.method == SelectMethod::ratio || args.rule.method == SelectMethod::budget);
}

// The first row that keeps everything.
int64_t dense_row(const SelectArgs &args, const Sequence &s) {
  if (args.rule.method == SelectMethod::all) return 0;
  int64_t rows = s.q_blocks(args.block);
  while (rows > 0 && is_dense_row(args.rule, s, rows - 1, args.block)) rows--;
  return rows;
}

// Bytes of the logits of all heads of the longest row.
int64_t row_bytes(const SelectArgs &args) {
  int64_t cols = 0;
  for (const Sequence &s : args.sequences) {
    const int64_t rows = dense_row(args, s);
    if (rows > 0) cols = std::max(cols, causal_blocks(rows - 1, s.q_len, s.offset(), args.block));
  }
  return checked_mul(round_up(cols, int64_t{4}), args.q_heads, 4);
}

class Call {
public:
  Call(CudaDevice &device, const SelectArgs &args) : device_(device), args_(args) {}

  void run();

private:
  GateSequence rows(const Sequence &s) const;
  uint32_t flags() const {
    return (args_.rule.keep_first ? kSelectFirst : 0u) | (args_.rule.keep_diagonal ? kSelectDiagonal : 0u);
  }
  template <class Params>
  void set_mask(Params &p) const {
    p.mask = args_.mask.words;
    p.mask_head = args_.mask.stride_head;
    p.mask_row = args_.mask.stride_row;
    p.words = int32_t(args_.mask_row_words);
    p.flags = flags();
    p.stats = reinterpret_cast<unsigned long long *>(args_.stats);
  }
  ScoreParams threshold_params(const std::vector<GateSequence> &list) const;
  int64_t longest_row(const GateSequence &s) const { return causal_blocks(s.rows - 1, s.q_len, s.offset, args_.block); }
  bool hopper() const;  // whether cuda/select_cluster.cu and select_sm90.cu can take these vectors
  bool clusters(std::vector<GateSequence> &list, uint32_t blocks);
  void threshold(std::vector<GateSequence> &list);
  void select_rows(std::vector<GateSequence> &list, const float *scores, int64_t scores_head, int64_t scores_row);
  void bands(const std::vector<GateSequence> &list);

  CudaDevice &device_;
  const SelectArgs &args_;
};

GateSequence Call::rows(const Sequence &s) const {
  const bool best = args_.rule.method == SelectMethod::ratio || args_.rule.method == SelectMethod::budget;
  const int64_t keep = best ? keep_count(args_.rule, s.total_len, args_.block) : 0;
  GateSequence row{};
  row.scores_at = s.batch * args_.scores.stride_batch + s.mask_row * args_.scores.stride_token;
  row.mask_at = s.batch * args_.mask.stride_batch + s.mask_row * args_.mask.stride_row;
  row.q_len = int32_t(s.q_len);
  row.offset = int32_t(s.offset());
  row.rows = int32_t(s.q_blocks(args_.block));
  row.q_row = int32_t(s.q_row);
  row.k_row = int32_t(s.k_row);
  row.dense_row = int32_t(dense_row(args_, s));
  row.keep = int32_t(std::min<int64_t>(keep, INT32_MAX));
  return row;
}

bool Call::hopper() const {
  const GateVectors &gate = args_.gate;
  const auto aligned = [](const float *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return device_.caps.sm == 90 && (gate.dim == 64 || gate.dim == 128) && aligned(gate.q) && aligned(gate.k) &&
         gate.scale > 0;
}

ScoreParams Call::threshold_params(const std::vector<GateSequence> &list) const {
  int64_t longest = 0;
  for (const GateSequence &s : list) longest = std::max(longest, longest_row(s));
  ScoreParams p = score_params(args_.gate, args_.block, longest);
  set_mask(p);
  // In logarithms. Nothing is above 1; above 0 is what f32 can tell from it.
  const float t = float(args_.rule.threshold);
  p.threshold = t >= 1 ? std::numeric_limits<float>::infinity() : std::max(std::log2(t), -149.0f);
  return p;
}

// Divides the items of cuda/select_cluster.cu among at most `most` clusters of so many blocks of threads, so that the
// longest takes no longer than it must. Fills in first_item of each sequence. Costs are what an H100 shows, in units of
// a hundred cycles: of a tile and each word of its rows that a block has, of a head's K and each word of it.
std::vector<int32_t> shares(std::vector<GateSequence> &list, int64_t heads, int64_t block, int64_t blocks,
                            int64_t most) {
  constexpr int64_t kTile = 10, kWord = 3, kHead = 15, kHeadWord = 5;
  struct Costs {
    std::vector<int32_t> begin, more;  // of each tile: as the first of its head in a cluster; after the one before it
  };
  std::vector<Costs> costs;
  int64_t items = 0, total = 0, longest = 0;
  for (GateSequence &s : list) {
    s.first_item = int32_t(items);
    Costs c;
    int64_t words = 0;
    for (int64_t row = kSelectClusterRows; row < s.rows + kSelectClusterRows; row += kSelectClusterRows) {
      const int64_t last = std::min<int64_t>(row, s.rows) - 1, before = words;
      words = ceil_div(causal_blocks(last, s.q_len, s.offset, block), 32 * blocks);
      const int64_t tile = kTile + kWord * words;
      c.begin.push_back(int32_t(tile + kHead + kHeadWord * words));
      c.more.push_back(before > 0 ? int32_t(tile + kHeadWord * (words - before)) : c.begin.back());
      total += heads * c.more.back();
      longest = std::max<int64_t>(longest, c.begin.back());
    }
    items += checked_mul(int64_t(c.begin.size()), heads);
    SEER_REQUIRE(items <= INT32_MAX, Status::unsupported, "select has %lld tiles; a launch has at most 2147483647",
                 (long long)items);
    costs.push_back(std::move(c));
  }
  std::vector<int32_t> start;
  for (int64_t limit = std::max(total / most, longest);; limit += limit / 32 + 1) {
    start.assign(1, 0);
    int64_t used = 0;
    int32_t item = 0;
    for (const Costs &c : costs)
      for (int64_t head = 0; head < heads; head++)
        for (size_t tile = 0; tile < c.begin.size(); tile++, item++) {
          int64_t cost = tile > 0 && item > start.back() ? c.more[tile] : c.begin[tile];
          if (item > start.back() && used + cost > limit) {
            start.push_back(item);
            used = 0;
            cost = c.begin[tile];
          }
          used += cost;
        }
    start.push_back(item);
    if (int64_t(start.size()) - 1 <= most) return start;
  }
}

// By clusters of so many blocks of threads; false: the device has no room for one.
bool Call::clusters(std::vector<GateSequence> &list, uint32_t blocks) {
  const Kernel &kernel = device_.kernel("select_cluster", "select_cluster_" + std::to_string(args_.gate.dim));
  Launch launch{.blocks = blocks,
                .threads = kSelectClusterThreads,
                .shared = uint64_t(select_cluster_shared(int(args_.gate.dim), int(blocks))),
                .cluster = blocks,
                .overlap = true};
  const int64_t room = device_.recorder->clusters_at_once(kernel, launch);
  if (room == 0) return false;
  SelectClusterParams p{};
  const std::vector<int32_t> start =
      shares(list, args_.q_heads, args_.block, blocks, std::min<int64_t>(room, kSelectClusters));
  std::copy(start.begin(), start.end(), p.start);
  p.score = threshold_params(list);
  set_sequences(*device_.recorder, list, p.score);
  launch.blocks = (start.size() - 1) * blocks;
  device_.recorder->launch(kernel, launch, p);
  return true;
}

void Call::threshold(std::vector<GateSequence> &list) {
  if (hopper()) {
    // The longest rows first: the others fill up behind them.
    std::vector<GateSequence> part, rest;
    for (uint32_t blocks = kSelectClusterMost; blocks > 0; blocks /= 2) {
      part.clear(), rest.clear();
      for (const GateSequence &s : list) {
        const int64_t columns = longest_row(s), most = blocks * kSelectClusterWords * 32;
        const int64_t least = blocks > 1 ? most / 2 : kShortRow;
        (columns > least && columns <= most ? part : rest).push_back(s);
      }
      if (!part.empty() && !clusters(part, blocks)) rest.insert(rest.end(), part.begin(), part.end());
      list.swap(rest);
    }
    if (list.empty()) return;
  }
  int64_t wanted = 0, longest = 0;
  for (const GateSequence &s : list) {
    wanted += s.rows;
    longest = std::max(longest, longest_row(s));
  }
  ScoreParams p = threshold_params(list);
  if (hopper() && longest >= kLongEnough) {
    // Large tiles share the splitting of K; small ones spread few rows wider.
    const int rows = ceil_div(wanted, int64_t{128}) * args_.q_heads >= device_.caps.multiprocessors / 2 ? 128 : 64;
    set_rows(*device_.recorder, list, rows, p);
    const int64_t blocks = checked_mul(p.items, args_.q_heads);
    const Kernel &kernel = device_.kernel(
        "select_sm90", "select_threshold_" + std::to_string(rows) + "x" + std::to_string(args_.gate.dim));
    return device_.recorder->launch(kernel,
                                    {.blocks = uint64_t(blocks),
                                     .threads = uint32_t(2 * rows),
                                     .shared = uint64_t(select_sm90_shared(int(args_.gate.dim))),
                                     .overlap = true},
                                    p);
  }
  const ScoreTile tile = score_tile(device_, args_.gate, wanted, longest, 128);
  set_rows(*device_.recorder, list, tile.rows, p);
  if (tile.rows <= 64) {
    // As many tiles of columns as leave room for a second block of threads.
    const int64_t room = device_.caps.max_shared / 2 - score_shared(tile.rows, 0);
    const int64_t each = score_shared(tile.rows, 1) - score_shared(tile.rows, 0);
    p.stash = int32_t(std::clamp<int64_t>(room / each, 0, ceil_div(longest, int64_t{kScoreCols})));
  }
  const Kernel &kernel = device_.kernel("score", std::string("select_threshold") + tile.suffix());
  device_.recorder->launch(kernel,
                           {.blocks = uint64_t(checked_mul(p.items, args_.q_heads)),
                            .threads = tile.threads(),
                            .shared = uint64_t(score_shared(tile.rows, p.stash)),
                            .overlap = true},
                           p);
}

void Call::select_rows(std::vector<GateSequence> &list, const float *scores, int64_t scores_head, int64_t scores_row) {
  SelectRowsParams p{};
  p.scores = scores;
  p.scores_head = scores_head;
  p.scores_row = scores_row;
  p.threshold = float(args_.rule.threshold);
  p.block = int32_t(args_.block);
  p.q_heads = int32_t(args_.q_heads);
  set_mask(p);
  set_rows(*device_.recorder, list, 1, p);
  device_.recorder->launch(device_.kernel("select", "select_rows"),
                           {.blocks = uint64_t(ceil_div(int64_t{p.items} * args_.q_heads, kSelectThreads / 32)),
                            .threads = kSelectThreads,
                            .overlap = true},
                           p);
}

void Call::bands(const std::vector<GateSequence> &list) {
  const int64_t cols = row_bytes(args_) / 4 / args_.q_heads;
  const int64_t most = cols > 0 ? std::max<int64_t>(1, kBandBytes / row_bytes(args_)) : 0;  // rows of a band
  std::vector<GateSequence> band, dense;
  int64_t used = 0;
  const auto flush = [&] {
    if (band.empty()) return;
    ScoreParams p = score_params(args_.gate, args_.block, cols);
    p.scores = static_cast<float *>(args_.scratch);
    p.scores_head = used * cols;
    p.scores_row = cols;
    launch_logits(device_, args_.gate, band, p);
    select_rows(band, p.scores, p.scores_head, p.scores_row);
    band.clear();
    used = 0;
  };
  for (const GateSequence &s : list) {
    for (int64_t row = 0; row < s.dense_row;) {
      if (used == most) flush();
      GateSequence part = s;
      part.first_row = int32_t(row);
      part.rows = int32_t(std::min(most - used, s.dense_row - row));
      part.scores_at = (used - row) * cols;
      band.push_back(part);
      used += part.rows;
      row += part.rows;
    }
    if (s.dense_row < s.rows) {
      dense.push_back(s);
      dense.back().first_row = s.dense_row;
      dense.back().rows = s.rows - s.dense_row;
    }
  }
  flush();
  if (!dense.empty()) select_rows(dense, nullptr, 0, 0);
}

void Call::run() {
  std::vector<GateSequence> list;
  for (const Sequence &s : args_.sequences)
    if (s.q_len > 0) list.push_back(rows(s));
  if (list.empty()) return;
  if (needs_bands(args_)) return bands(list);
  if (args_.scores.data || args_.rule.method == SelectMethod::all)
    return select_rows(list, args_.scores.data, args_.scores.stride_head, args_.scores.stride_token);
  threshold(list);
}

}  // namespace

uint64_t select_scratch(const CudaDevice &, const SelectArgs &args) {
  if (!needs_bands(args)) return 0;
  int64_t rows = 0;
  for (const Sequence &s : args.sequences) rows += dense_row(args, s);
  const int64_t row = row_bytes(args);
  return uint64_t(std::max(row, std::min(kBandBytes, checked_mul(row, rows))));
}

void select(CudaDevice &device, Exec &exec, const SelectArgs &args) {
  device.recorder->stage(exec);
  Call(device, args).run();
}

}  // namespace seer::cuda
