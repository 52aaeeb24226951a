// seer bench: times dense attention, sparse attention on the two mask families, the gate and whole prefills.
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <random>
#include <sstream>

#include "api.h"
#include "bench_masks.h"
#include "command.h"
#include "dtype.h"
#include "report.h"
#include "status.h"
#include "tensors.h"

namespace seer::tool {
namespace {

struct Options {
  std::vector<int64_t> tokens = {4096};
  std::vector<double> density = {0.05, 0.1, 0.2, 0.5, 1.0};
  std::vector<std::string> heads = {"8:2"}, dtypes = {"bf16"}, families = {"random", "structured"}, backends = {"auto"};
  std::vector<int64_t> dims = {128};
  std::vector<int> threads = {0};
  int64_t block = 64;
  int repeat = 5;
  uint64_t seed = 1;
  bool json = false;
};

// One point of the sweep, less density and family.
struct Shape {
  std::string backend;
  int threads = 0;
  DType dtype = DType::bf16;
  int64_t tokens = 0, q_heads = 0, kv_heads = 0, dim = 0, block = 64;
  int64_t blocks() const { return (tokens + block - 1) / block; }
};

// "8:2" is 8 query heads on 2 KV heads; "8" is 8 on 8.
void parse_heads(const std::string &text, int64_t &q_heads, int64_t &kv_heads) {
  long long q = 0, kv = 0;
  char rest = 0;
  const int n = std::sscanf(text.c_str(), "%lld:%lld%c", &q, &kv, &rest);
  if (n == 1 && text.find(':') == std::string::npos) kv = q;
  SEER_REQUIRE((n == 2 || kv == q) && q > 0 && kv > 0 && q % kv == 0, Status::invalid_argument,
               "--heads %s: expected Q or Q:KV with Q a multiple of KV, like 8:2", text.c_str());
  q_heads = q;
  kv_heads = kv;
}

HostTensor normal_tensor(DType dtype, std::vector<int64_t> shape, uint64_t seed) {
  HostTensor t(dtype, std::move(shape));
  std::mt19937_64 engine(seed);
  const auto uniform = [&] { return (static_cast<double>(engine() >> 11) + 0.5) * 0x1p-53; };
  dispatch_float(dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto n = static_cast<size_t>(t.elements());
    for (size_t i = 0; i < n; i += 2) {  // Box and Muller's transform gives two at a time
      const double radius = std::sqrt(-2 * std::log(uniform())), angle = 6.283185307179586 * uniform();
      t.data<T>()[i] = from_f32<T>(static_cast<float>(radius * std::cos(angle)));
      if (i + 1 < n) t.data<T>()[i + 1] = from_f32<T>(static_cast<float>(radius * std::sin(angle)));
    }
  });
  return t;
}

// Floating point operations of q k^T and p v over kept blocks: 4 D per query-key pair, the diagonal block counted half.
double kept_flops(const BlockMask &mask, const Shape &s) {
  double pairs = 0;
  for (int64_t h = 0; h < mask.heads(); ++h)
    for (int64_t i = 0; i < mask.rows(); ++i) {
      const double rows = static_cast<double>(std::min(s.block, s.tokens - i * s.block));
      const int64_t kept = mask_count(mask.row(h, i), mask.cols());
      const bool diagonal = mask.test(h, i, i);
      pairs += rows * static_cast<double>((kept - diagonal) * s.block) + (diagonal ? rows * rows / 2 : 0);
    }
  return 4 * static_cast<double>(s.dim) * pairs;
}

// One thing to time, and its times so far.
struct Job {
  std::string name, family;
  double density = 1, sharing = 0, flops = 0, gate_bytes = 0;  // of q and k, where there is a gate
  std::function<seer_status(seer_context *ctx, const seer_submit *submit, seer_ticket *ticket)> submit;
  std::function<void(Job &)> look;  // at what the first call has made; may be none
  uint64_t first_ns = 0;            // that took
  std::vector<double> seconds, gate_seconds, attend_seconds, ghz;
  std::map<std::string, std::vector<double>> stage_seconds;
};

constexpr uint64_t kLongCall = 20000000;  // nanoseconds, beside which the host's share of a call is nothing

// One call. With `ahead` both go to the legacy default stream, that one first: the device then has work until the call
// is recorded, and what it measures does not include the host.
seer_stats call(seer_context *ctx, const Job &job, const Job *ahead) {
  const std::string what = job.name + (job.family.empty() ? "" : " " + job.family);
  return run(ctx, what, nullptr, [&](const seer_submit *submit, seer_ticket *ticket) {
    if (!ahead) return job.submit(ctx, submit, ticket);
    seer_submit on_stream = *submit;
    on_stream.flags |= SEER_SUBMIT_USE_STREAM;
    seer_submit first = on_stream;
    first.flags &= ~uint32_t{SEER_SUBMIT_BLOCKING};
    const seer_status status = ahead->submit(ctx, &first, nullptr);
    return status == SEER_OK ? job.submit(ctx, &on_stream, ticket) : status;
  });
}

// What a backend logs of a call's stages, if it does: "stages: pool=1234 ... attend=5678 ns, 1552 MHz".
struct StageLog {
  std::map<std::string, double> seconds;
  double ghz = 0;

