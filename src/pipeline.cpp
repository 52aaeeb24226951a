#include "pipeline.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "call_kind.h"
#include "checked.h"
#include "stage_exec.h"
#include "timed_call.h"
#include "views.h"

namespace seer {
namespace {

constexpr uint64_t kGateUnits = 4;  // pool and project, of q and of k; the other stages count block rows

int64_t total_q_blocks(std::span<const Sequence> sequences, int64_t block) {
  int64_t rows = 0;
  for (const Sequence &s : sequences) rows += s.q_blocks(block);
  return rows;
}

// The length that length-dependent RoPE scalings look at.
int64_t rope_length(const Sequence &s) { return std::max(s.total_len, s.k_len); }

// Rows of the gate's vectors in workspace and cache.
void assign_rows(std::vector<Sequence> &sequences, const GateCall &call) {
  const GateCache *cache = call.cache;
  const int64_t block = call.config->block_size;
  int64_t q_row = 0, k_row = 0, k_pool_row = 0;
  for (size_t i = 0; i < sequences.size(); i++) {
    Sequence &s = sequences[i];
    const int64_t k_blocks = s.k_blocks(block);
    if (cache) {
      // A block counts as cached only while all of it lies within this call's keys.
      const int64_t covered = call.recorded ? s.offset() / block : cache->blocks(call.cache_layer, int32_t(i));
      s.cached_blocks = std::min(covered, s.k_len / block);
      SEER_REQUIRE(k_blocks <= cache->max_blocks(), Status::cache_state,
                   "sequence %zu has %lld key blocks; the gate cache holds %lld", i, (long long)k_blocks,
                   (long long)cache->max_blocks());
    }
    s.q_row = q_row;
    s.k_pool_row = k_pool_row;
    s.k_row = cache ? int64_t(i) * cache->max_blocks() : k_row;
    q_row += s.q_blocks(block);
    k_row += k_blocks;
    k_pool_row += k_blocks - s.cached_blocks;
  }
}

Problem gate_problem(const GateCall &call) {
  Problem problem;
  problem.sequences = call.sequences;
  problem.q_heads = call.q.heads;
  problem.kv_heads = call.k.heads;
  problem.head_dim = call.q.dim;
  problem.dtype = call.q.dtype;
  problem.block = call.config->block_size;
  problem.gate = call.config;
  problem.cached = call.cache != nullptr;
  problem.own_mask = !call.mask.words && call.mask_bytes.bytes;
  return problem;
}

uint64_t attend_scratch(const Device &device, std::span<const Sequence> sequences, int64_t block, const TokenView &q,
                        const TokenView &k, const TokenView &v) {
  if (!device.fns->attend_scratch) return 0;
  return device.fns->attend_scratch(device, {.sequences = sequences, .block = block, .q = q, .k = k, .v = v});
}

// For all heads at once; a pass over some of them needs no more.
uint64_t select_scratch(const Device &device, const Problem &problem, const SelectRule &rule) {
  if (!device.fns->select_scratch) return 0;
  const GateConfig &gate = *problem.gate;
  SelectArgs args{.sequences = problem.sequences, .block = problem.block, .q_heads = problem.q_heads, .rule = rule};
  args.gate.q_heads = problem.q_heads;
  args.gate.k_heads = gate.single() ? problem.q_heads : problem.kv_heads;
  args.gate.dim = gate.gate_dim;
  return device.fns->select_scratch(device, args);
}

Problem prefill_problem(const Device &device, const GateCall &gate, const AttendCall &attend) {
  Problem problem = gate_problem(gate);
  problem.select_scratch = select_scratch(device, problem, gate.rule);
  problem.scratch = std::max(attend_scratch(device, gate.sequences, gate.config->block_size, gate.q, gate.k, attend.v),
                             problem.select_scratch);
  problem.own_mask = !gate.mask.words;
  problem.rotate = attend.rope.kind != RopeKind::none;
  return problem;
}

Problem attend_problem(const Device &device, const AttendCall &call) {
  Problem problem;
  problem.scratch = attend_scratch(device, call.sequences, call.block, call.q, call.k, call.v);
  problem.sequences = call.sequences;
  problem.q_heads = call.q.heads;
  problem.kv_heads = call.k.heads;
  problem.head_dim = call.q.dim;
  problem.dtype = call.q.dtype;
  problem.block = call.block;
  problem.rotate = call.rope.kind != RopeKind::none;
  problem.own_mask = !call.mask.words && call.mask_bytes.bytes;
  return problem;
}

// A rehearsal leaves no traces in a cache.
GateCall without_cache(GateCall call) {
  call.cache = nullptr;
  return call;
}

}  // namespace

struct Pipeline::Impl {
  Device &device;
  uint64_t limit;
  Memory workspace;
  RopeTableCache rope_tables;
  std::set<CallKind> rehearsed;

