// seerattn.hpp: what C++ adds to the C API. Values are checked against the golden case and against the C API itself.
#include <doctest/doctest.h>
#include <seerattn/seerattn.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <fstream>
#include <future>
#include <iterator>
#include <random>
#include <thread>

#include "bindings/c/tensors.h"

namespace sa = seerattn;
using std::chrono::milliseconds;

static_assert(sizeof(sa::Stats) == sizeof(seer_stats));
static_assert(std::is_copy_constructible_v<sa::Context> && std::is_copy_constructible_v<sa::Model>);
static_assert(!std::is_copy_constructible_v<sa::GateCache> && !std::is_copy_constructible_v<sa::Ticket>);
static_assert(std::is_nothrow_move_constructible_v<sa::Ticket> && std::is_nothrow_move_assignable_v<sa::Context>);
// Const memory is no output, a temporary is no input, and a type without a dtype neither.
using Floats = std::vector<float>;
static_assert(std::is_constructible_v<sa::Input, Floats &, sa::Shape>);
static_assert(std::is_constructible_v<sa::Input, const Floats &, sa::Shape>);
static_assert(std::is_constructible_v<sa::Input, std::span<const float>, sa::Shape>);
static_assert(!std::is_constructible_v<sa::Input, Floats, sa::Shape>);
static_assert(!std::is_constructible_v<sa::Input, std::vector<double> &, sa::Shape>);
static_assert(!std::is_constructible_v<sa::Output, const Floats &, sa::Shape>);
static_assert(!std::is_constructible_v<sa::Output, std::span<const float>, sa::Shape>);
static_assert(std::is_convertible_v<sa::Output, sa::Input> && !std::is_convertible_v<sa::Input, sa::Output>);

// A 16-bit type of the program's own.
struct Half {
  std::uint16_t bits;
};
template <>
inline constexpr sa::Dtype sa::dtype_of<Half> = sa::Dtype::f16;
static_assert(std::is_constructible_v<sa::Input, std::vector<Half> &, sa::Shape>);

namespace {

const std::filesystem::path kGolden = std::filesystem::path(SEER_TEST_DATA) / "golden" / "llama-threshold";

sa::Context cpu() { return sa::Context({.backend = sa::Backend::cpu, .threads = 2}); }

std::string read(const std::filesystem::path &path) {
  std::ifstream stream(path, std::ios::binary);
  REQUIRE(stream);
  return {std::istreambuf_iterator<char>(stream), {}};
}

template <class F>
sa::Error caught(F &&f) {
  try {
    f();
  } catch (const sa::Error &e) {
    return e;
  }
  FAIL("nothing was thrown");
  throw std::logic_error("not reached");
}

bool says(const sa::Error &e, sa::Status status, std::string_view word) {
  INFO(e.what());
  CHECK(e.status() == status);
  CHECK(std::string_view(e.what()).find(word) != std::string_view::npos);
  return e.status() == status;
}

// Dense attention of 2 query heads, 1 KV head, 16 channels.
struct Small {
  explicit Small(std::size_t count = 70) : tokens(count) {
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    for (Floats *x : {&q, &k, &v}) {
      x->resize(tokens * 16 * (x == &q ? 2 : 1));
      for (float &value : *x) value = normal(rng);
    }
    out.resize(q.size());
  }
  sa::Attention attention() {
    return {.q = {q, {1, tokens, 2, 16}},
            .k = {k, {1, tokens, 1, 16}},
            .v = {v, {1, tokens, 1, 16}},
            .out = {out, {1, tokens, 2, 16}}};
  }
  std::size_t tokens;
  Floats q, k, v, out;
};

// Holds the queue in a progress callback until it is opened.
struct Held {
  std::promise<void> open, reached;
  std::shared_future<void> opened = open.get_future().share();
  std::atomic<bool> first{true};
  sa::SubmitOptions options() {
    return {.progress = [this](std::uint64_t, std::uint64_t) {
      if (first.exchange(false)) reached.set_value();
      opened.wait();
      return true;
    }};
  }
};

}  // namespace

