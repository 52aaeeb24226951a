// select: see shaders/select.comp and select_subgroup.comp. From gate vectors it computes the logits of a band of rows
// at a time into scratch and selects from there, so that no n x n matrix is ever written: a second computation of the
// logits on a device's cores, or one per bit of a key, would cost more than the bytes. Where the logits come from
// cooperative matrices the vectors, taken apart, lie in the scratch behind the bands. By threshold, cooperative
// matrices whose layout is known do it without bands (select_coopmat.h): the scratch has the vectors of key blocks
// then.
#include <array>
#include <optional>
#include <vector>

#include "../select_rule.h"
#include "score.h"
#include "score_coopmat.h"
#include "select_coopmat.h"
#include "select_push.h"

namespace seer::vulkan {
namespace {

// Of a half of the scratch: logits go to one half while rows of the other are selected. A large device needs much work
// at a time: with 16 MB the last workgroups of each band cost an H100 more than all bands' traffic to memory.
int64_t most_half_bytes(const Caps &caps) {
  return std::clamp(int64_t(caps.heap_bytes / 512), int64_t{16} << 20, int64_t{128} << 20);
}

// Whether subgroups take a row each.
bool subgroups_select(const Caps &caps) {
  constexpr uint32_t ops =
      VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT;
  const uint32_t size = caps.subgroup_size;
  return (caps.subgroup_ops & ops) == ops && caps.subgroup_size_control && caps.full_subgroups && size >= 4 &&
         size <= kRowThreads && (size & (size - 1)) == 0;
}

// How many scores of a row a lane keeps in registers, 0: none. Few numbers, for each is a pipeline.
uint32_t held_scores(const Caps &caps, int64_t cols) {
  if (caps.software()) return 0;  // registers of a CPU are memory, and its compiler takes long for unrolled code
  for (const uint32_t held : {8u, 16u, 32u, 64u})
    if (cols <= int64_t{held} * caps.subgroup_size) return held;
  return 0;
}

// Rows before those that keep everything anyhow.
int64_t scored_rows(const SelectArgs &args, const Sequence &s) {
  if (args.rule.method == SelectMethod::all) return 0;
  int64_t rows = s.q_blocks(args.block);
  while (rows > 0 && is_dense_row(args.rule, s, rows - 1, args.block)) rows--;
  return rows;
}

int64_t row_blocks(const SelectArgs &args, const Sequence &s, int64_t row) {
  return causal_blocks(row, s.q_len, s.offset(), args.block);
}

// Bytes of a half, in whole `offset_alignment`: of the longest row, and of all rows of the largest sequence, but then
// at most most_half_bytes.
struct HalfBytes {
  int64_t least = 0, most = 0;
};
HalfBytes half_bytes(const Caps &caps, const SelectArgs &args) {
  int64_t all = 0, row = 0;
  for (const Sequence &s : args.sequences) {
    const int64_t rows = scored_rows(args, s);
    if (rows == 0) continue;
    const int64_t row_bytes = 4 * row_blocks(args, s, rows - 1);
    row = std::max(row, row_bytes);
    all = std::max(all, checked_mul(row_bytes, rows, args.q_heads));
  }
  const int64_t limit = std::min(most_half_bytes(caps), int64_t(caps.max_range) - int64_t{caps.offset_alignment});
  const int64_t alignment = caps.offset_alignment;
  return {round_up(row, alignment), round_up(std::max(row, std::min(all, limit)), alignment)};
}

// The vectors of a sequence on cooperative matrices: as many as its rows and key blocks have.
struct Vectors {
  int64_t q = 0, k = 0;
};
Vectors vectors_of(const SelectArgs &args, const Sequence &s) {
  const int64_t rows = scored_rows(args, s);
  if (rows == 0) return {};
  return {rows * args.gate.q_heads, row_blocks(args, s, rows - 1) * args.gate.k_heads};
}

// Whether the vectors of each sequence can be bound whole, those of its rows and those of its key blocks.
bool bindable(const Caps &caps, const SelectArgs &args, bool rows) {
  return std::all_of(args.sequences.begin(), args.sequences.end(), [&](const Sequence &s) {
    const Vectors n = vectors_of(args, s);
    return split_bytes(std::max(rows ? n.q : 0, n.k), args.gate.dim) + caps.offset_alignment <= caps.max_range;
  });
}

// How logits come about.
struct Plan {
  bool banded = true;                       // or by matrices whose layout is known
  std::optional<ScoreTile> tile;            // of bands, on matrices
  int64_t half_bytes = 0, split_bytes = 0;  // of the scratch
};

Plan plan_of(const VulkanDevice &device, const SelectArgs &args) {
  const Caps &caps = device.caps;
  const int64_t alignment = caps.offset_alignment;
  Plan plan;
  plan.banded = args.rule.method != SelectMethod::threshold || !(args.gate.scale > 0) || !bindable(caps, args, false) ||
                !selects_on_matrices(device, args.gate.dim);
  if (plan.banded && bindable(caps, args, true)) plan.tile = score_tile(caps, args.gate.dim);
  if (!plan.banded || plan.tile)
    for (const Sequence &s : args.sequences) {
      const Vectors n = vectors_of(args, s);
      for (const int64_t vectors : {plan.tile ? n.q : 0, n.k})
        plan.split_bytes += round_up(int64_t(split_bytes(vectors, args.gate.dim)), alignment);
    }
  const HalfBytes half = half_bytes(caps, args);
  // Bands may come to lie where the vectors would have been, should the kernel without them turn out to be wrong.
  plan.half_bytes =
      plan.banded ? half.most : std::clamp(plan.split_bytes / 2 / alignment * alignment, half.least, half.most);
  return plan;
}

// Rows of scores of one sequence: the caller's or a band of logits. `to` and the strides name the first of them.
struct Scores {
  const float *from = nullptr;  // null: none are needed
  int64_t stride_head = 0, stride_row = 0;
};

class Call {
public:
  Call(VulkanDevice &device, Exec &exec, const SelectArgs &args) : device_(device), exec_(exec), args_(args) {
    if (!args.scores.data) plan_ = plan_of(device, args);
  }