  static void SEER_CALL take(void *user, seer_log_level, const char *message, size_t length) {
    const std::string text(message, length);
    if (text.rfind("stages: ", 0) != 0) return;
    auto &self = *static_cast<StageLog *>(user);
    self = {};
    std::istringstream words(text.substr(8));
    for (std::string word; words >> word;) {
      const size_t equals = word.find('=');
      if (equals != std::string::npos)
        self.seconds[word.substr(0, equals)] += std::stod(word.substr(equals + 1)) * 1e-9;
    }
    const size_t comma = text.rfind(", ");
    if (comma != std::string::npos) self.ghz = std::stod(text.substr(comma + 2)) * 1e-3;
  }
};

// The tensors of a shape on its device, and the jobs over them.
class Bench {
public:
  Bench(seer_context *ctx, const Shape &shape, const Options &o) : s_(shape), o_(o) {
    const int64_t n = s_.tokens, d = s_.dim;
    q_ = DeviceTensor(ctx, normal_tensor(s_.dtype, {1, n, s_.q_heads, d}, o.seed));
    k_ = DeviceTensor(ctx, normal_tensor(s_.dtype, {1, n, s_.kv_heads, d}, o.seed + 1));
    v_ = DeviceTensor(ctx, normal_tensor(s_.dtype, {1, n, s_.kv_heads, d}, o.seed + 2));
    out_ = DeviceTensor(ctx, s_.dtype, {1, n, s_.q_heads, d});
    mask_out_ = DeviceTensor(ctx, DType::b32, {1, s_.q_heads, s_.blocks(), mask_words(s_.blocks())});
    make_gate(ctx);
    dense_job();
    for (const std::string &family : o.families)
      for (double density : o.density) sparse_job(ctx, parse_family(family), density);
    gate_job();
    for (double density : o.density) prefill_job(density);
  }

  std::vector<Job> jobs;

private:
  // Random weights: what a gate costs does not depend on what it has learned.
  void make_gate(seer_context *ctx) {
    seer_gate_config config = SEER_INIT(seer_gate_config);
    config.layers = 1;
    config.q_heads = static_cast<int32_t>(s_.q_heads);
    config.kv_heads = static_cast<int32_t>(s_.kv_heads);
    config.head_dim = config.gate_dim = static_cast<int32_t>(s_.dim);
    config.block_size = static_cast<int32_t>(s_.block);
    config.q_pool = SEER_POOL_AVG;
    config.k_pool = SEER_POOL_MAX | SEER_POOL_MIN | SEER_POOL_AVG;
    config.rope.kind = SEER_ROPE_THETA;
    config.rope.theta = 10000;
    HostTensor wk = normal_tensor(DType::bf16, {s_.q_heads, 3 * s_.dim, s_.dim}, o_.seed + 3);
    seer_gate_weights weights = SEER_INIT(seer_gate_weights);
    weights.wk = wk.view();
    const seer_gate_weights *layers[] = {&weights};
    seer_model *model = nullptr;
    require(seer_model_create(ctx, &config, layers, &model), "making a gate to time");
    model_.reset(model);
  }

  seer_status attention(seer_context *ctx, const seer_tensor *mask, const seer_submit *submit,
                        seer_ticket *ticket) const {
    seer_attention_desc d = SEER_INIT(seer_attention_desc);
    d.q = q_.view();
    d.k = k_.view();
    d.v = v_.view();
    d.out = out_.view();
    if (mask) d.mask = *mask;
    d.block_size = static_cast<int32_t>(s_.block);
    return seer_attention(ctx, &d, submit, ticket);
  }

  void dense_job() {
    Job job;
    job.name = "dense";
    const double n = static_cast<double>(s_.tokens);
    job.flops = 4 * static_cast<double>(s_.dim * s_.q_heads) * n * (n + 1) / 2;
    job.submit = [this](seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) {
      return attention(ctx, nullptr, submit, ticket);
    };
    jobs.push_back(std::move(job));
  }