TEST_CASE("C++: a golden prefill gives the golden case's values, and bit for bit what the C API gives") {
  const sa::Context context = cpu();
  const sa::Model model = sa::Model::load(context, kGolden);
  std::string file = read(kGolden / "case.safetensors");
  const auto tensor = [&](const char *name) { return find_tensor(file.data(), file.size(), name); };
  const sa::Input q(tensor("q"));
  CHECK(q.dtype() == sa::Dtype::bf16);
  REQUIRE(q.shape().size() == 4);
  const std::int64_t s = q.shape()[1], heads = q.shape()[2], dim = q.shape()[3], nq = (s + 63) / 64,
                     words = (nq + 31) / 32;

  std::vector<std::byte> out(q.get().size);
  Floats lse(static_cast<std::size_t>(heads * s));
  std::vector<std::uint32_t> mask(static_cast<std::size_t>(heads * nq * words));
  const sa::Prefill prefill{.model = model,
                            .layer = 1,
                            .q = q,
                            .k = sa::Input(tensor("k")),
                            .v = sa::Input(tensor("v")),
                            .out = {q.dtype(), out, q.shape()},
                            .lse = {lse, {1, heads, s}},
                            .mask = {mask, {1, heads, nq, words}}};
  CHECK(prefill.workspace(context) > 0);
  const sa::Stats stats = context.run(prefill);
  CHECK(stats.density() == doctest::Approx(0.5698529411764706));
  CHECK(stats.device_ns > 0);

  const seer_tensor want = tensor("lse");
  REQUIRE(want.size == lse.size() * sizeof(float));
  Floats golden(lse.size());
  std::memcpy(golden.data(), want.data, want.size);
  for (std::size_t i = 0; i < lse.size(); i++) REQUIRE(std::abs(lse[i] - golden[i]) < 0.03f);

  std::vector<std::byte> again(out.size());
  seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
  desc.q = desc.out = tensor("q");
  desc.k = tensor("k");
  desc.v = tensor("v");
  desc.out.data = again.data();
  REQUIRE(seer_prefill(context.get(), model.get(), 1, &desc, nullptr, nullptr) == SEER_OK);
  CHECK(out == again);
  CHECK(std::any_of(out.begin(), out.end(), [](std::byte b) { return b != std::byte{0}; }));

  // Gate and select in two steps make the same mask, attention under it the same output.
  Floats scores(static_cast<std::size_t>(heads * nq * nq));
  std::vector<std::uint32_t> two_steps(mask.size());
  context.run(sa::Gate{.model = model, .layer = 1, .q = q, .k = prefill.k, .scores = {scores, {1, heads, nq, nq}}});
  context.run(sa::Select{.scores = {scores, {1, heads, nq, nq}},
                         .mask = {two_steps, {1, heads, nq, words}},
                         .q_len = s,
                         .k_len = s,
                         .block_size = 64,
                         .select = {.method = sa::Method::threshold, .last_dense_rows = 2, .threshold = 0.08}});
  CHECK(two_steps == mask);
  const seer_gate_config config = model.config();
  CHECK(config.head_dim == dim);
  std::fill(again.begin(), again.end(), std::byte{0});
  const sa::Rope rope = {.kind = static_cast<sa::RopeKind>(config.rope.kind),
                         .theta = config.rope.theta,
                         .attention_scaling = config.rope.attention_scaling,
                         .inv_freq = {config.rope.inv_freq, config.rope.inv_freq_count}};
  context.run(sa::Attention{.q = q,
                            .k = prefill.k,
                            .v = prefill.v,
                            .out = {q.dtype(), again, q.shape()},
                            .mask = sa::Output(mask, {1, heads, nq, words}),
                            .rope = rope,
                            .block_size = 64});
  CHECK(out == again);
}

