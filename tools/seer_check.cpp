// seer check: runs case folders on backends and compares every quantity with what the original code computes in f64.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "api.h"
#include "block_mask.h"
#include "command.h"
#include "compare.h"
#include "golden_case.h"
#include "report.h"
#include "status.h"

namespace seer::tool {
namespace {

constexpr double freq_tolerance = 1e-6;  // the expectations are f32
constexpr double gate_tolerance = 1e-5;  // the gate computes in f32, whatever the dtype of q and k
constexpr double infinity = std::numeric_limits<double>::infinity();

double attention_tolerance(DType dtype) { return dtype == DType::f32 ? 1e-5 : 4e-3; }

struct Options {
  std::vector<std::string> dirs, backends;
  int threads = 0;
  bool json = false;
};

// Prints a line per quantity and counts.
class Verdicts {
public:
  explicit Verdicts(bool json) : json_(json) {}

  void at(std::string where) { where_ = std::move(where); }
  void measured(const char *quantity, double error, double tolerance, const std::string &note = "") {
    const bool ok = error < tolerance;  // false for NaN
    add(quantity, ok, format("%-9.3g < %-8.3g", error, tolerance), note,
        {{"error", std::isfinite(error) ? Json(error) : Json(nullptr)}, {"tolerance", tolerance}});
  }
  void counted(const char *quantity, int64_t found, int64_t expected, const std::string &note) {
    add(quantity, found == expected,
        format("%-9lld = %-8lld", static_cast<long long>(found), static_cast<long long>(expected)), note,
        {{"found", found}, {"expected", expected}});
  }
  void broken(const std::string &message) { add("run", false, "", message, Json::object()); }

  int finish() const {
    if (json_)
      print_json({{"build", build_json()}, {"passed", passed_}, {"failed", failed_}, {"results", results_}});
    else
      print(format("%d passed, %d failed", passed_, failed_));
    return failed_ ? exit_failed : passed_ ? exit_ok : exit_usage;
  }

private:
  void add(const char *quantity, bool ok, const std::string &numbers, const std::string &note, const Json &details) {
    (ok ? passed_ : failed_) += 1;
    if (!json_) {
      std::string line = format("%s  %-30s %-15s %s  %s", ok ? "pass" : "FAIL", where_.c_str(), quantity,
                                numbers.c_str(), note.c_str());
      line.erase(line.find_last_not_of(' ') + 1);
      print(line);
    }
    Json entry = {{"where", where_}, {"quantity", quantity}, {"pass", ok}, {"note", note}};
    entry.update(details);
    results_.push_back(entry);
  }

  bool json_;
  std::string where_;
  int passed_ = 0, failed_ = 0;
  Json results_ = Json::array();
};

// What a backend computed.
struct Result {
  HostTensor logits, probs, mask, lse, out;
  seer_stats stats = {};
};

// The block rows of a case: which are in the triangle, which expect nothing, which differ from the expected mask.
class Rows {
public:
  Rows(const GoldenCase &c, const uint8_t *got)
      : case_(c),
        n_(c.blocks()),
        planes_(c.inputs.batch() * c.inputs.q_heads()),
        state_(static_cast<size_t>(planes_ * n_), same) {
    for (int64_t p = 0; p < planes_; ++p)
      for (int64_t i = 0; i < n_; ++i) judge(p, i, got);
  }

  int64_t planes() const { return planes_; }
  int64_t visible(int64_t i) const { return causal_blocks(i, case_.inputs.tokens(), 0, case_.block); }
  size_t at(int64_t p, int64_t i, int64_t j) const { return static_cast<size_t>((p * n_ + i) * n_ + j); }
  bool empty(int64_t p, int64_t i) const { return state(p, i) == expects_nothing; }
  // Whether lse and out of this row can be compared: the same blocks were attended to.
  bool comparable(int64_t p, int64_t i) const { return state(p, i) == same; }

  int64_t wrong = 0;                          // blocks that differ though their score is clear of the cut
  int64_t rounded = 0;                        // blocks that differ, within rounding of the cut
  int64_t empty_rows = 0, diagonal_rows = 0;  // rows that expect nothing; those of them that keep just their diagonal

private:
  enum State : uint8_t { same, differs, expects_nothing };
  State state(int64_t p, int64_t i) const { return state_[static_cast<size_t>(p * n_ + i)]; }