  Impl(Device &d, uint64_t workspace_limit) : device(d), limit(workspace_limit) {}
  ~Impl() { release_workspace(); }

  // Runs a call of a new kind without the device first, so that the kernels it takes can be made together. What decides
  // on kernels beyond its kind has them made one by one.
  template <class Run>
  void rehearse(CallKind kind, const Run &run) {
    if (!device.fns->rehearse || !rehearsed.insert(std::move(kind)).second) return;
    try {
      const std::unique_ptr<Device> stand_in = device.fns->rehearse(device);
      Pipeline pipeline(*stand_in);
      Exec exec;
      CallStats stats;
      run(pipeline, exec, stats);
      device.fns->rehearsed(device, *stand_in);
    } catch (const Error &error) {  // said when it is run in earnest
      device.log(LogLevel::debug, "a rehearsal ends with: %s", error.what());
    }
  }

  void release_workspace() {
    if (workspace.size) device.fns->free(device, workspace);
    workspace = {};
  }

  Plan prepare(const Problem &problem, CallStats &stats) {
    SEER_REQUIRE(problem.head_dim <= device.limits.max_head_dim, Status::unsupported,
                 "head dim is %lld; this device takes up to %lld", (long long)problem.head_dim,
                 (long long)device.limits.max_head_dim);
    const Plan plan = make_plan(problem, device.limits);
    SEER_REQUIRE(!limit || plan.workspace_bytes <= limit, Status::out_of_memory,
                 "the call needs %llu bytes of workspace; the context's limit is %llu",
                 (unsigned long long)plan.workspace_bytes, (unsigned long long)limit);
    if (workspace.size < plan.workspace_bytes) {
      release_workspace();
      workspace = device.fns->alloc(device, plan.workspace_bytes);
    }
    if (device.fns->clear) {
      device.fns->clear(device, workspace, plan.stats.offset, sizeof(SelectStats));
    } else {
      const SelectStats zero;
      device.fns->write(device, workspace, plan.stats.offset, &zero, sizeof zero);
    }
    stats.workspace_bytes = plan.workspace_bytes;
    return plan;
  }

  template <class T>
  T *at(const Region &region) const {
    return reinterpret_cast<T *>(static_cast<char *>(workspace.address) + region.offset);
  }

  BlockMaskView own_mask(const Plan &plan) const {
    // Packed sequences have batch 0 and rising mask_row, dense ones batch b and mask_row 0: one layout serves both.
    return {.words = at<uint32_t>(plan.mask),
            .stride_batch = plan.max_q_blocks * plan.mask_row_words,
            .stride_head = plan.q_rows * plan.mask_row_words,
            .stride_row = plan.mask_row_words};
  }

  // A view that keeps what it points to alive.
  struct RopeUse {
    RopeFreqs freqs;
    std::shared_ptr<const RopeTables> tables;
    int64_t step = 1;
    RopeView view() const {
      if (freqs.inv_freq.empty()) return {};
      return {.inv_freq = freqs.inv_freq.data(),
              .attention_scaling = freqs.attention_scaling,
              .half = int64_t(freqs.inv_freq.size()),
              .cos = tables ? tables->cos.data() : nullptr,
              .sin = tables ? tables->sin.data() : nullptr,
              .step = step};
    }
  };
  RopeUse rope(const RopeConfig &config, int64_t dim, int64_t length, int64_t rows, int64_t step) {
    RopeUse use;
    if (config.kind == RopeKind::none || rows == 0) return use;
    use.freqs = rope_freqs(config, dim, length);
    use.step = step;
    if (device.limits.rope_tables) use.tables = rope_tables.get(use.freqs, rows, step);
    return use;
  }

