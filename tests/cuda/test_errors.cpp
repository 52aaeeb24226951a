// The CUDA host on a driver that fails: what a call that fails says, and that it leaves nothing behind, on the caller's
// stream least of all.
#include <doctest/doctest.h>
#include <seerattn/seerattn.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "attention.h"
#include "cuda/images.h"

namespace {

constexpr int kInvalidValue = 1, kOutOfMemory = 2, kNoBinary = 209, kNotFound = 500, kIllegalAddress = 700;

// Has each call of the driver fail in turn, once or for good, until what `body` does takes fewer and it says so. What
// it takes, it is to give back.
template <class Body>
void each_failure(Body body) {
  for (const bool sticky : {false, true}) {
    bool through = false;
    for (int nth = 1; !through; nth++) {
      REQUIRE(nth < 300);
      CAPTURE(nth);
      CAPTURE(sticky);
      const Clean clean;
      const fake::Counts before = fake::control().counts();
      through =
          body([&] { fake::control().fail("", nth, sticky ? kIllegalAddress : kInvalidValue, sticky); }, nth, sticky);
      fake::Counts after = fake::control().counts();
      after.peak_bytes = before.peak_bytes;
      CHECK(after == before);
    }
  }
}

// Every kind of call, each of as many kernels, lists and tables as it can have.
enum class Kind { attention, prefill, bands, gate, select };
constexpr Kind kKinds[] = {Kind::attention, Kind::prefill, Kind::bands, Kind::gate, Kind::select};

class Calls {
public:
  static constexpr int32_t kHeads = 2, kKvHeads = 1, kDim = 128;

  explicit Calls(Kind kind, const seer_allocator *allocator = nullptr, std::string tier = "sm90")
      : context(make_context(allocator)),
        blocks(kind == Kind::prefill ? 257 : 5),  // 257: select takes them by clusters
        kind_(kind),
        model_(make_model(context, kHeads, kKvHeads, kDim)),
        tier_(std::move(tier)) {
    rotate(a_.desc);
  }

  seer_status make(const seer_submit &submit, seer_ticket *ticket) {
    const fake::Tier tier(tier_);
    return record(submit, ticket);
  }

  const ContextHandle context;
  const int64_t blocks;  // of a sequence

private:
  static constexpr int64_t kBatch = 2;

  seer_status record(const seer_submit &submit, seer_ticket *ticket) {
    const seer_tensor bytes = tensor(bytes_.address, 0, SEER_U8, {kBatch, kHeads, blocks, blocks});
    const seer_tensor scores = tensor(scores_.address, 0, SEER_F32, {kBatch, kHeads, blocks, blocks});
    seer_prefill_desc prefill = prefill_of(a_, kind_ == Kind::bands ? SEER_SELECT_RATIO : SEER_SELECT_THRESHOLD);
    prefill.mask = bytes;
    seer_attention_desc attention = a_.desc;
    attention.mask = bytes;
    seer_gate_desc gate = SEER_INIT(seer_gate_desc);
    gate.q = prefill.q;
    gate.k = prefill.k;
    gate.select = prefill.select;
    gate.scores = scores;
    gate.mask = bytes;
    seer_select_desc select = SEER_INIT(seer_select_desc);
    select.select = prefill.select;
    select.scores = scores;
    select.mask = bytes;
    switch (kind_) {
      case Kind::attention: return seer_attention(context.get(), &attention, &submit, ticket);
      case Kind::prefill:
      case Kind::bands: return seer_prefill(context.get(), model_.get(), 0, &prefill, &submit, ticket);
      case Kind::gate: return seer_gate(context.get(), model_.get(), 0, &gate, &submit, ticket);
      case Kind::select: return seer_select(context.get(), &select, &submit, ticket);
    }
    return SEER_ERROR_INTERNAL;
  }