  void run();

private:
  void split(char *to, bool beside);
  void without_bands(const SelectTile &tile, bool beside);
  void bands(const Sequence &s, int64_t rows, const SplitLogits &split, bool beside);
  void select(const Sequence &s, const Piece &rows, const Scores &scores, bool beside);

  VulkanDevice &device_;
  Exec &exec_;
  const SelectArgs &args_;
  Plan plan_;
  std::vector<SplitLogits> split_;  // of each sequence
  int64_t bands_ = 0;
};

void Call::select(const Sequence &s, const Piece &rows, const Scores &scores, bool beside) {
  const SelectRule &rule = args_.rule;
  const bool from_logits = !args_.scores.data;
  uint32_t mode = kSelectDense;
  if (scores.from)
    mode = rule.method != SelectMethod::threshold ? kSelectBest : from_logits ? kSelectSoftmax : kSelectAbove;

  const auto score_elements = [&](const Piece &p) {
    return scores.from
               ? span_elements(p, scores.stride_row, scores.stride_head, row_blocks(args_, s, p.row + p.rows - 1))
               : 0;
  };
  const auto bytes = [&](const Piece &p) {
    return checked_mul(std::max(score_elements(p), select_mask_words(args_, p)), 4);
  };
  each_piece(device_.caps, rows, bytes, [&](const Piece &p) {
    Recorder &recorder = *device_.recorder;
    Window on_scores = recorder.absent();
    if (scores.from)
      on_scores = recorder.window(
          scores.from + (p.head - rows.head) * scores.stride_head + (p.row - rows.row) * scores.stride_row,
          uint64_t(score_elements(p) * 4));
    const SelectOut out = select_out(recorder, args_, s, p);
    auto push = select_push<SelectPush>(args_, s, p, out);
    push.scores_skip = on_scores.skip;
    push.scores_head = kernel_stride(scores.stride_head, p.heads);
    push.scores_row = kernel_stride(scores.stride_row, p.rows);
    if (mode == kSelectBest)
      push.keep = uint32_t(std::min<int64_t>(keep_count(rule, s.total_len, args_.block), UINT32_MAX));

    const int64_t cols = row_blocks(args_, s, p.row + p.rows - 1);
    const uint64_t count = uint64_t(p.rows * p.heads);
    const double row_flops = double(cols) * (mode == kSelectBest ? 128 : 64) + 2000;
    Work work{.items = count, .flops = row_flops, .units = count, .beside = beside};
    KernelKey key{.module = "select", .constants = {}, .bindings = 3, .push_bytes = sizeof push};
    if (mode != kSelectDense && subgroups_select(device_.caps)) {
      const uint32_t size = device_.caps.subgroup_size, rows_of_item = kRowThreads / size;
      key.module = "select_subgroup";
      key.constants = {size, mode, held_scores(device_.caps, cols)};
      key.subgroup_size = size;
      key.full_subgroups = true;
      key.shared_bytes = 8;
      work.items = (count + rows_of_item - 1) / rows_of_item;
      work.flops = row_flops * rows_of_item;
    } else {
      const uint32_t cached = mode == kSelectDense ? 0 : cached_scores(device_.caps, cols);
      key.constants = {cached, mode};
      key.shared_bytes = row_shared_bytes(cached);
    }
    recorder.dispatch(exec_, device_.kernel(key), std::array{on_scores, out.mask, out.stats}, push, work);
    beside = true;
  });
}

// Takes the vectors of all sequences apart: those of rows only for bands.
void Call::split(char *to, bool beside) {
  const GateVectors &gate = args_.gate;
  const auto side = [&](const float *from, int64_t vectors) {
    void *here = to;
    if (vectors > 0) {
      record_split(device_, exec_, from, vectors, gate.dim, here, beside);
      beside = true;
      to += round_up(int64_t(split_bytes(vectors, gate.dim)), int64_t{device_.caps.offset_alignment});
    }
    return here;
  };
  for (const Sequence &s : args_.sequences) {
    const Vectors n = vectors_of(args_, s);
    const void *q = side(gate.q + s.q_row * gate.q_heads * gate.dim, plan_.tile ? n.q : 0);
    const void *k = side(gate.k + s.k_row * gate.k_heads * gate.dim, n.k);
    split_.push_back({.split_q = q, .split_k = k, .q_vectors = n.q, .k_vectors = n.k});
  }
}

void Call::without_bands(const SelectTile &tile, bool beside) {
  for (size_t i = 0; i < args_.sequences.size(); i++) {
    const Sequence &s = args_.sequences[i];
    const SelectSplit what{.args = args_,
                           .sequence = s,
                           .rows = scored_rows(args_, s),
                           .split_k = split_[i].split_k,
                           .k_vectors = split_[i].k_vectors};
    if (what.rows == 0) continue;
    record_select_split(device_, exec_, tile, what, beside);
    beside = true;
  }
}

// As many heads as fit a half of the scratch, or of one head as many rows. `beside`: of the first logits.
void Call::bands(const Sequence &s, int64_t rows, const SplitLogits &split, bool beside) {
  const int64_t floats = plan_.half_bytes / 4, whole = checked_mul(rows, row_blocks(args_, s, rows - 1));
  const auto band = [&](const Piece &p) {
    float *half = static_cast<float *>(args_.scratch) + bands_ % 2 * floats;
    const int64_t cols = row_blocks(args_, s, p.row + p.rows - 1);
    // The logits of a band may run beside the selection from the band before, which reads the other half. Selection
    // from the band before that is over: the barrier ahead of the last one saw to it.
    const Logits logits{.gate = args_.gate,
                        .sequence = s,
                        .block = args_.block,
                        .rows = p,
                        .cols = cols,
                        .to = half,
                        .stride_head = p.rows * cols,
                        .stride_row = cols};
    if (plan_.tile)
      record_split_logits(device_, exec_, *plan_.tile, logits, split, beside);
    else
      record_logits(device_, exec_, logits, beside);
    select(s, p, {half, p.rows * cols, cols}, false);
    bands_++;
    beside = true;
  };
  if (whole <= floats) {
    const int64_t heads = floats / whole;
    for (int64_t h = 0; h < args_.q_heads; h += heads) band({0, rows, h, std::min(heads, args_.q_heads - h)});
    return;
  }
  for (int64_t h = 0; h < args_.q_heads; h++)
    for (int64_t r = 0, n; r < rows; r += n) {
      n = std::max<int64_t>(1, std::min(rows - r, floats / row_blocks(args_, s, rows - 1)));
      // Whole tiles, where that leaves any.
      if (n < rows - r && n > kScoreTile) n -= n % kScoreTile;
      band({r, n, h, 1});
    }
}

void Call::run() {
  bool beside = false;
  for (const Sequence &s : args_.sequences) {
    const int64_t rows = s.q_blocks(args_.block), scored = scored_rows(args_, s);
    if (scored < rows) {
      select(s, {scored, rows - scored, 0, args_.q_heads}, {}, beside);
      beside = true;
    }
    if (scored > 0 && args_.scores.data) {
      const FloatView &view = args_.scores;
      select(s, {0, scored, 0, args_.q_heads}, {view.at(s.batch, 0, s.mask_row), view.stride_head, view.stride_token},
             beside);
      beside = true;
    }
  }
  if (args_.scores.data) return;
  std::optional<SelectTile> tile;
  if (!plan_.banded) {
    int64_t rows = 0;
    for (const Sequence &s : args_.sequences) rows += scored_rows(args_, s) * args_.q_heads;
    tile = select_tile(device_, args_.gate.dim, rows);
  }
  if (tile || plan_.tile) {
    split(static_cast<char *>(args_.scratch) + (tile ? 0 : 2 * plan_.half_bytes), beside);
    beside = false;
  }
  if (tile) return without_bands(*tile, beside);
  for (size_t i = 0; i < args_.sequences.size(); i++) {
    const int64_t scored = scored_rows(args_, args_.sequences[i]);
    if (scored > 0) bands(args_.sequences[i], scored, split_.empty() ? SplitLogits{} : split_[i], beside || bands_ > 0);
  }
}

}  // namespace

uint64_t select_scratch(const VulkanDevice &device, const SelectArgs &args) {
  if (args.scores.data) return 0;
  const Plan plan = plan_of(device, args);
  return uint64_t(plan.banded ? 2 * plan.half_bytes + plan.split_bytes
                              : std::max(plan.split_bytes, 2 * plan.half_bytes));
}

void select(VulkanDevice &device, Exec &exec, const SelectArgs &args) { Call(device, exec, args).run(); }

}  // namespace seer::vulkan