  // Runs f(first, last) over runs of sequences that share their RoPE frequencies: all of them, but for the scalings
  // that depend on the length.
  template <class F>
  static void each_rope_group(const std::vector<Sequence> &sequences, bool length_matters, F f) {
    size_t first = 0;
    for (size_t i = 1; i <= sequences.size(); i++) {
      if (i < sequences.size() && (!length_matters || rope_length(sequences[i]) == rope_length(sequences[first])))
        continue;
      f(std::span(sequences).subspan(first, i - first));
      first = i;
    }
  }

  // pool, project, score, select. `rotate` (null = no) also gets rotated copies for attend: of q and of k, where these
  // have memory.
  void run_gate(Exec &exec, const GateCall &call, std::span<const Sequence> sequences, const Plan &plan,
                const BlockMaskView *mask, const AttendCall *rotate, const TokenView &rotated_q,
                const TokenView &rotated_k) {
    const GateConfig &config = *call.config;
    int64_t length = 0, k_blocks = 0, k_tokens = 0;
    for (const Sequence &s : sequences) {
      length = std::max(length, rope_length(s));
      k_blocks = std::max(k_blocks, s.k_blocks(config.block_size));
      k_tokens = std::max(k_tokens, s.k_len);
    }
    const RopeUse gate_rope = rope(call.rope, config.gate_dim, length, k_blocks, config.block_size);
    const RopeUse token_rope = rotate ? rope(rotate->rope, config.head_dim, length, k_tokens, 1) : RopeUse{};
    GatePass pass{.call = call, .sequences = sequences, .plan = plan, .mask = mask};
    pass.gate_rope = gate_rope.view();
    pass.token_rope = token_rope.view();
    pass.rotated_q = rotated_q;
    pass.rotated_k = rotated_k;
    for (pass.head = 0; pass.head < config.kv_heads; pass.head += plan.pass_kv_heads) {
      pass.heads = std::min(plan.pass_kv_heads, config.kv_heads - pass.head);
      run_pass(exec, pass);
    }
  }

  // The gate of some KV heads and their query heads.
  struct GatePass {
    const GateCall &call;
    std::span<const Sequence> sequences;
    const Plan &plan;
    const BlockMaskView *mask;
    TokenView rotated_q{}, rotated_k{};  // without memory: not wanted
    RopeView gate_rope{}, token_rope{};
    int64_t head = 0, heads = 0;
  };

