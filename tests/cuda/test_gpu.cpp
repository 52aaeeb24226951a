// The whole library on a GPU: streams, graphs, contexts beside each other, memory over many calls. What the stages
// compute is checked by tests/check, the golden cases and tests/property.
#include <doctest/doctest.h>
#include <seerattn/seerattn.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "driver.h"
#include "dtype.h"

using namespace seer;

namespace {

// Ends the process if a test takes longer: a kernel that hangs, hangs whoever waits for it.
class Watchdog {
public:
  explicit Watchdog(int seconds)
      : thread_([this, seconds] {
          std::unique_lock lock(mutex_);
          if (over_.wait_for(lock, std::chrono::seconds(seconds), [this] { return done_; })) return;
          std::fprintf(stderr, "the test hangs\n");
          std::_Exit(1);
        }) {}
  ~Watchdog() {
    {
      std::lock_guard lock(mutex_);
      done_ = true;
    }
    over_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog &) = delete;
  Watchdog &operator=(const Watchdog &) = delete;

private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

void ok(seer_status status) { REQUIRE_MESSAGE(status == SEER_OK, seer_last_error()); }

struct Release {
  void operator()(seer_context *c) const { seer_context_release(c); }
  void operator()(seer_model *m) const { seer_model_release(m); }
  void operator()(seer_buffer *b) const { seer_buffer_release(b); }
};
template <class T>
using Handle = std::unique_ptr<T, Release>;

Handle<seer_context> make_context(int32_t device = 0) {
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_CUDA;
  params.device = device;
  seer_context *made = nullptr;
  ok(seer_context_create(&params, &made));
  return Handle<seer_context>(made);
}

constexpr int64_t kHeads = 8, kKvHeads = 2, kDim = 128, kBlock = 64;

std::vector<uint16_t> random_bf16(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<uint16_t> values(n);
  for (uint16_t &v : values) v = from_f32<bf16>(normal(rng)).bits;
  return values;
}

Handle<seer_model> make_model(seer_context *context) {
  seer_gate_config config = SEER_INIT(seer_gate_config);
  config.layers = 1;
  config.q_heads = kHeads;
  config.kv_heads = kKvHeads;
  config.head_dim = config.gate_dim = kDim;
  config.block_size = kBlock;
  config.q_pool = SEER_POOL_AVG;
  config.k_pool = SEER_POOL_MAX | SEER_POOL_MIN | SEER_POOL_AVG;
  config.rope.kind = SEER_ROPE_THETA;
  config.rope.theta = 10000;
  config.select.method = SEER_SELECT_THRESHOLD;
  config.select.threshold = 0.01;
  std::vector<uint16_t> matrix = random_bf16(size_t(kHeads * 3 * kDim * kDim), 99, 0.1f);
  seer_gate_weights layer = SEER_INIT(seer_gate_weights);
  layer.wk.mem = SEER_MEM_HOST;
  layer.wk.dtype = SEER_BF16;
  layer.wk.ndim = 3;
  layer.wk.data = matrix.data();
  layer.wk.size = matrix.size() * 2;
  layer.wk.shape[0] = kHeads;
  layer.wk.shape[1] = 3 * kDim;
  layer.wk.shape[2] = kDim;
  const seer_gate_weights *layers[] = {&layer};
  seer_model *made = nullptr;
  ok(seer_model_create(context, &config, layers, &made));
  return Handle<seer_model>(made);
}

// The tensors of a prefill in buffers of a context.
struct Problem {
  seer_context *context;
  int64_t tokens;
  Handle<seer_buffer> q, k, v, out, lse;
  seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);

  Problem(seer_context *ctx, int64_t s, uint32_t seed = 1)
      : context(ctx),
        tokens(s),
        q(buffer(random_bf16(size_t(s * kHeads * kDim), seed))),
        k(buffer(random_bf16(size_t(s * kKvHeads * kDim), seed + 1))),
        v(buffer(random_bf16(size_t(s * kKvHeads * kDim), seed + 2))),
        out(buffer(std::vector<uint16_t>(size_t(s * kHeads * kDim), 0x7fc0))),
        lse(buffer(std::vector<uint16_t>(size_t(s * kHeads * 2), 0x7fc0))) {
    desc.q = tensor(q.get(), SEER_BF16, {1, s, kHeads, kDim});
    desc.k = tensor(k.get(), SEER_BF16, {1, s, kKvHeads, kDim});
    desc.v = tensor(v.get(), SEER_BF16, {1, s, kKvHeads, kDim});
    desc.out = tensor(out.get(), SEER_BF16, {1, s, kHeads, kDim});
    desc.lse = tensor(lse.get(), SEER_F32, {1, kHeads, s});
  }