  void judge(int64_t p, int64_t i, const uint8_t *got) {
    const uint8_t *wanted = case_.block_mask.data();
    const int64_t limit = visible(i);
    const bool nothing =
        std::none_of(wanted + at(p, i, 0), wanted + at(p, i, 0) + n_, [](uint8_t x) { return x != 0; });
    State &state = state_[static_cast<size_t>(p * n_ + i)];
    if (nothing) {
      state = expects_nothing;
      ++empty_rows;
      bool just_diagonal = true;
      for (int64_t j = 0; j < n_; ++j) just_diagonal &= (got[at(p, i, j)] != 0) == (j == limit - 1);
      diagonal_rows += just_diagonal;
      return;
    }
    for (int64_t j = 0; j < n_; ++j) {
      if ((got[at(p, i, j)] != 0) == (wanted[at(p, i, j)] != 0)) continue;
      state = differs;
      (j < limit && near_cut(p, i, j) ? rounded : wrong) += 1;
    }
  }

  // Whether rounding could have moved a block across the cut: the threshold itself, or with a ratio the nearest logit
  // on the other side (the smallest kept, the largest dropped).
  bool near_cut(int64_t p, int64_t i, int64_t j) const {
    const bool by_probability = case_.by_threshold;
    const std::vector<float> &scores = by_probability ? case_.gate_probs : case_.gate_logits;
    const double score = double{scores[at(p, i, j)]};
    if (by_probability)
      return std::abs(score - case_.threshold) <= gate_tolerance * std::max(std::abs(score), case_.threshold);
    double lowest_kept = infinity, highest_dropped = -infinity, largest = 0;
    for (int64_t k = 0; k < visible(i); ++k) {
      const double x = double{scores[at(p, i, k)]};
      largest = std::max(largest, std::abs(x));
      if (case_.block_mask[at(p, i, k)])
        lowest_kept = std::min(lowest_kept, x);
      else
        highest_dropped = std::max(highest_dropped, x);
    }
    return case_.block_mask[at(p, i, j)] ? score <= highest_dropped + gate_tolerance * largest
                                         : score >= lowest_kept - gate_tolerance * largest;
  }

  const GoldenCase &case_;
  int64_t n_, planes_;
  std::vector<State> state_;
};

class Checker {
public:
  Checker(const GoldenCase &c, const std::string &backend, int threads, Verdicts &verdicts)
      : case_(c),
        backend_(backend),
        verdicts_(verdicts),
        ctx_(open_context({backend, 0, threads})),
        model_(load_model(ctx_.get(), c.dir, c.layer)) {}

  void run() {
    frequencies();
    const seer_device_info info = context_info(ctx_.get());
    for (DType dtype : {DType::f32, DType::bf16})
      if (info.dtype_bits >> static_cast<uint32_t>(dtype) & 1) compare(dtype);
  }

private:
  void label(const char *dtype) { verdicts_.at(format("%s %s %s", case_.name.c_str(), backend_.c_str(), dtype)); }

  void frequencies() {
    const seer_gate_config config = model_config(model_.get());
    label("-");
    verdicts_.measured("inv_freq", frequency_error(config.rope, case_.inv_freq, case_.rope_scaling), freq_tolerance);
    const seer_rope &gate = config.gate_rope.kind == SEER_ROPE_DEFAULT ? config.rope : config.gate_rope;
    verdicts_.measured("gate_inv_freq", frequency_error(gate, case_.gate_inv_freq, case_.gate_rope_scaling),
                       freq_tolerance);
  }

  // The largest relative error of the inverse frequencies and of the attention factor.
  static double frequency_error(const seer_rope &rope, const std::vector<float> &wanted, double wanted_scaling) {
    const double scaling = rope.attention_scaling == 0 ? 1 : rope.attention_scaling;
    double worst = std::abs(scaling / wanted_scaling - 1);
    if (rope.kind == SEER_ROPE_INV_FREQ && rope.inv_freq_count != wanted.size()) return infinity;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double got = rope.kind == SEER_ROPE_INV_FREQ
                             ? double{rope.inv_freq[i]}
                             : std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(wanted.size()));
      const double error = std::abs(got / double{wanted[i]} - 1);
      if (!(error <= worst)) worst = error;
    }
    return worst;
  }