  void run_pass(Exec &exec, const GatePass &pass) {
    const BackendFns &fns = *device.fns;
    const GateCall &call = pass.call;
    const Plan &plan = pass.plan;
    const GateConfig &config = *call.config;
    const int64_t block = config.block_size, head_dim = config.head_dim, group = config.q_heads / config.kv_heads;
    const int64_t kv_head = pass.head, kv_heads = pass.heads, q_head = kv_head * group, q_heads = kv_heads * group;
    const int64_t k_weight_heads = config.single() ? q_heads : kv_heads;
    // Stages that are one unit of progress have done it when the last pass has.
    const uint64_t unit = kv_head + kv_heads == config.kv_heads ? 1 : 0;
    float *gate_q = at<float>(plan.gate_q);
    float *gate_k = call.cache ? call.cache->gate_k(call.cache_layer) : at<float>(plan.gate_k);

    GateVectorArgs args;
    args.pool_q = {.sequences = pass.sequences, .side = Side::q, .block = block};
    args.pool_q.x = some_heads(call.q, q_head, q_heads);
    args.pool_q.pool_bits = config.q_pool;
    args.pool_q.pooled = at<float>(plan.pooled_q);
    args.pool_k = {.sequences = pass.sequences, .side = Side::k, .block = block};
    args.pool_k.x = some_heads(call.k, kv_head, kv_heads);
    args.pool_k.pool_bits = config.k_pool;
    args.pool_k.pooled = at<float>(plan.pooled_k);
    args.pool_q.rope = args.pool_k.rope = pass.token_rope;
    args.pool_q.rotated = some_heads(pass.rotated_q, q_head, q_heads);
    args.pool_k.rotated = some_heads(pass.rotated_k, kv_head, kv_heads);

    ProjectArgs &project_q = args.project_q, &project_k = args.project_k;
    project_q = {.sequences = pass.sequences, .side = Side::q, .block = block};
    project_q.pooled = args.pool_q.pooled;
    project_q.pooled_heads = project_q.gate_heads = q_heads;
    project_q.in = head_dim * pool_count(config.q_pool);
    project_q.out = config.gate_dim;
    project_q.weight = some_heads(call.weights->wq, q_head, q_heads);
    project_q.rope = pass.gate_rope;
    project_q.gate = gate_q;
    project_k = {.sequences = pass.sequences, .side = Side::k, .block = block};
    project_k.pooled = args.pool_k.pooled;
    project_k.pooled_heads = kv_heads;
    project_k.gate_heads = k_weight_heads;
    project_k.in = head_dim * pool_count(config.k_pool);
    project_k.out = config.gate_dim;
    project_k.weight = some_heads(call.weights->wk, config.single() ? q_head : kv_head, k_weight_heads);
    project_k.rope = pass.gate_rope;
    project_k.gate = gate_k;
    if (fns.gate_vectors) {
      stage(exec, kGateUnits * unit, [&](Exec &e) { fns.gate_vectors(device, e, args); });
    } else {
      stage(exec, unit, [&](Exec &e) { fns.pool(device, e, args.pool_q); });
      stage(exec, unit, [&](Exec &e) { fns.pool(device, e, args.pool_k); });
      stage(exec, unit, [&](Exec &e) { fns.project(device, e, project_q); });
      stage(exec, unit, [&](Exec &e) { fns.project(device, e, project_k); });
    }

    GateVectors vectors{.q = gate_q, .k = gate_k, .q_heads = q_heads, .k_heads = k_weight_heads};
    vectors.dim = config.gate_dim;
    vectors.scale = 1.0 / std::sqrt(double(config.gate_dim));
    if (call.scores.data) {
      const ScoreArgs score{.sequences = pass.sequences,
                            .block = block,
                            .gate = vectors,
                            .softmax = !call.scores_are_logits,
                            .scores = some_heads(call.scores, q_head),
                            .cols = call.scores_cols};
      stage(exec, unit, [&](Exec &e) { fns.score(device, e, score); });
    }
    if (pass.mask) {
      SelectArgs select{.sequences = pass.sequences, .block = block, .q_heads = q_heads, .gate = vectors};
      select.rule = call.rule;
      select.mask = some_heads(*pass.mask, q_head);
      select.mask_row_words = plan.mask_row_words;
      select.stats = at<SelectStats>(plan.stats);
      select.scratch = at<void>(plan.scratch);
      stage(exec, uint64_t(total_q_blocks(pass.sequences, block) * q_heads),
            [&](Exec &e) { fns.select(device, e, select); });
    }
  }

  void run_attend(Exec &exec, const AttendCall &call, std::span<const Sequence> sequences, int64_t block,
                  const Plan &plan, const BlockMaskView &mask, const TokenView &q, const TokenView &k, bool rotate_q,
                  bool rotate_k) {
    int64_t length = 0, tokens = 0;
    for (const Sequence &s : sequences) {
      length = std::max(length, rope_length(s));
      tokens = std::max(tokens, s.k_len);
    }
    const RopeUse use = rotate_q || rotate_k ? rope(call.rope, q.dim, length, tokens, 1) : RopeUse{};
    const AttendArgs args{.sequences = sequences,
                          .block = block,
                          .q = q,
                          .k = k,
                          .v = call.v,
                          .out = call.out,
                          .lse = call.lse,
                          .mask = mask,
                          .scale = call.scale,
                          .q_rope = rotate_q ? use.view() : RopeView{},
                          .k_rope = rotate_k ? use.view() : RopeView{},
                          .scratch = at<void>(plan.scratch)};
    stage(exec, uint64_t(total_q_blocks(sequences, block) * q.heads),
          [&](Exec &e) { device.fns->attend(device, e, args); });
  }