  Handle<seer_buffer> buffer(const std::vector<uint16_t> &values) const {
    seer_buffer *made = nullptr;
    ok(seer_buffer_create(context, values.size() * 2, 0, &made));
    ok(seer_buffer_write(made, 0, values.data(), values.size() * 2));
    return Handle<seer_buffer>(made);
  }
  static seer_tensor tensor(seer_buffer *memory, seer_dtype dtype, std::initializer_list<int64_t> shape) {
    seer_tensor t{};
    t.mem = SEER_MEM_BUFFER;
    t.dtype = dtype;
    t.ndim = int32_t(shape.size());
    t.buffer = memory;
    std::copy(shape.begin(), shape.end(), t.shape);
    return t;
  }
  static gpu::CUdeviceptr address(const seer_buffer *memory) {
    void *at = nullptr;
    ok(seer_buffer_address(memory, &at));
    return reinterpret_cast<gpu::CUdeviceptr>(at);
  }
  uint64_t out_bytes() const { return uint64_t(tokens * kHeads * kDim * 2); }
  void poison() const {
    const std::vector<uint16_t> values(size_t(tokens * kHeads * kDim), 0x7fc0);
    ok(seer_buffer_write(out.get(), 0, values.data(), out_bytes()));
  }
  std::vector<uint16_t> result() const {
    std::vector<uint16_t> values(size_t(tokens * kHeads * kDim));
    ok(seer_buffer_read(out.get(), 0, values.data(), out_bytes()));
    return values;
  }
  seer_status run(const seer_model *model, const gpu::Stream *stream = nullptr, seer_ticket *ticket = nullptr) const {
    seer_submit submit = SEER_INIT(seer_submit);
    submit.flags = stream ? SEER_SUBMIT_USE_STREAM : SEER_SUBMIT_BLOCKING;
    submit.cuda_stream = stream ? static_cast<void *>(stream->handle) : nullptr;
    return seer_prefill(context, model, 0, &desc, &submit, ticket);
  }
};

}  // namespace

TEST_CASE("the same bits from run to run, on the context's stream and on the caller's") {
  const Watchdog watchdog(120);
  const gpu::Context current;
  const auto context = make_context();
  const auto model = make_model(context.get());
  const gpu::Stream stream;
  for (int64_t tokens : {1, 63, 64, 200, 3000}) {
    CAPTURE(tokens);
    const Problem p(context.get(), tokens);
    seer_ticket ticket = 0;
    ok(p.run(model.get(), nullptr, &ticket));
    seer_stats stats = SEER_INIT(seer_stats);
    ok(seer_ticket_stats(context.get(), ticket, &stats));
    CHECK(stats.device_ns > 0);
    CHECK(stats.gate_ns > 0);
    CHECK(stats.attend_ns > 0);
    CHECK(stats.blocks_kept > 0);
    const auto expected = p.result();
    for (uint16_t bits : expected) REQUIRE((bits & 0x7f80) != 0x7f80);  // the poison is gone, all is finite
    for (int i = 0; i < 3; i++) {
      p.poison();
      ok(p.run(model.get(), &stream, &ticket));
      ok(seer_wait(context.get(), ticket, UINT64_MAX));
      CHECK(p.result() == expected);
    }
    seer_stats again = SEER_INIT(seer_stats);
    ok(seer_ticket_stats(context.get(), ticket, &again));
    CHECK(again.blocks_kept == stats.blocks_kept);
    CHECK(again.blocks_causal == stats.blocks_causal);
  }
}

TEST_CASE("a call takes its place on the caller's stream") {
  const Watchdog watchdog(120);
  const gpu::Context current;
  const auto context = make_context();
  const auto model = make_model(context.get());
  const gpu::Stream stream;
  const Problem p(context.get(), 4000), busy(context.get(), 20000);
  ok(p.run(model.get()));
  const auto expected = p.result();
  p.poison();
  // Work that keeps the stream busy, q as it should be, the call, and q as it should not be: nobody waits in between.
  const auto right = random_bf16(size_t(4000 * kHeads * kDim), 1);
  const std::vector<uint16_t> wrong(right.size(), 0x3f80);
  const gpu::CUdeviceptr q = Problem::address(p.q.get());
  gpu::call("cuMemcpyHtoD_v2", q, static_cast<const void *>(wrong.data()), right.size() * 2);
  for (int i = 0; i < 5; i++) ok(busy.run(model.get(), &stream));
  gpu::call("cuMemcpyHtoDAsync_v2", q, static_cast<const void *>(right.data()), right.size() * 2, stream.handle);
  seer_ticket ticket = 0;
  ok(p.run(model.get(), &stream, &ticket));
  gpu::call("cuMemcpyHtoDAsync_v2", q, static_cast<const void *>(wrong.data()), right.size() * 2, stream.handle);
  stream.wait();
  CHECK(p.result() == expected);
  ok(seer_wait(context.get(), ticket, UINT64_MAX));
}