  void sparse_job(seer_context *ctx, MaskFamily family, double density) {
    BlockMask mask = bench_mask(family, s_.blocks(), s_.q_heads, s_.q_heads / s_.kv_heads, density, o_.seed);
    HostTensor words(DType::b32, {1, s_.q_heads, s_.blocks(), mask_words(s_.blocks())});
    const uint32_t *bits = mask.row(0, 0);
    std::copy(bits, bits + words.elements(), words.data<uint32_t>());
    Job job;
    job.name = "sparse";
    job.family = family_name(family);
    job.density = mask_density(mask);
    job.sharing = mask_sharing(mask, 3);
    job.flops = kept_flops(mask, s_);
    auto device = std::make_shared<DeviceTensor>(ctx, words);
    job.submit = [this, device](seer_context *on, const seer_submit *submit, seer_ticket *ticket) {
      return attention(on, &device->view(), submit, ticket);
    };
    jobs.push_back(std::move(job));
  }

  void gate_job() {
    Job job;
    job.name = "gate";
    job.density = 0;
    job.gate_bytes = gate_bytes();
    job.submit = [this](seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) {
      seer_gate_desc d = SEER_INIT(seer_gate_desc);
      d.q = q_.view();
      d.k = k_.view();
      d.mask = mask_out_.view();
      d.select.method = SEER_SELECT_THRESHOLD;
      d.select.threshold = 2e-3;
      return seer_gate(ctx, model_.get(), 0, &d, submit, ticket);
    };
    jobs.push_back(std::move(job));
  }

  void prefill_job(double ratio) {
    Job job;
    job.name = "prefill";
    job.family = "gate";
    job.gate_bytes = gate_bytes();
    job.look = [this](Job &made) { count(made); };
    job.submit = [this, ratio](seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) {
      seer_prefill_desc d = SEER_INIT(seer_prefill_desc);
      d.q = q_.view();
      d.k = k_.view();
      d.v = v_.view();
      d.out = out_.view();
      d.mask = mask_out_.view();
      d.select.method = SEER_SELECT_RATIO;
      d.select.ratio = ratio;
      d.select.last_dense_rows = -1;
      return seer_prefill(ctx, model_.get(), 0, &d, submit, ticket);
    };
    jobs.push_back(std::move(job));
  }

  double gate_bytes() const {
    return static_cast<double>(s_.tokens * (s_.q_heads + s_.kv_heads) * s_.dim * element_size(s_.dtype));
  }

  // Density, sharing and work of the mask that the prefill just chose.
  void count(Job &job) const {
    const HostTensor words = mask_out_.read();
    BlockMask mask(s_.q_heads, s_.blocks(), s_.blocks());
    std::copy(words.data<uint32_t>(), words.data<uint32_t>() + words.elements(), mask.row(0, 0));
    job.density = mask_density(mask);
    job.sharing = mask_sharing(mask, 3);
    job.flops = kept_flops(mask, s_);
  }