TEST_CASE("C++: failures are exceptions with the status and the library's words, or results") {
  const sa::Context context = cpu();
  Small x;
  sa::Attention attention = x.attention();
  attention.k = {x.k, {1, x.tokens, 1, 17}};
  const sa::Error e = caught([&] { context.run(attention); });
  CHECK(std::string_view(e.what()).starts_with("SEER_ERROR_"));
  const sa::Result<sa::Stats> result = context.try_run(attention);
  CHECK(!result);
  CHECK(result.status() == e.status());
  CHECK(std::string(e.what()) == std::string(sa::name(result.status())) + ": " + result.detail());
  CHECK(!context.try_submit(attention));

  // Too short a span, strides that leave it, another number of strides, five dimensions, half a pixel of dtype.
  attention = x.attention();
  attention.v = {std::span(x.v).first(x.v.size() - 1), {1, x.tokens, 1, 16}};
  says(caught([&] { context.run(attention); }), sa::Status::out_of_bounds, "v");
  attention.v = {x.v, {1, x.tokens, 1, 16}, {0, 17, 16, 1}};
  says(caught([&] { context.run(attention); }), sa::Status::out_of_bounds, "v");
  attention.v = {x.v, {1, x.tokens, 1, 16}, {16, 1}};
  says(caught([&] { context.run(attention); }), sa::Status::shape, "v.ndim");
  const std::int64_t five[] = {1, 1, 70, 1, 16};
  attention.v = {x.v, sa::Shape(five)};
  says(caught([&] { context.run(attention); }), sa::Status::shape, "v.ndim is 5");
  std::vector<std::int32_t> integers(x.v.size());
  attention.v = {integers, {1, x.tokens, 1, 16}};
  says(caught([&] { context.run(attention); }), sa::Status::dtype, "v");
  attention.v = {};
  says(caught([&] { context.run(attention); }), sa::Status::invalid_argument, "v");

  // Objects that are empty.
  says(caught([&] { sa::Context().run(x.attention()); }), sa::Status::invalid_argument, "ctx is NULL");
  sa::Context moved = context;
  const sa::Context other = std::move(moved);
  CHECK(moved.try_info().status() == sa::Status::invalid_argument);  // NOLINT: what is tested
  CHECK(other.info().backend == SEER_BACKEND_CPU);
  says(caught([&] { context.run(sa::Prefill{}); }), sa::Status::invalid_argument, "model is NULL");
  says(caught([&] { sa::Context({.backend = static_cast<sa::Backend>(9)}); }), sa::Status::invalid_argument, "backend");
  says(caught([&] { sa::Model::load(context, "nowhere"); }), sa::Status::io, "nowhere");
  says(caught([&] { context.run(x.attention(), {.cuda_stream = nullptr}); }), sa::Status::unsupported, "USE_STREAM");
  CHECK(sa::GateCache::try_create(context, {}, 64).status() == sa::Status::invalid_argument);
  CHECK(sa::Ticket().wait_for(milliseconds(0)));
}

TEST_CASE("C++: offsets of packed sequences are counted before they are believed") {
  const sa::Context context = cpu();
  Small x;
  sa::Attention attention{.q = {x.q, {x.tokens, 2, 16}},
                          .k = {x.k, {x.tokens, 1, 16}},
                          .v = {x.v, {x.tokens, 1, 16}},
                          .out = {x.out, {x.tokens, 2, 16}}};
  const std::int32_t q[] = {0, 30, 70}, one[] = {0}, k[] = {0, 70};
  attention.sequences = {.q = q};
  context.run(attention);
  attention.sequences = {.q = q, .k = q};
  context.run(attention);
  attention.sequences = {.q = q, .k = k};
  says(caught([&] { context.run(attention); }), sa::Status::shape, "3 offsets of q and 2 of k");
  attention.sequences = {.q = one};
  says(caught([&] { context.run(attention); }), sa::Status::shape, "1 offsets");
  attention.sequences = {.k = k};
  says(caught([&] { context.run(attention); }), sa::Status::shape, "0 offsets");
}