  const Kind kind_;
  const ModelHandle model_;
  const std::string tier_;
  Attention a_{kBatch, 64 * blocks, 64 * blocks, kHeads, kKvHeads, kDim};
  const fake::Memory bytes_{uint64_t(kBatch * kHeads * blocks * blocks)}, scores_{4 * bytes_.size};
};

std::vector<std::string> kernels() {
  std::vector<std::string> names;
  for (const fake::Launch &l : fake::control().launches()) names.push_back(l.kernel);
  return names;
}

const char *image_name(const void *data) {
  for (const seer::cuda::Image &i : seer::cuda::images())
    if (i.data == data) return i.name;
  return "of no image";
}

// Tables of angles that pool is given, once its stream has run: their last rows are there.
void check_tables(const Calls &calls) {
  const auto holds = [](const float *coarse, int64_t row, int64_t position) {
    return std::abs(coarse[row * Calls::kDim] - float(std::cos(double(position)))) < 1e-6f;
  };
  const int64_t token = calls.blocks - 1, block = token / 64;  // of tokens 64 apart, and of blocks 64 apart
  for (const fake::Launch &l : launches("pool_"))
    for (const seer::cuda::PoolSide &side : l.pool.side) {
      if (side.coarse) CHECK(holds(side.coarse, token, 64 * token));
      if (side.gate_coarse) CHECK(holds(side.gate_coarse, block, 64 * 64 * block));
    }
}

struct Failing {
  std::string function;
  int error;
  seer_status status;
};
const Failing kFailing[] = {
    {"cuModuleLoadData", kOutOfMemory, SEER_ERROR_DEVICE_OUT_OF_MEMORY},
    {"cuModuleLoadData", kNoBinary, SEER_ERROR_UNSUPPORTED},
    {"cuModuleGetFunction", kOutOfMemory, SEER_ERROR_DEVICE_OUT_OF_MEMORY},
    {"cuModuleGetFunction", kNotFound, SEER_ERROR_UNSUPPORTED},
    {"cuModuleGetGlobal", kInvalidValue, SEER_ERROR_INTERNAL},
    {"cuFuncGetAttribute", kInvalidValue, SEER_ERROR_INTERNAL},
    {"cuFuncSetAttribute", kOutOfMemory, SEER_ERROR_DEVICE_OUT_OF_MEMORY},
    {"cuMemAlloc", kOutOfMemory, SEER_ERROR_DEVICE_OUT_OF_MEMORY},
    {"cuMemHostAlloc", kOutOfMemory, SEER_ERROR_DEVICE_OUT_OF_MEMORY},
    {"cuEventCreate", kOutOfMemory, SEER_ERROR_DEVICE_OUT_OF_MEMORY},
    {"cuStreamCreate", kOutOfMemory, SEER_ERROR_DEVICE_OUT_OF_MEMORY},
    {"cuTensorMapEncodeTiled", kInvalidValue, SEER_ERROR_INTERNAL},
};

// What the text of an error must name.
std::string named(const Failing &failing) {
  const std::string &function = failing.function;
  const fake::Lookup last = fake::control().lookup();
  if (function == "cuModuleLoadData") return image_name(last.image);
  if (function == "cuModuleGetGlobal") return last.variable;  // KERNEL_shared or KERNEL_threads
  return function == "cuModuleGetFunction" || function.rfind("cuFunc", 0) == 0 ? last.kernel : std::string();
}

// Makes a call in a new context, with `failing` (null: nothing) at its nth call from there on. If that fails, nothing
// of it may be on the stream, and the same call again is to launch `expected`. Returns whether it did not fail; then
// `expected` is what it launched.
bool survives(Kind kind, const std::string &tier, bool captured, const Failing *failing, int nth,
              std::vector<std::string> &expected) {
  const Clean clean;
  Calls calls(kind, nullptr, tier);
  const fake::Stream stream;
  const seer_submit submit = submit_to(&stream.handle);
  fake::control().reset();
  fake::control().capture(stream.handle, captured);
  constexpr seer_ticket kUntouched = 4711;
  seer_ticket ticket = kUntouched;
  if (failing) fake::control().fail(failing->function, nth, failing->error, false);
  const seer_status status = calls.make(submit, &ticket);
  if (status == SEER_OK) {
    expected = kernels();
  } else {
    CHECK(status == failing->status);
    CHECK(ticket == kUntouched);
    CHECK(kernels().empty());
    CHECK(fake::control().enqueued(stream.handle) == 0);
    const std::string why = seer_last_error();
    CHECK_MESSAGE(why.find(named(*failing)) != std::string::npos, why);
    CHECK_MESSAGE(calls.make(submit, &ticket) == SEER_OK, seer_last_error());
    CHECK(kernels() == expected);
  }
  CHECK(seer_wait(calls.context.get(), ticket, UINT64_MAX) == SEER_OK);
  fake::control().capture(stream.handle, false);
  fake::control().run_all();
  check_tables(calls);
  return status == SEER_OK;
}

}  // namespace

