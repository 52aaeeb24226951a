// seer prefill: all five stages on tensors from a file, compared with dense attention if asked.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include "api.h"
#include "command.h"
#include "compare.h"
#include "file.h"
#include "gate_config.h"
#include "mask_sheet.h"
#include "report.h"
#include "status.h"
#include "tensors.h"

namespace seer::tool {
namespace {

struct Options {
  std::string file, model, prefix, dtype, out, mask_png, title;
  int layer = 0;
  ContextChoice context;
  std::optional<double> threshold, ratio;
  std::optional<int64_t> budget;
  bool all = false, keep_first = false, keep_diagonal = false, compare_dense = false, json = false;
  int last_dense = 0, repeat = 1;
};

// The command line over the model's own settings: what it leaves open stays the model's.
seer_select_spec select_of(const Options &o, const seer_gate_config &config) {
  seer_select_spec s = config.select;
  if (o.threshold) s.method = SEER_SELECT_THRESHOLD, s.threshold = *o.threshold;
  if (o.ratio) s.method = SEER_SELECT_RATIO, s.ratio = *o.ratio;
  if (o.budget) s.method = SEER_SELECT_BUDGET, s.token_budget = *o.budget;
  if (o.all) s.method = SEER_SELECT_ALL;
  if (o.last_dense != 0) s.last_dense_rows = o.last_dense;
  if (o.keep_first) s.flags |= SEER_SELECT_KEEP_FIRST;
  if (o.keep_diagonal) s.flags |= SEER_SELECT_KEEP_DIAGONAL;
  return s;
}

struct Times {
  std::vector<double> total, gate, attend, dense;
};

double seconds(uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

// One model layer and one set of tensors on one device.
class Prefill {
public:
  explicit Prefill(const Options &o)
      : o_(o),
        file_(Safetensors::open(o.file)),
        x_(read_qkv(file_, prefix(), o.dtype.empty() ? DType::none : parse_dtype(o.dtype))),
        ctx_(open_context(o.context)),
        info_(context_info(ctx_.get())) {
    Progress progress("loading gates");
    model_ = load_model(ctx_.get(), o.model, o.layer, &progress);
    config_ = model_config(model_.get());
    block_ = config_.block_size;
    select_ = select_of(o, config_);
    q_blocks_ = (x_.tokens() + block_ - 1) / block_;
    k_blocks_ = (x_.keys() + block_ - 1) / block_;
    const int64_t b = x_.batch(), s = x_.tokens(), h = x_.q_heads();
    q_ = DeviceTensor(ctx_.get(), x_.q);
    k_ = DeviceTensor(ctx_.get(), x_.k);
    v_ = DeviceTensor(ctx_.get(), x_.v);
    out_ = DeviceTensor(ctx_.get(), x_.q.dtype, x_.q.shape);
    lse_ = DeviceTensor(ctx_.get(), DType::f32, {b, h, s});
    mask_ = DeviceTensor(ctx_.get(), DType::u8, {b, h, q_blocks_, k_blocks_});
  }

  int run() {
    Progress progress("prefill");
    const int steps = o_.repeat * (o_.compare_dense ? 2 : 1);
    if (o_.repeat > 1) {  // the first call allocates its workspace: not what a later one costs
      sparse(nullptr);
      if (o_.compare_dense) dense(nullptr);
    }
    for (int i = 0; i < o_.repeat; ++i) {  // interleaved, so that a noisy moment hits both
      const auto start = std::chrono::steady_clock::now();
      stats_ = sparse(o_.repeat == 1 ? &progress : nullptr);
      const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      times_.total.push_back(stats_.device_ns ? seconds(stats_.device_ns) : wall);
      times_.gate.push_back(seconds(stats_.gate_ns));
      times_.attend.push_back(seconds(stats_.attend_ns));
      if (o_.compare_dense) times_.dense.push_back(seconds(dense(o_.repeat == 1 ? &progress : nullptr).device_ns));
      if (o_.repeat > 1)
        progress.update(static_cast<uint64_t>((i + 1) * steps / o_.repeat), static_cast<uint64_t>(steps));
    }
    results();
    if (!o_.out.empty())
      write_safetensors(o_.out, {item("out", out_host_), item("lse", lse_host_), item("block_mask", mask_host_)});
    if (!o_.mask_png.empty()) picture();
    if (o_.json)
      print_json(json());
    else
      text();
    return exit_ok;
  }

private:
  // Captures of several layers name them in the file: "layers.3.q".
  std::string prefix() const {
    if (!o_.prefix.empty() || file_.find("q")) return o_.prefix;
    const std::string by_layer = format("layers.%d.", o_.layer);
    return file_.find(by_layer + "q") ? by_layer : "";
  }

  seer_stats sparse(Progress *progress) {
    seer_prefill_desc d = SEER_INIT(seer_prefill_desc);
    d.q = q_.view();
    d.k = k_.view();
    d.v = v_.view();
    d.out = out_.view();
    d.lse = lse_.view();
    d.mask = mask_.view();
    d.select = select_;
    return tool::run(ctx_.get(), o_.file, progress, [&](const seer_submit *submit, seer_ticket *ticket) {
      return seer_prefill(ctx_.get(), model_.get(), o_.layer, &d, submit, ticket);
    });
  }

  seer_stats dense(Progress *progress) {
    if (dense_out_.view().mem == SEER_MEM_NONE) {
      dense_out_ = DeviceTensor(ctx_.get(), x_.q.dtype, x_.q.shape);
      dense_lse_ = DeviceTensor(ctx_.get(), DType::f32, {x_.batch(), x_.q_heads(), x_.tokens()});
    }
    seer_attention_desc d = SEER_INIT(seer_attention_desc);
    d.q = q_.view();
    d.k = k_.view();
    d.v = v_.view();
    d.out = dense_out_.view();
    d.lse = dense_lse_.view();
    d.rope = attention_rope();
    d.block_size = config_.block_size;
    return tool::run(ctx_.get(), o_.file + ", dense", progress, [&](const seer_submit *submit, seer_ticket *ticket) {
      return seer_attention(ctx_.get(), &d, submit, ticket);
    });
  }

  // The model's RoPE. Scalings that depend on the length are computed for this one, as prefill does.
  seer_rope attention_rope() {
    const std::string path = (std::filesystem::path(o_.model) / "config.json").string();
    const GateConfig config = parse_gate_config(read_text(path, 16 << 20), path);
    if (!rope_depends_on_length(config.rope)) return config_.rope;
    freqs_ = rope_freqs(config.rope, x_.dim(), x_.keys());
    seer_rope rope = {};
    rope.kind = SEER_ROPE_INV_FREQ;
    rope.inv_freq = freqs_.inv_freq.data();
    rope.inv_freq_count = static_cast<uint32_t>(freqs_.inv_freq.size());
    rope.attention_scaling = freqs_.attention_scaling;
    return rope;
  }

  void results() {
    out_host_ = out_.read();
    lse_host_ = lse_.read();
    mask_host_ = mask_.read();
    const std::vector<float> values = to_floats(out_host_);
    for (float x : values) sum_ += double{x};
    if (!o_.compare_dense) return;
    error_ = relative_error(values, to_floats(dense_out_.read()));
    mass_ = kept_mass(to_floats(lse_host_), to_floats(dense_lse_.read()), x_.batch() * x_.q_heads(), x_.tokens());
  }

  // The gate's probabilities, whatever the method that selected: they compare between pictures.
  void picture() {
    DeviceTensor probs(ctx_.get(), DType::f32, {x_.batch(), x_.q_heads(), q_blocks_, k_blocks_});
    seer_gate_desc d = SEER_INIT(seer_gate_desc);
    d.q = q_.view();
    d.k = k_.view();
    d.scores = probs.view();
    d.select.method = SEER_SELECT_THRESHOLD;
    tool::run(ctx_.get(), o_.file + ", gate scores", nullptr, [&](const seer_submit *submit, seer_ticket *ticket) {
      return seer_gate(ctx_.get(), model_.get(), o_.layer, &d, submit, ticket);
    });
    const HostTensor scores = probs.read();
    MaskSheet sheet;
    const std::string name = std::filesystem::path(o_.model).lexically_normal().filename().string();
    sheet.title = !o_.title.empty() ? o_.title : name.empty() ? "" : name + ", ";
    if (o_.title.empty()) sheet.title += format("layer %d", o_.layer);
    sheet.subtitle = format("%lld tokens   density %s   %s", static_cast<long long>(x_.tokens()),
                            human_percent(density()).c_str(), human_select(select_).c_str());
    sheet.batch = x_.batch();
    sheet.heads = x_.q_heads();
    sheet.group = x_.q_heads() / x_.kv_heads();
    sheet.q_len = x_.tokens();
    sheet.k_len = x_.keys();
    sheet.block = block_;
    sheet.probs = scores.data<float>();
    sheet.mask = mask_host_.data<uint8_t>();
    draw_mask_sheet(sheet).save_png(o_.mask_png);
  }

  double density() const {
    return stats_.blocks_causal ? static_cast<double>(stats_.blocks_kept) / static_cast<double>(stats_.blocks_causal)
                                : 0.0;
  }

  std::string checksum() const { return format("%08x", tool::checksum(out_host_.bytes)); }

  void text() const {
    print(format("%s: %lld x %lld tokens, heads %lld:%lld, dim %lld, %s", o_.file.c_str(),
                 static_cast<long long>(x_.batch()), static_cast<long long>(x_.tokens()),
                 static_cast<long long>(x_.q_heads()), static_cast<long long>(x_.kv_heads()),
                 static_cast<long long>(x_.dim()), dtype_name(x_.q.dtype)));
    print(format("gates:  %s, layer %d, %s, block %d, %s", o_.model.c_str(), o_.layer,
                 gate_type(config_.q_pool, config_.k_pool).c_str(), config_.block_size, human_select(select_).c_str()));
    print(format("device: %s, %s (%s)\n", backend_label(info_.backend), info_.name, info_.detail));
    const auto line = [](const char *name, const std::string &value, const std::string &note = "") {
      print(format(note.empty() ? "%-14s %s" : "%-14s %-10s %s", name, value.c_str(), note.c_str()));
    };
    line("density", human_percent(density()),
         format("%llu of %llu blocks", static_cast<unsigned long long>(stats_.blocks_kept),
                static_cast<unsigned long long>(stats_.blocks_causal)));
    line("fallback rows", std::to_string(stats_.fallback_rows),
         "rows that selected nothing and kept their diagonal block");
    const Spread total = spread(times_.total);
    line("gate", human_time(spread(times_.gate).median));
    line("attend", human_time(spread(times_.attend).median));
    line("total", human_time(total.median),
         o_.repeat > 1 ? format("median of %d; p10 %s, p90 %s", o_.repeat, human_time(total.p10).c_str(),
                                human_time(total.p90).c_str())
                       : "one run, workspace allocation included; --repeat 5 for a median");
    if (o_.compare_dense) {
      const Spread dense = spread(times_.dense);
      line("dense", human_time(dense.median), format("speed-up %.2f x", dense.median / total.median));
      line("error", format("%.3g", error_), "relative Frobenius, against dense");
      line("mass kept", human_percent(mass_.mean),
           format("of dense attention, mean over rows; lowest head %s",
                  human_percent(*std::min_element(mass_.per_head.begin(), mass_.per_head.end())).c_str()));
    }
    print(format("%-14s crc32 %s  sum %.9g", "checksum", checksum().c_str(), sum_));
    if (!o_.out.empty()) print(format("%-14s %s (out, lse, block_mask)", "wrote", o_.out.c_str()));
    if (!o_.mask_png.empty()) print(format("%-14s %s", "wrote", o_.mask_png.c_str()));
  }

  Json json() const {
    Json j = {{"file", o_.file},
              {"model", o_.model},
              {"layer", o_.layer},
              {"batch", x_.batch()},
              {"tokens", x_.tokens()},
              {"keys", x_.keys()},
              {"q_heads", x_.q_heads()},
              {"kv_heads", x_.kv_heads()},
              {"head_dim", x_.dim()},
              {"dtype", dtype_name(x_.q.dtype)},
              {"block", block_},
              {"select", select_json(select_)},
              {"device", device_json(info_)},
              {"build", build_json()},
              {"blocks_kept", stats_.blocks_kept},
              {"blocks_causal", stats_.blocks_causal},
              {"density", density()},
              {"fallback_rows", stats_.fallback_rows},
              {"workspace_bytes", stats_.workspace_bytes},
              {"repeat", o_.repeat},
              {"times",
               {{"total", spread_json(spread(times_.total))},
                {"gate", spread_json(spread(times_.gate))},
                {"attend", spread_json(spread(times_.attend))}}},
              {"checksum", {{"crc32", checksum()}, {"sum", sum_}}}};
    if (o_.compare_dense) {
      j["times"]["dense"] = spread_json(spread(times_.dense));
      j["speed_up"] = spread(times_.dense).median / spread(times_.total).median;
      j["relative_error"] = error_;
      j["mass_kept"] = mass_.mean;
      j["mass_kept_per_head"] = mass_.per_head;
    }
    return j;
  }

  const Options &o_;
  Safetensors file_;
  Qkv x_;
  Context ctx_;
  seer_device_info info_;
  Model model_;
  seer_gate_config config_ = {};
  RopeFreqs freqs_;
  seer_select_spec select_ = {};
  int64_t block_ = 0, q_blocks_ = 0, k_blocks_ = 0;
  DeviceTensor q_, k_, v_, out_, lse_, mask_, dense_out_, dense_lse_;
  HostTensor out_host_, lse_host_, mask_host_;
  seer_stats stats_ = {};
  Times times_;
  double sum_ = 0, error_ = 0;
  Mass mass_;
};

}  // namespace

void add_prefill(CLI::App &app, int &exit_code) {
  auto *cmd =
      app.add_subcommand("prefill", "Run all five stages on q, k and v from a file; compare with dense attention");
  auto o = std::make_shared<Options>();
  cmd->add_option("FILE", o->file, ".safetensors with q [B, S, Hq, D], k and v [B, L, Hkv, D], before RoPE")
      ->required();
  cmd->add_option("--model", o->model, "Folder with the gates: config.json and weights")->required();
  cmd->add_option("--layer", o->layer, "The layer whose gate to use")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  cmd->add_option("--prefix", o->prefix, "Of the tensors' names; default: none, else layers.LAYER.");
  cmd->add_option("--backend", o->context.backend, "auto, cuda, vulkan, cpu or ref")
      ->check(CLI::IsMember(backend_names))
      ->capture_default_str();
  cmd->add_option("--device", o->context.device, "Ordinal of the device, as `seer devices` lists them")
      ->check(CLI::NonNegativeNumber);
  cmd->add_option("--threads", o->context.threads, "CPU threads; 0 = one per core")->check(CLI::NonNegativeNumber);
  cmd->add_option("--dtype", o->dtype, "Convert the inputs: f32, f16 or bf16; default: as stored")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  auto *how = cmd->add_option_group("selection", "At most one; default: as the model's config.json says");
  how->add_option("--threshold", o->threshold,
                  "Keep blocks of gate probability above this; 5e-4 to 5e-3 is typical at 32k tokens and more");
  how->add_option("--ratio", o->ratio, "Keep this share of the causal triangle, 0 to 1");
  how->add_option("--budget", o->budget, "Keep this many tokens per row");
  how->add_flag("--all", o->all, "Keep every block: dense attention through the sparse path");
  how->require_option(0, 1);
  cmd->add_option("--last-dense", o->last_dense,
                  "Block rows at the end that keep everything; 0 = the model's, -1 = none");
  cmd->add_flag("--keep-first", o->keep_first, "Always keep key block 0, where attention sinks are");
  cmd->add_flag("--keep-diagonal", o->keep_diagonal, "Always keep each row's own block");
  cmd->add_flag("--compare-dense", o->compare_dense,
                "Also run dense attention: speed-up, error, share of attention mass kept");
  cmd->add_option("--repeat", o->repeat, "Runs to time, after one that is not timed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  cmd->add_option("--out", o->out, "Write out, lse and block_mask to this .safetensors");
  cmd->add_option("--mask-png", o->mask_png, "Draw the kept blocks over the gate's scores, a panel per head");
  cmd->add_option("--title", o->title, "Of the picture; default: the model folder's name and the layer");
  cmd->add_flag("--json", o->json, "Print JSON");
  cmd->footer(
      "Prints the density (kept blocks of the causal triangle), times of the gate and of attention, and a checksum of "
      "the\n"
      "output that every language binding must reproduce on the same device.\n"
      "\nExample: how much of attention does a threshold of 0.002 keep, and what does it save?\n"
      "  seer prefill qkv.safetensors --model gates/ --layer 12 --threshold 0.002 --compare-dense --repeat 5 \\\n"
      "      --mask-png mask.png");
  cmd->callback([o, &exit_code] { exit_code = Prefill(*o).run(); });
}

}  // namespace seer::tool