  // A packed copy of q or k in the workspace for its rotated form. Batches lie one behind the other.
  static TokenView rotated_view(const TokenView &x, void *data, int64_t tokens_per_batch) {
    TokenView view = x;
    view.data = data;
    view.handle = view.offset = 0;
    view.stride_head = x.dim;
    view.stride_token = x.dim * x.heads;
    view.stride_batch = view.stride_token * tokens_per_batch;
    return view;
  }

  void convert(Exec &exec, const std::vector<Sequence> &sequences, int64_t block, int64_t heads,
               const BlockMaskView &bits, int64_t row_words, const ByteMaskView &bytes, bool to_bytes) {
    const MaskBytesArgs args{
        .sequences = sequences, .block = block, .q_heads = heads, .bits = bits, .row_words = row_words, .bytes = bytes};
    if (device.fns->pack_mask) {
      (to_bytes ? device.fns->unpack_mask : device.fns->pack_mask)(device, exec, args);
      return;
    }
    for (const Sequence &s : sequences)
      for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < s.q_blocks(block); i++) {
          uint32_t *row = bits.row(s.batch, h, s.mask_row + i);
          uint8_t *out =
              bytes.bytes + s.batch * bytes.stride_batch + h * bytes.stride_head + (s.mask_row + i) * bytes.stride_row;
          if (to_bytes) {
            for (int64_t j = 0; j < bytes.cols; j++) out[j] = mask_test(row, j);
          } else {
            std::fill_n(row, row_words, 0u);
            const int64_t n = std::min(bytes.cols, s.k_blocks(block));
            for (int64_t j = 0; j < n; j++)
              if (out[j]) mask_set(row, j);
          }
        }
  }

  template <class F>
  void stage(Exec &exec, uint64_t units, F run) {
    StageExec stage_exec(exec, units);
    run(stage_exec);
    stage_exec.finish();
  }

  static void commit_cache(const GateCall &call, const std::vector<Sequence> &sequences) {
    if (!call.cache || call.recorded) return;
    for (size_t i = 0; i < sequences.size(); i++)
      call.cache->set_blocks(call.cache_layer, int32_t(i), sequences[i].k_len / call.config->block_size);
  }
};

Pipeline::Pipeline(Device &device, uint64_t workspace_limit) : impl_(std::make_unique<Impl>(device, workspace_limit)) {}
Pipeline::~Pipeline() = default;

void Pipeline::prefill(Exec &exec, const GateCall &gate, const AttendCall &attend, CallStats &stats) {
  Impl &impl = *impl_;
  impl.rehearse(prefill_kind(gate, attend), [&](Pipeline &pipeline, Exec &e, CallStats &s) {
    pipeline.prefill(e, without_cache(gate), attend, s);
  });
  TimedCall timed(impl.device, exec, stats);
  std::vector<Sequence> sequences = gate.sequences;
  const int64_t block = gate.config->block_size;
  assign_rows(sequences, gate);
  Problem problem = prefill_problem(impl.device, gate, attend);
  problem.sequences = sequences;
  const Plan plan = impl.prepare(problem, stats);
  const BlockMaskView mask = problem.own_mask ? impl.own_mask(plan) : gate.mask;

  // Of what attend does not rotate, pool leaves a rotated copy on its one pass over q and k.
  const bool copy_q = problem.rotate && !impl.device.limits.attend_rotates_q;
  const bool copy_k = problem.rotate && !impl.device.limits.attend_rotates_k;
  TokenView q = gate.q, k = gate.k, rotated_q{}, rotated_k{};
  if (copy_q && !sequences.empty())
    q = rotated_q = Impl::rotated_view(gate.q, impl.at<void>(plan.rotated_q), sequences.front().q_len);
  if (copy_k && !sequences.empty())
    k = rotated_k = Impl::rotated_view(gate.k, impl.at<void>(plan.rotated_k), sequences.front().k_len);
  const bool by_length = rope_depends_on_length(gate.rope) || rope_depends_on_length(attend.rope);
  Impl::each_rope_group(sequences, by_length, [&](std::span<const Sequence> group) {
    timed.mark(Mark::gate_begin);
    impl.run_gate(exec, gate, group, plan, &mask, copy_q || copy_k ? &attend : nullptr, rotated_q, rotated_k);
    timed.mark(Mark::gate_end);
    timed.mark(Mark::attend_begin);
    impl.run_attend(exec, attend, group, block, plan, mask, q, k, problem.rotate && !copy_q, problem.rotate && !copy_k);
    timed.mark(Mark::attend_end);
  });
  if (gate.mask_bytes.bytes)
    impl.convert(exec, sequences, block, gate.q.heads, mask, plan.mask_row_words, gate.mask_bytes, true);
  timed.end(impl.workspace, plan.stats);
  Impl::commit_cache(gate, sequences);
}