TEST_CASE("C++: tickets wait, poll, call back and give statistics; a destroyed one has waited") {
  const sa::Context context = cpu();
  Small x, y;
  context.run(y.attention());
  {
    Held held;
    sa::Ticket ticket = context.submit(x.attention(), held.options());
    held.reached.get_future().wait();
    CHECK(!ticket.ready());
    CHECK(!ticket.wait_for(milliseconds(0)));
    CHECK(!ticket.wait_for(milliseconds(5)));
    std::promise<sa::Status> done;
    ticket.on_done([&](sa::Status status) { done.set_value(status); });
    CHECK(!ticket.try_on_done({}));
    held.open.set_value();
    CHECK(done.get_future().get() == sa::Status::ok);
    ticket.wait();
    CHECK(ticket.ready());
    CHECK(ticket.wait_for(milliseconds(1)));
    CHECK(ticket.stats().device_ns > 0);
    CHECK(x.out == y.out);
  }
  std::fill(x.out.begin(), x.out.end(), 0.0f);
  {
    Held held;
    sa::Ticket ticket = context.submit(x.attention(), held.options());
    sa::Ticket moved = std::move(ticket);
    std::thread opener([&] { held.open.set_value(); });
    moved = {};  // waits
    CHECK(x.out == y.out);
    opener.join();
  }
  std::fill(x.out.begin(), x.out.end(), 0.0f);
  {
    // Detached: what the callback holds lives on without the ticket, until the work is done.
    Held held;
    const sa::Ticket first = context.submit(y.attention(), held.options());
    auto token = std::make_shared<int>(0);
    const std::weak_ptr<int> weak = token;
    sa::SubmitOptions owning{
        .progress = [token = std::exchange(token, nullptr)](auto, auto) { return token != nullptr; }};
    CHECK(context.submit(x.attention(), owning).detach() > 0);
    owning = {};
    CHECK(!weak.expired());
    held.open.set_value();
    context.wait_all();
    CHECK(x.out == y.out);
    for (int i = 0; i < 1000 && !weak.expired(); i++) std::this_thread::sleep_for(milliseconds(1));
    CHECK(weak.expired());
  }
}

TEST_CASE("C++: cancelling, and exceptions that cross the library") {
  const sa::Context context = cpu();
  Small x(3000);
  const sa::Cancel cancel;
  Held held;
  sa::SubmitOptions options = held.options();
  options.cancel = cancel;
  const sa::Ticket ticket = context.submit(x.attention(), options);
  cancel.trigger();
  held.open.set_value();
  says(caught([&] { ticket.wait(); }), sa::Status::cancelled, "");
  CHECK(ticket.try_stats().status() == sa::Status::cancelled);
  says(caught([&] { context.run(x.attention(), {.cancel = cancel}); }), sa::Status::cancelled, "");

  says(caught([&] { context.run(x.attention(), {.progress = [](auto, auto) { return false; }}); }),
       sa::Status::cancelled, "");
  const sa::Progress throwing = [](auto, auto) -> bool { throw std::domain_error("mine"); };
  CHECK_THROWS_WITH_AS(context.run(x.attention(), {.progress = throwing}), "mine", std::domain_error);
  CHECK(context.try_run(x.attention(), {.progress = throwing}).status() == sa::Status::cancelled);
  const sa::Ticket thrown = context.submit(x.attention(), {.progress = throwing});
  CHECK_THROWS_AS(thrown.wait(), std::domain_error);
  CHECK_THROWS_AS(thrown.stats(), std::domain_error);
  CHECK_THROWS_WITH_AS(sa::Model::load(context, kGolden, {.progress = throwing}), "mine", std::domain_error);
  CHECK(sa::Model::try_load(context, kGolden, {.cancel = cancel}).status() == sa::Status::cancelled);
  context.run(x.attention(), {.progress = [](auto, auto) { return true; }});
}