  HostTensor gate_scores(Qkv &x, uint32_t flags) {
    const int64_t n = case_.blocks();
    HostTensor scores(DType::f32, {x.batch(), x.q_heads(), n, n});
    seer_gate_desc d = SEER_INIT(seer_gate_desc);
    d.flags = flags;
    d.q = x.q.view();
    d.k = x.k.view();
    d.scores = scores.view();
    d.select.method = SEER_SELECT_THRESHOLD;  // the method whose scores are probabilities
    require(seer_gate(ctx_.get(), model_.get(), case_.layer, &d, nullptr, nullptr), case_.dir + ": gate");
    return scores;
  }

  Result compute(Qkv &x) {
    const int64_t n = case_.blocks(), b = x.batch(), h = x.q_heads();
    Result r;
    r.logits = gate_scores(x, SEER_GATE_LOGITS);
    r.probs = gate_scores(x, 0);
    r.mask = HostTensor(DType::u8, {b, h, n, n});
    r.lse = HostTensor(DType::f32, {b, h, x.tokens()});
    r.out = HostTensor(x.q.dtype, x.q.shape);
    seer_prefill_desc d = SEER_INIT(seer_prefill_desc);
    d.q = x.q.view();
    d.k = x.k.view();
    d.v = x.v.view();
    d.out = r.out.view();
    d.lse = r.lse.view();
    d.mask = r.mask.view();
    r.stats =
        tool::run(ctx_.get(), case_.dir + ": prefill", nullptr, [&](const seer_submit *submit, seer_ticket *ticket) {
          return seer_prefill(ctx_.get(), model_.get(), case_.layer, &d, submit, ticket);
        });
    return r;
  }

  void compare(DType dtype) {
    label(dtype_name(dtype));
    Qkv x{convert(case_.inputs.q, dtype), convert(case_.inputs.k, dtype), convert(case_.inputs.v, dtype)};
    const Result r = compute(x);
    const Rows rows(case_, r.mask.data<uint8_t>());
    verdicts_.measured("gate_logits", score_error(rows, r.logits, case_.gate_logits, -infinity), gate_tolerance);
    verdicts_.measured("gate_probs", score_error(rows, r.probs, case_.gate_probs, 0), gate_tolerance);
    verdicts_.counted("block_mask", rows.wrong, 0,
                      format("of %zu blocks differ; %lld more within rounding of the cut", case_.block_mask.size(),
                             static_cast<long long>(rows.rounded)));
    if (rows.empty_rows) {
      verdicts_.counted("empty rows", rows.diagonal_rows, rows.empty_rows,
                        "rows that select nothing keep just their diagonal");
      verdicts_.counted("fallback rows", static_cast<int64_t>(r.stats.fallback_rows), rows.empty_rows,
                        "as the statistics count them");
    }
    attention(dtype, rows, x, r);
  }

  // Over the causal triangle; a value outside it that is not `outside` makes the error infinite.
  double score_error(const Rows &rows, const HostTensor &got, const std::vector<float> &wanted, double outside) const {
    Frobenius norm;
    const auto *values = got.data<float>();
    for (int64_t p = 0; p < rows.planes(); ++p)
      for (int64_t i = 0; i < case_.blocks(); ++i)
        for (int64_t j = 0; j < case_.blocks(); ++j) {
          const size_t at = rows.at(p, i, j);
          if (j < rows.visible(i))
            norm.add(double{values[at]}, double{wanted[at]});
          else if (double{values[at]} != outside)
            return infinity;
        }
    return norm.error();
  }