void Pipeline::gate(Exec &exec, const GateCall &call, CallStats &stats) {
  Impl &impl = *impl_;
  impl.rehearse(gate_kind(call),
                [&](Pipeline &pipeline, Exec &e, CallStats &s) { pipeline.gate(e, without_cache(call), s); });
  TimedCall timed(impl.device, exec, stats);
  std::vector<Sequence> sequences = call.sequences;
  const int64_t block = call.config->block_size;
  assign_rows(sequences, call);
  const bool want_mask = call.mask.words || call.mask_bytes.bytes;
  Problem problem = gate_problem(call);
  problem.sequences = sequences;
  if (want_mask) problem.scratch = problem.select_scratch = select_scratch(impl.device, problem, call.rule);
  const Plan plan = impl.prepare(problem, stats);
  const BlockMaskView mask = problem.own_mask ? impl.own_mask(plan) : call.mask;
  timed.mark(Mark::gate_begin);
  Impl::each_rope_group(sequences, rope_depends_on_length(call.rope), [&](std::span<const Sequence> group) {
    impl.run_gate(exec, call, group, plan, want_mask ? &mask : nullptr, nullptr, {}, {});
  });
  if (call.mask_bytes.bytes)
    impl.convert(exec, sequences, block, call.q.heads, mask, plan.mask_row_words, call.mask_bytes, true);
  timed.mark(Mark::gate_end);
  timed.end(impl.workspace, plan.stats);
  Impl::commit_cache(call, sequences);
}

void Pipeline::select(Exec &exec, const SelectCall &call, CallStats &stats) {
  Impl &impl = *impl_;
  impl.rehearse(select_kind(call), [&](Pipeline &pipeline, Exec &e, CallStats &s) { pipeline.select(e, call, s); });
  TimedCall timed(impl.device, exec, stats);
  Problem problem;
  problem.sequences = call.sequences;
  problem.q_heads = call.q_heads;
  problem.block = call.block;
  problem.own_mask = !call.mask.words;
  const Plan plan = impl.prepare(problem, stats);
  const BlockMaskView mask = problem.own_mask ? impl.own_mask(plan) : call.mask;
  SelectArgs args{.sequences = call.sequences, .block = call.block, .q_heads = call.q_heads};
  args.scores = call.scores;
  args.rule = call.rule;
  args.mask = mask;
  args.mask_row_words = plan.mask_row_words;
  args.stats = impl.at<SelectStats>(plan.stats);
  timed.mark(Mark::gate_begin);
  impl.stage(exec, uint64_t(plan.q_rows * call.q_heads),
             [&](Exec &e) { impl.device.fns->select(impl.device, e, args); });
  if (call.mask_bytes.bytes)
    impl.convert(exec, call.sequences, call.block, call.q_heads, mask, plan.mask_row_words, call.mask_bytes, true);
  timed.mark(Mark::gate_end);
  timed.end(impl.workspace, plan.stats);
}