TEST_CASE("C++: buffers, chunks with a gate cache, models from memory and from arrays") {
  const sa::Context context = cpu();
  const std::string weights = read(kGolden / "attn_gate_weights.safetensors");
  const sa::Model model = sa::Model::load(context, read(kGolden / "config.json"), std::as_bytes(std::span(weights)),
                                          {.first_layer = 1, .layer_count = 1});
  CHECK(model.config().layers == 1);
  CHECK(model.config().first_layer == 1);
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "seerattn-hpp-äö";
  std::filesystem::create_directories(folder);
  model.save(folder);
  CHECK(sa::Model::load(context, folder, {.first_layer = 1, .layer_count = 1, .safetensors_only = true})
            .config()
            .layers == 1);
  std::filesystem::remove_all(folder);

  Small x;
  const sa::Buffer buffer(context, x.q.size() * sizeof(float) + 64);
  buffer.write(std::span<const float>(x.q), 64);
  Floats back(x.q.size());
  buffer.read(std::span(back), 64);
  CHECK(back == x.q);
  CHECK(buffer.address() != nullptr);
  context.run(x.attention());
  Floats expected = x.out;
  sa::Attention attention = x.attention();
  attention.q = buffer.tensor(sa::Dtype::f32, {1, x.tokens, 2, 16}, 64);
  context.run(attention);
  CHECK(x.out == expected);
  says(caught([&] { buffer.write(std::span<const float>(x.q), 65); }), sa::Status::out_of_bounds, "");
  CHECK(!buffer.try_read(std::as_writable_bytes(std::span(back)), 1 << 20));

  // A single-form gate of zeros: every block scores alike.
  seer_gate_config config = SEER_INIT(seer_gate_config);
  config.layers = 1;
  config.q_heads = 2;
  config.kv_heads = 1;
  config.head_dim = config.gate_dim = 16;
  config.block_size = 32;
  config.q_pool = config.k_pool = SEER_POOL_AVG;
  config.rope.kind = SEER_ROPE_THETA;
  config.rope.theta = 10000;
  const Floats wk(2 * 16 * 16);
  const sa::GateWeights layer{.wk = {wk, {2, 16, 16}}};
  const sa::Model zeros = sa::Model::create(context, config, {&layer, 1});
  says(caught([&] { sa::Model::create(context, config, {}); }), sa::Status::model_mismatch, "layers");

  const sa::GateCache cache(context, zeros, 128);
  sa::Prefill chunk{.model = zeros,
                    .q = {std::span(x.q).first(64 * 32), {1, 64, 2, 16}},
                    .k = {std::span(x.k).first(64 * 16), {1, 64, 1, 16}},
                    .v = {std::span(x.v).first(64 * 16), {1, 64, 1, 16}},
                    .out = {std::span(x.out).first(64 * 32), {1, 64, 2, 16}},
                    .select = {.method = sa::Method::all},
                    .cache = &cache,
                    .total_len = 70};
  context.run(chunk);
  CHECK(cache.length(0) == 64);
  says(caught([&] { context.run(chunk); }), sa::Status::cache_state, "");
  cache.truncate(32);
  CHECK(cache.length(0) == 32);
  says(caught([&] { static_cast<void>(cache.length(7)); }), sa::Status::invalid_argument, "layer");
}

TEST_CASE("C++: copies share an object, the log hears of it, and devices are listed") {
  std::atomic<int> lines{0};
  auto kept = std::make_shared<int>(0);
  const std::weak_ptr<int> weak = kept;
  {
    sa::Context context({.backend = sa::Backend::cpu,
                         .log_level = sa::LogLevel::debug,
                         .log = [&lines, kept = std::move(kept)](sa::LogLevel, std::string_view text) {
                           if (!text.empty()) lines++;
                         }});
    const sa::Context copy = context;
    CHECK(copy.get() == context.get());
    context = sa::Context();
    Small x;
    copy.run(x.attention());
    const sa::Model model = sa::Model::load(copy, kGolden);
    CHECK(lines > 0);
  }
  for (int i = 0; i < 1000 && !weak.expired(); i++) std::this_thread::sleep_for(milliseconds(1));
  CHECK(weak.expired());
  // A context that is not made does not keep its log.
  kept = std::make_shared<int>(0);
  const std::weak_ptr<int> refused = kept;
  CHECK(!sa::Context::try_create(
      {.backend = sa::Backend::cpu, .device = 99, .log = [kept = std::move(kept)](sa::LogLevel, std::string_view) {}}));
  CHECK(refused.expired());
  REQUIRE(sa::devices(sa::Backend::cpu).size() == 1);
  CHECK(sa::devices(sa::Backend::cpu)[0].name[0] != '\0');
  CHECK_THROWS_AS(static_cast<void>(sa::devices(sa::Backend::automatic)), sa::Error);
  CHECK(sa::version() == SEER_VERSION);
}