  Shape s_;
  const Options &o_;
  Model model_;
  DeviceTensor q_, k_, v_, out_, mask_out_;
};

std::vector<Shape> sweep(const Options &o) {
  std::vector<Shape> shapes;
  for (const std::string &backend : o.backends)
    for (int threads : o.threads)
      for (const std::string &dtype : o.dtypes)
        for (int64_t dim : o.dims)
          for (const std::string &heads : o.heads)
            for (int64_t tokens : o.tokens) {
              Shape s{backend, threads, parse_dtype(dtype), tokens, 0, 0, dim, o.block};
              parse_heads(heads, s.q_heads, s.kv_heads);
              shapes.push_back(s);
            }
  return shapes;
}

Json job_json(const Job &job, const Shape &s, const seer_device_info &info, double dense_median) {
  const Spread time = spread(job.seconds);
  Json j = {{"backend", backend_label(info.backend)},
            {"threads", s.threads},
            {"dtype", dtype_name(s.dtype)},
            {"tokens", s.tokens},
            {"q_heads", s.q_heads},
            {"kv_heads", s.kv_heads},
            {"head_dim", s.dim},
            {"block", s.block},
            {"what", job.name}};
  if (!job.family.empty()) j["mask"] = job.family;
  if (job.name != "gate") j["density"] = job.density;
  if (job.sharing > 0) j["sharing_3_rows"] = job.sharing;
  j["time"] = spread_json(time);
  j["share_of_dense"] = time.median / dense_median;
  if (job.flops > 0) j["kept_flop_per_s"] = job.flops / time.median;
  if (job.name == "prefill") {
    j["gate_time"] = spread_json(spread(job.gate_seconds));
    j["attend_time"] = spread_json(spread(job.attend_seconds));
  }
  if (job.gate_bytes > 0) j["gate_bytes_per_s"] = job.gate_bytes / spread(job.gate_seconds).median;
  for (const auto &[stage, seconds] : job.stage_seconds) j["stages"][stage] = spread_json(spread(seconds));
  if (!job.ghz.empty()) j["ghz"] = spread(job.ghz).median;
  return j;
}

std::vector<std::string> job_row(const Job &job, double dense_median, double flop_unit) {
  const Spread time = spread(job.seconds);
  const bool gate = job.name == "gate";
  return {job.name == "sparse" ? "sparse " + job.family : job.name,
          gate ? "" : human_percent(job.density),
          job.sharing > 0 ? format("%.2f", job.sharing) : "",
          human_time(time.median),
          human_time(time.p10),
          human_time(time.p90),
          human_percent(time.median / dense_median),
          job.name == "dense" || gate ? "" : format("%.2f x", dense_median / time.median),
          job.flops > 0 ? format("%.1f", job.flops / time.median / flop_unit) : "",
          job.gate_bytes > 0 ? format("%.1f", job.gate_bytes / spread(job.gate_seconds).median * 1e-9) : "",
          job.ghz.empty() ? "" : format("%.2f", spread(job.ghz).median)};
}

// Where a backend tells: each stage's median, whatever it was called for.
std::vector<std::string> stage_row(const Job &job) {
  std::vector<std::string> row = {job.name == "sparse" ? "sparse " + job.family : job.name,
                                  job.name == "gate" ? "" : human_percent(job.density)};
  for (const char *stage : {"pool", "project", "score", "select", "attend"}) {
    const auto found = job.stage_seconds.find(stage);
    row.push_back(found == job.stage_seconds.end() ? "" : human_time(spread(found->second).median));
  }
  return row;
}

int bench(const Options &o) {
  const std::vector<Shape> shapes = sweep(o);
  Json results = Json::array(), devices = Json::array();
  if (!o.json)
    print(format("seed %llu, %d runs of each, interleaved; times of the device",
                 static_cast<unsigned long long>(o.seed), o.repeat));
  for (const Shape &s : shapes) {
    const Context ctx = open_context({.backend = s.backend, .threads = s.threads});
    const seer_device_info info = context_info(ctx.get());
    // Noting where stages end takes time and keeps them from overlapping: calls of another context tell that.
    StageLog log;
    Context telling;
    if (info.backend == SEER_BACKEND_CUDA)
      telling = open_context({.backend = "cuda", .device = info.ordinal, .log = StageLog::take, .log_user = &log});
    Bench bench(ctx.get(), s, o);
    {
      Progress progress(format("%s, %lld tokens, %s", backend_label(info.backend), static_cast<long long>(s.tokens),
                               dtype_name(s.dtype)));
      const auto rounds = static_cast<uint64_t>(o.repeat) + 1;
      uint64_t done = 0;
      for (uint64_t round = 0; round < rounds; ++round)  // round 0 warms up and is not timed
        for (Job &job : bench.jobs) {
          const Job *const ahead = telling && job.first_ns < kLongCall ? &bench.jobs.front() : nullptr;
          const seer_stats stats = call(ctx.get(), job, ahead);
          log = {};
          if (telling) call(telling.get(), job, ahead);
          progress.update(++done, rounds * bench.jobs.size());
          if (round == 0) {
            job.first_ns = stats.device_ns;
            if (job.look) job.look(job);
            continue;
          }
          job.seconds.push_back(static_cast<double>(stats.device_ns) * 1e-9);
          job.gate_seconds.push_back(static_cast<double>(stats.gate_ns) * 1e-9);
          job.attend_seconds.push_back(static_cast<double>(stats.attend_ns) * 1e-9);
          for (const auto &[stage, seconds] : log.seconds) job.stage_seconds[stage].push_back(seconds);
          if (log.ghz > 0) job.ghz.push_back(log.ghz);
        }
    }
    const double dense = spread(bench.jobs.front().seconds).median;
    double fastest = 0;
    for (const Job &job : bench.jobs) fastest = std::max(fastest, job.flops / spread(job.seconds).median);
    const double flop_unit = fastest < 1e12 ? 1e9 : 1e12;
    Table table({"", "density", "s", "median", "p10", "p90", "of dense", "speed-up",
                 flop_unit < 1e12 ? "GFLOP/s" : "TFLOP/s", "gate GB/s", "GHz"});
    Table stages({"", "density", "pool", "project", "score", "select", "attend"});
    bool told = false;
    for (const Job &job : bench.jobs) {
      results.push_back(job_json(job, s, info, dense));
      table.add(job_row(job, dense, flop_unit));
      stages.add(stage_row(job));
      told |= !job.stage_seconds.empty();
    }
    const Json device = device_json(info);
    if (std::find(devices.begin(), devices.end(), device) == devices.end()) devices.push_back(device);
    if (!o.json) {
      print(format("\n%s (%s): %lld tokens, %lld:%lld heads, dim %lld, %s, block %lld, %s", info.name, info.detail,
                   static_cast<long long>(s.tokens), static_cast<long long>(s.q_heads),
                   static_cast<long long>(s.kv_heads), static_cast<long long>(s.dim), dtype_name(s.dtype),
                   static_cast<long long>(s.block),
                   s.threads ? format("%d threads", s.threads).c_str() : "all threads"));
      print(table.text());
      if (told) print("\n" + stages.text());
    }
  }
  if (o.json)
    print_json(
        {{"build", build_json()}, {"devices", devices}, {"seed", o.seed}, {"repeat", o.repeat}, {"results", results}});
  return exit_ok;
}

}  // namespace