void Pipeline::attend(Exec &exec, const AttendCall &call, CallStats &stats) {
  Impl &impl = *impl_;
  impl.rehearse(attend_kind(call), [&](Pipeline &pipeline, Exec &e, CallStats &s) { pipeline.attend(e, call, s); });
  TimedCall timed(impl.device, exec, stats);
  const Problem problem = attend_problem(impl.device, call);
  const Plan plan = impl.prepare(problem, stats);
  BlockMaskView mask = call.mask;
  timed.mark(Mark::attend_begin);
  if (problem.own_mask) {
    mask = impl.own_mask(plan);
    impl.convert(exec, call.sequences, call.block, call.q.heads, mask, plan.mask_row_words, call.mask_bytes, false);
  }
  const bool copy_q = problem.rotate && !impl.device.limits.attend_rotates_q;
  const bool copy_k = problem.rotate && !impl.device.limits.attend_rotates_k;
  Impl::each_rope_group(call.sequences, rope_depends_on_length(call.rope), [&](std::span<const Sequence> group) {
    TokenView q = call.q, k = call.k;
    if (copy_q || copy_k) {
      int64_t length = 0, tokens = 0;
      for (const Sequence &s : group) {
        length = std::max(length, rope_length(s));
        tokens = std::max(tokens, s.k_len);
      }
      const Impl::RopeUse use = impl.rope(call.rope, call.q.dim, length, tokens, 1);
      PoolArgs args{.sequences = group, .block = call.block};
      args.rope = use.view();
      if (copy_q) {
        q = Impl::rotated_view(call.q, impl.at<void>(plan.rotated_q), call.sequences.front().q_len);
        args.side = Side::q;
        args.x = call.q;
        args.rotated = q;
        impl.stage(exec, 0, [&](Exec &e) { impl.device.fns->pool(impl.device, e, args); });
      }
      if (copy_k) {
        k = Impl::rotated_view(call.k, impl.at<void>(plan.rotated_k), call.sequences.front().k_len);
        args.side = Side::k;
        args.x = call.k;
        args.rotated = k;
        impl.stage(exec, 0, [&](Exec &e) { impl.device.fns->pool(impl.device, e, args); });
      }
    }
    impl.run_attend(exec, call, group, call.block, plan, mask, q, k, problem.rotate && !copy_q,
                    problem.rotate && !copy_k);
  });
  timed.mark(Mark::attend_end);
  timed.end(impl.workspace, plan.stats);
}

uint64_t Pipeline::prefill_workspace(const Device &device, const GateCall &gate, const AttendCall &attend) {
  std::vector<Sequence> sequences = gate.sequences;
  assign_rows(sequences, gate);
  Problem problem = prefill_problem(device, gate, attend);
  problem.sequences = sequences;
  return make_plan(problem, device.limits).workspace_bytes;
}

uint64_t Pipeline::gate_units(const GateCall &call) {
  uint64_t units = 0;
  const bool mask = call.mask.words || call.mask_bytes.bytes;
  Impl::each_rope_group(call.sequences, rope_depends_on_length(call.rope), [&](std::span<const Sequence> group) {
    units += kGateUnits + (call.scores.data ? 1 : 0);
    if (mask) units += uint64_t(total_q_blocks(group, call.config->block_size) * call.q.heads);
  });
  return units;
}

uint64_t Pipeline::prefill_units(const GateCall &gate, const AttendCall &attend) {
  uint64_t units = 0;
  const bool by_length = rope_depends_on_length(gate.rope) || rope_depends_on_length(attend.rope);
  Impl::each_rope_group(gate.sequences, by_length, [&](std::span<const Sequence> group) {
    units += kGateUnits + (gate.scores.data ? 1 : 0);
    units += 2 * uint64_t(total_q_blocks(group, gate.config->block_size) * gate.q.heads);
  });
  return units;
}

uint64_t Pipeline::select_units(const SelectCall &call) {
  return uint64_t(total_q_blocks(call.sequences, call.block) * call.q_heads);
}

uint64_t Pipeline::attend_units(const AttendCall &call) {
  return uint64_t(total_q_blocks(call.sequences, call.block) * call.q.heads);
}

}  // namespace seer