TEST_CASE("a captured call, replayed, computes what a call does") {
  const Watchdog watchdog(120);
  const gpu::Context current;
  const auto context = make_context();
  const auto model = make_model(context.get());
  for (const bool warm : {true, false}) {  // whether the context has ever run such a call
    CAPTURE(warm);
    const auto fresh = warm ? nullptr : make_context();
    seer_context *const in = warm ? context.get() : fresh.get();
    const auto fresh_model = warm ? nullptr : make_model(in);
    const seer_model *const gates = warm ? model.get() : fresh_model.get();
    const Problem p(in, 2500), other(context.get(), 2500, 50);
    ok(other.run(model.get()));
    const auto expected_other = other.result();
    std::vector<uint16_t> expected;
    {
      const Problem same(context.get(), 2500);
      ok(same.run(model.get()));
      expected = same.result();
    }
    const gpu::Stream stream;
    gpu::CUgraph graph = nullptr;
    gpu::CUgraphExec runnable = nullptr;
    REQUIRE(gpu::call("cuStreamBeginCapture_v2", stream.handle, 0 /* global */) == 0);
    const seer_status status = p.run(gates, &stream);
    const std::string why = status == SEER_OK ? "" : seer_last_error();
    REQUIRE(gpu::call("cuStreamEndCapture", stream.handle, &graph) == 0);
    REQUIRE_MESSAGE(status == SEER_OK, why);
    REQUIRE(gpu::call("cuGraphInstantiateWithFlags", &runnable, graph, 0ull) == 0);
    p.poison();
    for (int i = 0; i < 3; i++) {
      REQUIRE(gpu::call("cuGraphLaunch", runnable, stream.handle) == 0);
      stream.wait();
      CHECK(p.result() == expected);
      p.poison();
    }
    // Other inputs, at the same addresses; and a longer call in between, for which the workspace grows.
    const Problem longer(in, 9000);
    ok(longer.run(gates));
    for (const auto &[from, to] : {std::pair{&other.q, &p.q}, {&other.k, &p.k}, {&other.v, &p.v}}) {
      const size_t bytes = size_t(2500 * (from == &other.q ? kHeads : kKvHeads) * kDim * 2);
      gpu::call("cuMemcpyDtoD_v2", Problem::address(to->get()), Problem::address(from->get()), bytes);
    }
    gpu::call("cuCtxSynchronize");
    REQUIRE(gpu::call("cuGraphLaunch", runnable, stream.handle) == 0);
    stream.wait();
    CHECK(p.result() == expected_other);
    gpu::call("cuGraphExecDestroy", runnable);
    gpu::call("cuGraphDestroy", graph);
  }
}

TEST_CASE("contexts compute beside each other") {
  const Watchdog watchdog(120);
  const gpu::Context current;
  std::vector<uint16_t> expected;
  {
    const auto context = make_context();
    const auto model = make_model(context.get());
    const Problem p(context.get(), 3000);
    ok(p.run(model.get()));
    expected = p.result();
  }
  std::atomic<int> wrong{0}, done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; t++)
    threads.emplace_back([&, t] {
      const gpu::Context mine;
      const auto context = make_context();
      const auto model = make_model(context.get());
      const gpu::Stream stream;
      const Problem p(context.get(), 3000);
      for (int i = 0; i < 40; i++) {
        p.poison();
        if (t == 0) {
          ok(p.run(model.get()));
        } else {
          ok(p.run(model.get(), &stream));
          stream.wait();
        }
        if (p.result() != expected) wrong++;
        done++;
      }
    });
  for (std::thread &t : threads) t.join();
  CHECK(done == 120);
  CHECK(wrong == 0);
}

