#include "check.h"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace seer::test {
namespace {

char running[256] = "start";  // what a crash is blamed on

extern "C" void on_crash(int signal) {
  const auto say = [](const char *text) {
    if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
  };
  say("check: crashed in ");
  say(running);
  say("\n");
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// Work of a backend that computes while the caller goes on.
void complete(Target &target) {
  if (!target.fns().record) return;
  target.fns().fence_wait(*target.device, target.fns().record(*target.device, nullptr), UINT64_MAX);
}

}  // namespace

void blame_crashes() {
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_crash);
}

Checker::Checker(Options options, std::vector<Target> targets)
    : options_(std::move(options)), targets_(std::move(targets)) {}

bool Checker::begin(const char *stage, const std::string &function) {
  if (!options_.stage.empty() && options_.stage != stage) return false;
  if (function.find(options_.function) == std::string::npos) return false;
  ++functions_;
  if (options_.list) {
    std::printf("%s\n", function.c_str());
    return false;
  }
  stage_ = stage;
  function_ = function;
  return true;
}

Random Checker::random() const {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (char c : function_) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  std::seed_seq seed{options_.seed, options_.seed >> 32, hash, hash >> 32};
  return Random(seed);
}

void Checker::each_target(const std::function<void(Target &)> &on) {
  ref_median_ = 0;
  for (Target &target : targets_) {
    target_ = &target;
    std::snprintf(running, sizeof running, "%s on %s", function_.c_str(), target.name.c_str());
    try {
      on(target);
    } catch (const std::exception &error) {
      fail(std::string("threw: ") + error.what());
    }
  }
  target_ = nullptr;
}

void Checker::fail(const std::string &what) {
  ++failures_;
  std::printf("FAILED  %s on %s: %s\n", function_.c_str(), target_->name.c_str(), what.c_str());
}

void Checker::expect(bool ok, const char *what) {
  ++checks_;
  if (!ok) fail(what);
}

void Checker::expect_close(const std::vector<double> &truth, const std::vector<double> &naive,
                           const std::vector<double> &got, double slack, const char *what, double floor) {
  ++checks_;
  const Deviation of_got = deviation(truth, got), of_naive = deviation(truth, naive);
  if (as_good_as(of_got, of_naive, slack, floor)) return;
  char text[512];
  const auto worst = static_cast<size_t>(std::max<int64_t>(of_got.worst, 0));
  std::snprintf(text, sizeof text,
                "%s: %zu of %zu values, %lld not finite where they should be or the reverse; largest error %.3g (naive "
                "%.3g), Frobenius %.3g (naive %.3g) of %.3g; value %zu is %.9g, expected %.9g",
                what, got.size(), truth.size(), static_cast<long long>(of_got.strangers), of_got.max, of_naive.max,
                of_got.frobenius, of_naive.frobenius, of_got.norm, worst, worst < got.size() ? got[worst] : 0.0,
                worst < truth.size() ? truth[worst] : 0.0);
  fail(text);
}

Checker::Timing Checker::time(const std::function<void()> &call) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  double total = 0;
  while (seconds.size() < 5 || (total < 0.3 && seconds.size() < 1000)) {
    const auto start = Clock::now();
    call();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](size_t quarters) { return seconds[(seconds.size() - 1) * quarters / 4]; };
  return {at(2), at(1), at(3)};
}

void Checker::run(const std::function<void(Exec &)> &stage) {
  Exec exec;
  const auto call = [&] {
    stage(exec);
    complete(*target_);
  };
  call();
  if (!options_.bench) return;
  const Timing timing = time(call);
  if (target_->name == "ref") ref_median_ = timing.median;
  if (!printed_header_)
    std::printf("%-56s %-7s %12s %23s %9s\n", "function", "target", "median us", "middle half", "ref/it");
  printed_header_ = true;
  std::printf("%-56s %-7s %12.1f %11.1f %11.1f %8.2fx\n", function_.c_str(), target_->name.c_str(), timing.median * 1e6,
              timing.low * 1e6, timing.high * 1e6, ref_median_ / timing.median);
}

int Checker::finish() {
  if (options_.list) return functions_ > 0 ? 0 : 1;
  std::printf("%lld functions, %lld checks, %lld failed (--seed %llu)\n", static_cast<long long>(functions_),
              static_cast<long long>(checks_), static_cast<long long>(failures_),
              static_cast<unsigned long long>(options_.seed));
  if (checks_ == 0) std::printf("nothing was checked\n");
  return failures_ == 0 && checks_ > 0 ? 0 : 1;
}

DeviceCopy::DeviceCopy(Target &target, const std::vector<std::byte> &bytes) : target_(target) {
  memory_ = target.fns().alloc(*target.device, bytes.size());
  target.fns().write(*target.device, memory_, 0, bytes.data(), bytes.size());
}

DeviceCopy::~DeviceCopy() { target_.fns().free(*target_.device, memory_); }

void DeviceCopy::read(std::vector<std::byte> &bytes) const {
  target_.fns().read(*target_.device, memory_, 0, bytes.data(), bytes.size());
}

void fill(Image &image, Fill kind, Random &random) {
  const float tiny = image.dtype() == DType::f16 ? 1e-6f : 1e-30f;
  image.fill([&](auto...) {
    switch (kind) {
      case Fill::normal: return normal(random);
      case Fill::tiny: return tiny * normal(random);
      case Fill::large: return 8.0f * normal(random);
      case Fill::equal: break;
    }
    return 0.7f;  // not a sum of few powers of 2: it rounds as any other value
  });
}

RopeOwner::RopeOwner(int64_t dim, int64_t positions, int64_t step) {
  RopeConfig config;
  config.theta = 10000.0;
  freqs = rope_freqs(config, dim, positions * step);
  freqs.attention_scaling = 1.07;
  static RopeTableCache cache;
  tables = cache.get(freqs, positions, step);
}

RopeView RopeOwner::view() const {
  return {.inv_freq = freqs.inv_freq.data(),
          .attention_scaling = freqs.attention_scaling,
          .half = tables->half,
          .cos = tables->cos.data(),
          .sin = tables->sin.data(),
          .step = tables->step};
}

std::vector<Shape> shapes(int64_t p, bool aligned) {
  std::vector<Shape> all = {
      {"tail", false, {{2 * p + 37, 2 * p + 37}}},
      {"token", false, {{1, 1}}},
      {"short", true, {{p - 1, p - 1}, {0, 0}, {p + 1, p + 1}, {0, p}}},
      {"chunk", false, {{p + 5, 3 * p + 5, 5 * p}, {p + 5, 3 * p + 5, 3 * p + 5}}},
      {"mixed", true, {{2 * p, 2 * p}, {3 * p - 1, 3 * p - 1}, {p, 2 * p}}},
  };
  if (!aligned) all.push_back({"offset", true, {{p, p + 7}, {1, 2 * p + 5}, {p + 3, 2 * p + 1}}});
  return all;
}

}  // namespace seer::test