  void attention(DType dtype, const Rows &rows, const Qkv &x, const Result &r) {
    const int64_t s = x.tokens(), h = x.q_heads(), d = x.dim();
    const double tolerance = attention_tolerance(dtype);
    const std::vector<float> out = to_floats(r.out);
    Frobenius lse_norm, out_norm;
    int64_t not_finite = 0;
    for (int64_t p = 0; p < rows.planes(); ++p)
      for (int64_t t = 0; t < s; ++t) {
        const auto at = static_cast<size_t>(p * s + t);
        const float lse = r.lse.data<float>()[at];
        if (rows.comparable(p, t / case_.block))
          lse_norm.add(double{lse}, double{case_.lse[at]});
        else
          not_finite += !std::isfinite(lse);
      }
    const auto out_rows = static_cast<int64_t>(case_.out_rows.size());
    for (int64_t b = 0; b < x.batch(); ++b)
      for (int64_t r_out = 0; r_out < out_rows; ++r_out)
        for (int64_t head = 0; head < h; ++head) {
          const int64_t t = case_.out_rows[static_cast<size_t>(r_out)];
          const float *got = &out[static_cast<size_t>(((b * s + t) * h + head) * d)];
          const float *wanted = &case_.out[static_cast<size_t>(((b * out_rows + r_out) * h + head) * d)];
          const bool compared = rows.comparable(b * h + head, t / case_.block);
          for (int64_t c = 0; c < d; ++c) {
            if (compared)
              out_norm.add(double{got[c]}, double{wanted[c]});
            else
              not_finite += !std::isfinite(got[c]);
          }
        }
    verdicts_.measured("lse", lse_norm.error(), tolerance,
                       format("%lld values", static_cast<long long>(lse_norm.count())));
    verdicts_.measured("out", out_norm.error(), tolerance,
                       format("%lld values", static_cast<long long>(out_norm.count())));
    if (rows.empty_rows) verdicts_.counted("finite", not_finite, 0, "NaN or Inf in rows that select nothing");
  }

  const GoldenCase &case_;
  std::string backend_;
  Verdicts &verdicts_;
  Context ctx_;
  Model model_;
};

int check(const Options &o) {
  Verdicts verdicts(o.json);
  const std::vector<std::string> backends = o.backends.empty() ? present_backends() : o.backends;
  for (const std::string &dir : o.dirs) {
    const std::string name = std::filesystem::path(dir).lexically_normal().string();
    if (!std::filesystem::exists(std::filesystem::path(dir) / "case.json")) {
      std::fprintf(stderr, "seer check: skipping %s: no case.json in it\n", dir.c_str());
      continue;
    }
    verdicts.at(name);
    try {
      const GoldenCase c = load_case(dir);
      for (const std::string &backend : backends) {
        verdicts.at(c.name + " " + backend);
        try {
          Checker(c, backend, o.threads, verdicts).run();
        } catch (const Error &error) {
          verdicts.broken(error.what());
        }
      }
    } catch (const Error &error) {
      verdicts.broken(error.what());
    }
  }
  return verdicts.finish();
}

}  // namespace

void add_check(CLI::App &app, int &exit_code) {
  auto *cmd =
      app.add_subcommand("check", "Run case folders on every backend and compare with the original code's results");
  auto o = std::make_shared<Options>();
  cmd->add_option("DIR", o->dirs, "Case folders: case.json, case.safetensors, config.json and gate weights")
      ->required();
  cmd->add_option("--backend", o->backends,
                  "cuda, vulkan, cpu or ref; may be repeated. Default: all that this machine has")
      ->check(CLI::IsMember(backend_names))
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  cmd->add_option("--threads", o->threads, "CPU threads; 0 = one per core")->check(CLI::NonNegativeNumber);
  cmd->add_flag("--json", o->json, "Print JSON");
  cmd->footer(
      "One line per quantity: pass or FAIL, where, error < tolerance. Errors are relative Frobenius norms against "
      "float64\n"
      "(inv_freq: the largest relative error). Attention must be within 1e-5 in f32 and 4e-3 with bf16 tensors; gate "
      "scores\n"
      "within 1e-5. The block mask must be equal but where a score is within rounding of the cut.\n"
      "Exit codes: 0 all passed; 1 something failed; 2 nothing was checked.\n"
      "\nExample:\n  seer check tests/golden/* --backend cpu");
  cmd->callback([o, &exit_code] { exit_code = check(*o); });
}

}  // namespace seer::tool