TEST_CASE("errors: memory that cannot be had is an outcome, and the context lives on") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  Attention a(2, 300, 300);
  rotate(a.desc);
  const fake::Counts before = fake::control().counts();
  for (int nth = 1; nth <= 3; nth++) {
    CAPTURE(nth);
    fake::control().fail("cuMemAlloc", nth, kOutOfMemory, false);
    const seer_status status = run(context, a.desc, &stream.handle);
    if (status == SEER_OK) break;  // there are fewer allocations
    CHECK(status == SEER_ERROR_DEVICE_OUT_OF_MEMORY);
    CHECK(fake::control().counts().device_memory >= before.device_memory);
  }
  fake::control().reset();
  CHECK_MESSAGE(run(context, a.desc, &stream.handle) == SEER_OK, seer_last_error());
  CHECK(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

TEST_CASE("errors: a call that cannot be recorded has enqueued nothing, whatever failed, and the next one works") {
  for (const std::string tier : {"sm90", "sm80"})
    for (const Kind kind : kKinds) {
      if (tier == "sm80" && kind != Kind::attention) continue;
      for (const bool captured : {false, true}) {
        std::vector<std::string> expected;
        REQUIRE(survives(kind, tier, captured, nullptr, 0, expected));
        for (const Failing &failing : kFailing) {
          int nth = 1;
          for (bool through = false; !through; nth++) {
            REQUIRE(nth < 100);
            CAPTURE(tier);
            CAPTURE(int(kind));
            CAPTURE(captured);
            CAPTURE(failing.function);
            CAPTURE(nth);
            through = survives(kind, tier, captured, &failing, nth, expected);
          }
          if (failing.function == "cuModuleGetFunction") CHECK(nth > 2);  // it did fail
        }
      }
    }
}

TEST_CASE("errors: a call that the caller's allocator refuses memory, or that is cancelled, has enqueued nothing") {
  const Clean clean;
  Arena arena(uint64_t{256} << 20);
  const seer_allocator allocator = arena.allocator();
  for (const Kind kind : kKinds) {
    CAPTURE(int(kind));
    arena.used = 0;
    Calls calls(kind, &allocator);
    const fake::Stream stream;
    seer_submit submit = submit_to(&stream.handle);
    fake::control().reset();
    int refused = 0;
    for (bool through = false; !through; refused++) {
      REQUIRE(refused < 20);
      CAPTURE(refused);
      arena.refused = refused + 1;
      const seer_status status = calls.make(submit, nullptr);
      through = status == SEER_OK;
      if (through) break;
      CHECK(status == SEER_ERROR_DEVICE_OUT_OF_MEMORY);
      CHECK(fake::control().enqueued(stream.handle) == 0);
    }
    CHECK(refused > 0);
    arena.refused = 0;
    const uint64_t before = fake::control().enqueued(stream.handle);
    submit.progress = [](void *, uint64_t done, uint64_t total) -> int32_t { return done == total; };
    CHECK(calls.make(submit, nullptr) == SEER_ERROR_CANCELLED);  // at its very last step
    CHECK(fake::control().enqueued(stream.handle) == before);
    CHECK(seer_wait(calls.context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
  }
}

TEST_CASE("errors: what a call that failed would have replaced is freed when the calls before it are done") {
  const Clean clean;
  Arena arena(uint64_t{64} << 20);
  const seer_allocator allocator = arena.allocator();
  const auto context = make_context(&allocator);
  const fake::Stream stream;
  Attention a(2, 200, 200), longer(2, 1000, 1000);
  rotate(a.desc);
  rotate(longer.desc);
  REQUIRE_MESSAGE(run(context, a.desc, &stream.handle) == SEER_OK, seer_last_error());
  arena.watched = stream.handle;
  fake::control().fail("cuTensorMapEncodeTiled", 1, kInvalidValue, false);
  CHECK(run(context, longer.desc, &stream.handle) == SEER_ERROR_INTERNAL);
  CHECK(arena.freed_on.size() == 2);  // the workspace and the table
  CHECK(arena.freed_early == 0);
  arena.watched = nullptr;
  CHECK(run(context, longer.desc, &stream.handle) == SEER_OK);
  CHECK(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

TEST_CASE("errors: captured calls that cannot be recorded keep no memory for their graph") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  const Attention a(2, 300, 300);
  fake::control().capture(stream.handle, true);
  std::vector<int64_t> live;
  for (int i = 0; i < 3; i++) {
    fake::control().fail("cuTensorMapEncodeTiled", 1, kInvalidValue, false);  // its lists are there by then
    CHECK(run(context, a.desc, &stream.handle) == SEER_ERROR_INTERNAL);
    live.push_back(fake::control().counts().device_memory);
  }
  CHECK(live[1] == live[0]);
  CHECK(live[2] == live[0]);
  CHECK_MESSAGE(run(context, a.desc, &stream.handle) == SEER_OK, seer_last_error());
  CHECK(fake::control().counts().device_memory > live[0]);
  fake::control().capture(stream.handle, false);
}

TEST_CASE("errors: a launch that fails takes the rest of its call with it; tables are written anew") {
  const Clean clean;
  Calls calls(Kind::prefill);
  const fake::Stream stream;
  const seer_submit submit = submit_to(&stream.handle);
  for (const std::string function : {"cuMemsetD8Async", "cuMemcpyHtoDAsync", "cuLaunchKernelEx", "cuEventRecord"}) {
    CAPTURE(function);
    fake::control().fail(function, 1, kInvalidValue, false);
    CHECK(calls.make(submit, nullptr) == SEER_ERROR_INTERNAL);
    CHECK(kernels().empty());
  }
  CHECK(calls.make(submit, nullptr) == SEER_OK);
  fake::control().run_all();
  check_tables(calls);
  CHECK(seer_wait(calls.context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

TEST_CASE("errors: any call of the driver may fail, once or for good") {
  each_failure([](const auto &fail, int nth, bool sticky) {
    const auto context = make_context();
    const fake::Stream stream;
    Attention a(2, 300, 300);
    rotate(a.desc);
    const auto attention = [&] {
      seer_ticket ticket = 0;
      const seer_status status = run(context, a.desc, &stream.handle, &ticket);
      return status == SEER_OK ? seer_wait(context.get(), ticket, UINT64_MAX) : status;
    };
    const uint64_t calls = fake::control().calls("");
    fail();
    const seer_status status = attention();
    const bool through = status == SEER_OK && fake::control().calls("") - calls < uint64_t(nth);
    if (!through) CHECK(std::string(seer_last_error()).size() > 0);
    if (!through && sticky) {
      CHECK(status != SEER_OK);
      // The context is dead, and says so; it can be released.
      CHECK(run(context, a.desc, &stream.handle) == SEER_ERROR_DEVICE_LOST);
    }
    fake::control().reset();
    if (!through && !sticky) CHECK_MESSAGE(attention() == SEER_OK, seer_last_error());
    return through;
  });
}

TEST_CASE("errors: a context that cannot be made leaves nothing behind") {
  each_failure([](const auto &fail, int, bool) {
    seer_context_params params = SEER_INIT(seer_context_params);
    params.backend = SEER_BACKEND_CUDA;
    seer_context *context = nullptr;
    fail();
    const bool made = seer_context_create(&params, &context) == SEER_OK;
    fake::control().reset_errors();
    seer_context_release(context);
    return made;
  });
}

TEST_CASE("errors: any call of the driver may fail in a prefill, and leaves the gate cache as it was") {
  each_failure([](const auto &fail, int nth, bool sticky) {
    const auto context = make_context();
    const auto model = make_model(context, 4, 2, 64);
    seer_gate_cache_params sizes = SEER_INIT(seer_gate_cache_params);
    sizes.sequences = 2;
    sizes.max_tokens = 1000;
    seer_gate_cache *made = nullptr;
    REQUIRE(seer_gate_cache_create(context.get(), model.get(), &sizes, &made) == SEER_OK);
    const std::unique_ptr<seer_gate_cache, Release> cache(made);
    const fake::Stream stream;
    const Attention a(2, 300, 300, 4, 2, 64);
    seer_prefill_desc desc = prefill_of(a, SEER_SELECT_RATIO);
    desc.mask = a.desc.mask;
    desc.cache = cache.get();
    const seer_submit submit = submit_to(&stream.handle);
    bool recorded = false;
    const auto prefill = [&] {
      seer_ticket ticket = 0;
      const seer_status status = seer_prefill(context.get(), model.get(), 0, &desc, &submit, &ticket);
      recorded = status == SEER_OK;
      return recorded ? seer_wait(context.get(), ticket, UINT64_MAX) : status;
    };
    const auto length = [&](int64_t expected) {
      int64_t tokens = -1;
      CHECK(seer_gate_cache_length(cache.get(), 0, 1, &tokens) == SEER_OK);
      CHECK(tokens == expected);
    };
    const uint64_t calls = fake::control().calls("");
    fail();
    const seer_status status = prefill();
    const bool through = status == SEER_OK && fake::control().calls("") - calls < uint64_t(nth);
    fake::control().reset_errors();
    if (sticky && !through) {
      CHECK(prefill() == SEER_ERROR_DEVICE_LOST);
    } else if (through || recorded) {  // recorded: what failed is the look at its end, and only here does that not
      length(256);                     // lose the device
    } else {
      CHECK(status != SEER_OK);
      length(0);
      CHECK_MESSAGE(prefill() == SEER_OK, seer_last_error());
      length(256);
    }
    return through;
  });
}

TEST_CASE("errors: what a call holds is not used again before its work is done, though the wait for it failed") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  const Attention a(2, 300, 300), b(2, 200, 200);
  fake::control().fail("cuEventQuery", 1, kInvalidValue, false);
  seer_ticket ticket = 0;
  REQUIRE(run(context, a.desc, &stream.handle, &ticket) == SEER_OK);
  CHECK(seer_wait(context.get(), ticket, UINT64_MAX) == SEER_ERROR_INTERNAL);
  REQUIRE(run(context, b.desc, &stream.handle) == SEER_OK);
  REQUIRE(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
  const auto all = launches("attend_");
  REQUIRE(all.size() == 2);
  REQUIRE(all[0].attend_sequences.size() == 2);
  CHECK(all[0].attend_sequences[1].q_len == 300);
  CHECK(all[1].attend_sequences[1].q_len == 200);
}

TEST_CASE("errors: a wait for another stream's call that cannot be recorded leaks nothing") {
  const Clean clean;
  const fake::Counts before = fake::control().counts();
  {
    const auto context = make_context();
    const fake::Stream one, two;
    Attention a(2, 300, 300);
    rotate(a.desc);
    REQUIRE(run(context, a.desc, &one.handle) == SEER_OK);
    REQUIRE(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
    fake::control().fail("cuStreamWaitEvent", 1, kInvalidValue, false);
    CHECK(run(context, a.desc, &two.handle) == SEER_ERROR_INTERNAL);
    CHECK(run(context, a.desc, &two.handle) == SEER_OK);
    CHECK(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
  }
  const fake::Counts after = fake::control().counts();
  CHECK(after.device_memory == before.device_memory);
  CHECK(after.pinned_memory == before.pinned_memory);
  CHECK(after.events == before.events);
}

TEST_CASE("errors: all that CUDA says leaves a process unusable loses the device") {
  for (const int error : {226, 700, 702, 714, 715, 716, 717, 718, 719, 721, 810, 911}) {
    CAPTURE(error);
    const Clean clean;
    const auto context = make_context();
    Attention a;
    fake::control().fail("cuLaunchKernelEx", 1, error, true);
    CHECK(run(context, a.desc) == SEER_ERROR_DEVICE_LOST);
  }
}