TEST_CASE("ten thousand prefills leave memory where it was") {
  const Watchdog watchdog(300);
  const gpu::Context current;
  const auto context = make_context();
  const auto model = make_model(context.get());
  const gpu::Stream stream;
  std::vector<std::unique_ptr<Problem>> problems;
  for (int64_t tokens : {64, 100, 640, 1500}) problems.push_back(std::make_unique<Problem>(context.get(), tokens));
  const char *wanted = std::getenv("SEER_TEST_PREFILLS");
  const int n = wanted ? std::atoi(wanted) : 10000;
  size_t before = 0;
  for (int i = 0; i < n; i++) {
    const Problem &p = *problems[size_t(i) % problems.size()];
    seer_ticket ticket = 0;
    if (i % 7 == 0)
      ok(p.run(model.get()));
    else
      ok(p.run(model.get(), &stream, &ticket));
    if (i % 64 == 0) ok(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX));
    if (i == std::min(n / 2, 500)) {
      ok(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX));
      before = gpu::free_memory();
    }
  }
  ok(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX));
  const size_t after = gpu::free_memory();
  MESSAGE(n, " prefills: ", double(before) - double(after), " bytes less free than after the first");
  CHECK(after + (size_t{2} << 20) >= before);  // the driver's own granularity
}

TEST_CASE("keys and values that heads share by a stride of 0") {
  const Watchdog watchdog(120);
  const gpu::Context current;
  const auto context = make_context();
  constexpr int64_t tokens = 500;
  const Problem p(context.get(), tokens);
  // One head twice, laid out as if there were two; and once.
  const auto one = random_bf16(size_t(tokens * kDim), 7);
  std::vector<uint16_t> twice;
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t h = 0; h < kKvHeads; h++)
      twice.insert(twice.end(), one.data() + t * kDim, one.data() + (t + 1) * kDim);
  const auto narrow = p.buffer(one), wide = p.buffer(twice);
  seer_attention_desc desc = SEER_INIT(seer_attention_desc);
  desc.q = p.desc.q;
  desc.out = p.desc.out;
  const auto run = [&](const seer_tensor &kv) {
    desc.k = desc.v = kv;
    p.poison();
    ok(seer_attention(context.get(), &desc, nullptr, nullptr));
    return p.result();
  };
  const auto expected = run(Problem::tensor(wide.get(), SEER_BF16, {1, tokens, kKvHeads, kDim}));
  seer_tensor shared = Problem::tensor(narrow.get(), SEER_BF16, {1, tokens, kKvHeads, kDim});
  shared.stride[0] = tokens * kDim;
  shared.stride[1] = kDim;
  shared.stride[2] = 0;
  shared.stride[3] = 1;
  CHECK(run(shared) == expected);
}

TEST_CASE("more keys than the lists of Hopper's kernel have room for") {
  const Watchdog watchdog(120);
  const gpu::Context current;
  const auto context = make_context();
  constexpr int64_t queries = 100, keys = 1300000;
  const Problem p(context.get(), queries);
  const auto ones = p.buffer(std::vector<uint16_t>(size_t(keys * kDim), 0x3f80));
  seer_attention_desc desc = SEER_INIT(seer_attention_desc);
  desc.q = p.desc.q;
  desc.out = p.desc.out;
  desc.k = desc.v = Problem::tensor(ones.get(), SEER_BF16, {1, keys, 1, kDim});
  ok(seer_attention(context.get(), &desc, nullptr, nullptr));
  CHECK(p.result() == std::vector<uint16_t>(size_t(queries * kHeads * kDim), 0x3f80));
}