void add_bench(CLI::App &app, int &exit_code) {
  auto *cmd = app.add_subcommand("bench", "Time dense and sparse attention, the gate and whole prefills over a sweep");
  auto o = std::make_shared<Options>();
  const auto list = [](CLI::Option *option) { return option->delimiter(',')->capture_default_str(); };
  list(cmd->add_option("--tokens", o->tokens, "Sequence lengths"))->check(CLI::PositiveNumber);
  list(cmd->add_option("--density", o->density, "Shares of the causal triangle that masks keep"))
      ->check(CLI::Range(1e-6, 1.0));
  list(cmd->add_option("--heads", o->heads, "Query and KV heads, Q:KV"));
  list(cmd->add_option("--dim", o->dims, "Head dimensions"))->check(CLI::PositiveNumber);
  list(cmd->add_option("--dtype", o->dtypes, "f32, f16, bf16"))->check(CLI::IsMember({"f32", "f16", "bf16"}));
  list(cmd->add_option("--family", o->families, "Mask families: random, structured"))
      ->check(CLI::IsMember({"random", "structured"}));
  list(cmd->add_option("--backend", o->backends, "auto, cuda, vulkan, cpu, ref"))->check(CLI::IsMember(backend_names));
  list(cmd->add_option("--threads", o->threads, "CPU threads; 0 = one per core"))->check(CLI::NonNegativeNumber);
  cmd->add_option("--block", o->block, "Block size")->check(CLI::IsMember({32, 64, 128}))->capture_default_str();
  cmd->add_option("--repeat", o->repeat, "Timed runs of each")->check(CLI::PositiveNumber)->capture_default_str();
  cmd->add_option("--seed", o->seed, "Of tensors, weights and masks")->capture_default_str();
  cmd->add_flag("--json", o->json, "Print JSON: device, build, seed, results");
  cmd->footer(
      "Lists take commas. Every round runs each job once, so that a noisy moment hits all alike; compare within one "
      "table.\n"
      "GFLOP/s and TFLOP/s count the work on kept blocks only (4 D per query-key pair, the diagonal block half). s is "
      "the\n"
      "number of kept blocks per block loaded when three consecutive block rows share their loads. gate GB/s: q and k\n"
      "read once in the gate's time. On CUDA calls are recorded while the device is busy, so that times are the "
      "device's\n"
      "alone, and GHz while attending and the stages' times come from calls of their own.\n"
      "  random      every block drawn on its own: the worst case for sharing\n"
      "  structured  the first block, the diagonal and its neighbours, columns a head returns to, a quarter noise\n"
      "  gate        random weights, threshold 2e-3: the block mask, without attention\n"
      "  prefill     the same gate by the ratio method, and attention over what it keeps\n"
      "\nExample:\n  seer bench --tokens 4096,16384 --density 0.05,0.1,0.2 --heads 8:2 --dtype f32,bf16 --json > "
      "bench.json");
  cmd->callback([o, &exit_code] { exit_code = bench(*o); });
}

}  // namespace seer::tool