TEST_CASE("two devices in one process") {
  int32_t count = 0;
  ok(seer_device_count(SEER_BACKEND_CUDA, &count));
  if (count < 2) {
    std::printf("SKIPPED: two devices in one process: there is one CUDA device here\n");
    return;
  }
  const Watchdog watchdog(240);
  // No context is current here: the library makes its own so, and leaves none behind.
  Handle<seer_context> context[2] = {make_context(0), make_context(1)};
  seer_device_info info[2] = {SEER_INIT(seer_device_info), SEER_INIT(seer_device_info)};
  for (int d = 0; d < 2; d++) {
    ok(seer_context_info(context[d].get(), &info[d]));
    CHECK(info[d].ordinal == d);
  }
  CHECK(std::memcmp(info[0].uuid, info[1].uuid, sizeof info[0].uuid) != 0);
  const Handle<seer_model> model[2] = {make_model(context[0].get()), make_model(context[1].get())};
  const Problem problem[2] = {Problem(context[0].get(), 3000), Problem(context[1].get(), 3000)};
  std::vector<uint16_t> expected[2];
  for (int d = 0; d < 2; d++) {
    ok(problem[d].run(model[d].get()));
    expected[d] = problem[d].result();
    for (uint16_t bits : expected[d]) REQUIRE((bits & 0x7f80) != 0x7f80);
  }
  if (std::strcmp(info[0].name, info[1].name) == 0) CHECK(expected[0] == expected[1]);

  SUBCASE("from one thread, in turn and with both under way") {
    const auto stream_on = [](int d) {
      const gpu::Context current(d);
      return std::make_unique<gpu::Stream>();
    };
    const std::unique_ptr<gpu::Stream> stream[2] = {stream_on(0), stream_on(1)};
    for (int i = 0; i < 20; i++) {
      for (const Problem &p : problem) p.poison();
      seer_ticket ticket[2] = {};
      for (int d = 0; d < 2; d++) {
        if (i % 2) {
          ok(problem[d].run(model[d].get(), stream[d].get(), &ticket[d]));
        } else {
          seer_submit submit = SEER_INIT(seer_submit);
          ok(seer_prefill(context[d].get(), model[d].get(), 0, &problem[d].desc, &submit, &ticket[d]));
        }
      }
      for (int d = 1; d >= 0; d--) {
        ok(seer_wait(context[d].get(), ticket[d], UINT64_MAX));
        CHECK(problem[d].result() == expected[d]);
      }
    }
  }
  SUBCASE("from two threads at once") {
    std::atomic<int> wrong{0}, done{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
      threads.emplace_back([&, t] {
        const int d = t % 2;
        const gpu::Context current(t < 2 ? d : 1 - d);  // whichever is current
        const Problem p(context[d].get(), 3000);
        for (int i = 0; i < 40; i++) {
          p.poison();
          ok(p.run(model[d].get()));
          if (p.result() != expected[d]) wrong++;
          done++;
        }
      });
    for (std::thread &t : threads) t.join();
    CHECK(done == 160);
    CHECK(wrong == 0);
  }
  SUBCASE("a graph on the second while the first computes") {
    const gpu::Context current(1);
    const gpu::Stream stream;
    gpu::CUgraph graph = nullptr;
    gpu::CUgraphExec runnable = nullptr;
    REQUIRE(gpu::call("cuStreamBeginCapture_v2", stream.handle, 0 /* global */) == 0);
    const seer_status other = problem[0].run(model[0].get());
    const seer_status status = problem[1].run(model[1].get(), &stream);
    REQUIRE(gpu::call("cuStreamEndCapture", stream.handle, &graph) == 0);
    REQUIRE_MESSAGE(other == SEER_OK, seer_last_error());
    REQUIRE_MESSAGE(status == SEER_OK, seer_last_error());
    REQUIRE(gpu::call("cuGraphInstantiateWithFlags", &runnable, graph, 0ull) == 0);
    for (int i = 0; i < 3; i++) {
      problem[1].poison();
      REQUIRE(gpu::call("cuGraphLaunch", runnable, stream.handle) == 0);
      ok(problem[0].run(model[0].get()));
      stream.wait();
      CHECK(problem[0].result() == expected[0]);
      CHECK(problem[1].result() == expected[1]);
    }
    gpu::call("cuGraphExecDestroy", runnable);
    gpu::call("cuGraphDestroy", graph);
  }
  SUBCASE("what is of the other device is refused") {
    CHECK(problem[0].run(model[1].get()) == SEER_ERROR_HANDLE);
    seer_prefill_desc desc = problem[0].desc;
    desc.v = problem[1].desc.v;  // a buffer
    CHECK(seer_prefill(context[0].get(), model[0].get(), 0, &desc, nullptr, nullptr) == SEER_ERROR_HANDLE);
    desc.v = {};
    desc.v.mem = SEER_MEM_CUDA;
    desc.v.dtype = SEER_BF16;
    desc.v.ndim = 4;
    std::memcpy(desc.v.shape, problem[0].desc.v.shape, sizeof desc.v.shape);
    desc.v.data = reinterpret_cast<void *>(Problem::address(problem[1].v.get()));
    CHECK(seer_prefill(context[0].get(), model[0].get(), 0, &desc, nullptr, nullptr) == SEER_ERROR_MEMORY_KIND);
    const std::string why = seer_last_error();
    CHECK_MESSAGE(why.find("v starts at") != std::string::npos, why);
    CHECK_MESSAGE(why.find("cuda device 0 (") != std::string::npos, why);
    desc.v.data = reinterpret_cast<void *>(Problem::address(problem[0].v.get()));
    ok(seer_prefill(context[0].get(), model[0].get(), 0, &desc, nullptr, nullptr));
    {
      const gpu::Context current(1);
      const gpu::Stream stream;
      CHECK(problem[0].run(model[0].get(), &stream) == SEER_ERROR_INVALID_ARGUMENT);
    }
  }
  // Both still work, and one without the other.
  for (const Problem &p : problem) p.poison();
  for (int d = 0; d < 2; d++) {
    ok(problem[d].run(model[d].get()));
    CHECK(problem[d].result() == expected[d]);
    context[d].reset();  // its model and buffers keep it
  }
}
