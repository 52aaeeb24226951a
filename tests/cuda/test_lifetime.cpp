// The CUDA host on a driver without a GPU: several devices, streams that only look the same, whose allocator is told
// what, and what is left behind where things fail.
#include <doctest/doctest.h>
#include <seerattn/seerattn.h>

#include <atomic>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

#include "attention.h"
#include "backend.h"

namespace {

constexpr int kInvalidValue = 1, kIllegalAddress = 700;

// A caller's allocator: what it was told, and an arena that it serves from, as frameworks' caches do.
struct Arena {
  explicit Arena(uint64_t bytes) : memory(bytes) {}
  fake::Memory memory;
  uint64_t used = 0;
  int64_t live = 0;
  std::vector<void *> allocated_on, freed_on;
  seer_allocator allocator() {
    seer_allocator a = SEER_INIT(seer_allocator);
    a.user = this;
    a.device_alloc = [](void *user, uint64_t size, void *stream) -> void * {
      auto &self = *static_cast<Arena *>(user);
      if (self.used + size > self.memory.size) return nullptr;
      char *at = static_cast<char *>(self.memory.address) + self.used;
      self.used += (size + 255) / 256 * 256;
      self.live++;
      self.allocated_on.push_back(stream);
      return at;
    };
    a.device_free = [](void *user, void *, uint64_t, void *stream) {
      auto &self = *static_cast<Arena *>(user);
      self.live--;
      self.freed_on.push_back(stream);
    };
    return a;
  }
};

}  // namespace

TEST_CASE("two devices: each call with the context, kernels, streams and memory of its own") {
  const Clean clean;
  fake::control().devices(2);
  int32_t count = 0;
  REQUIRE(seer_device_count(SEER_BACKEND_CUDA, &count) == SEER_OK);
  CHECK(count == 2);
  const ContextHandle context[2] = {make_context(nullptr, 0), make_context(nullptr, 1)};
  Attention a[2] = {Attention(2, 200, 200, 4, 2, 128, 0), Attention(2, 200, 200, 4, 2, 128, 1)};
  const fake::Stream stream[2] = {fake::Stream(0), fake::Stream(1)};
  for (Attention &one : a) rotate(one.desc);
  SUBCASE("from one thread, in turn") {
    for (int i = 0; i < 4; i++)
      for (int d = 0; d < 2; d++) {
        seer_ticket ticket = 0;
        REQUIRE_MESSAGE(run(context[d], a[d].desc, i % 2 ? &stream[d].handle : nullptr, &ticket) == SEER_OK,
                        seer_last_error());
        CHECK(seer_wait(context[d].get(), ticket, UINT64_MAX) == SEER_OK);
      }
    const auto all = launches("attend_");
    REQUIRE(all.size() == 8);
    for (size_t i = 0; i < all.size(); i++) CHECK(all[i].device == int(i % 2));
  }
  SUBCASE("from two threads at once") {
    std::atomic<int> done{0};
    std::vector<std::thread> threads;
    for (int d = 0; d < 2; d++)
      threads.emplace_back([&, d] {
        for (int i = 0; i < 50; i++) done += run(context[d], a[d].desc) == SEER_OK;
      });
    for (std::thread &t : threads) t.join();
    CHECK(done == 100);
  }
  SUBCASE("what is of the other device is refused") {
    CHECK(run(context[0], a[1].desc) == SEER_ERROR_MEMORY_KIND);
    const std::string why = seer_last_error();
    CHECK_MESSAGE(why.find("no memory that cuda device 0 (Fake GPU) can use") != std::string::npos, why);
    CHECK(run(context[0], a[0].desc, &stream[1].handle) == SEER_ERROR_INVALID_ARGUMENT);
    CHECK(std::string(seer_last_error()) == "the stream is of CUDA device 1; the context is on device 0");
    CHECK_MESSAGE(run(context[0], a[0].desc, &stream[0].handle) == SEER_OK, seer_last_error());
    CHECK(seer_wait(context[0].get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
  }
}

TEST_CASE("threads' own streams have one name: a call on another waits for the one before") {
  const Clean clean;
  const auto context = make_context();
  Attention a;
  rotate(a.desc);
  void *const per_thread = reinterpret_cast<void *>(2);
  REQUIRE_MESSAGE(run(context, a.desc, &per_thread) == SEER_OK, seer_last_error());
  REQUIRE(run(context, a.desc, &per_thread) == SEER_OK);
  CHECK(fake::control().calls("cuStreamWaitEvent") == 0);
  std::thread([&] { CHECK(run(context, a.desc, &per_thread) == SEER_OK); }).join();
  CHECK(fake::control().calls("cuStreamWaitEvent") == 1);
  CHECK(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

TEST_CASE("a stream that is gone, and one of the same address after it, are two") {
  const Clean clean;
  const auto context = make_context();
  Attention a;
  rotate(a.desc);
  fake::Stream stream;
  REQUIRE(run(context, a.desc, &stream.handle) == SEER_OK);
  fake::control().renew_stream(stream.handle);
  REQUIRE(run(context, a.desc, &stream.handle) == SEER_OK);
  CHECK(fake::control().calls("cuStreamWaitEvent") == 1);
  CHECK(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

TEST_CASE("the caller's allocator gets back what a graph has kept") {
  const Clean clean;
  Arena arena(uint64_t{64} << 20);
  const seer_allocator allocator = arena.allocator();
  const fake::Stream stream;
  {
    const auto context = make_context(&allocator);
    Attention a(2, 200, 200), longer(2, 1000, 1000);
    rotate(a.desc);
    rotate(longer.desc);
    fake::control().capture(stream.handle, true);
    REQUIRE_MESSAGE(run(context, a.desc, &stream.handle) == SEER_OK, seer_last_error());
    fake::control().capture(stream.handle, false);
    REQUIRE(run(context, longer.desc) == SEER_OK);
    CHECK(arena.freed_on.empty());
  }
  CHECK(arena.live == 0);
  CHECK(std::count(arena.freed_on.begin(), arena.freed_on.end(), stream.handle) == 0);
}

TEST_CASE("memory made and freed beside a call on the caller's stream is not of that stream") {
  const Clean clean;
  Arena arena(uint64_t{64} << 20);
  const seer_allocator allocator = arena.allocator();
  const auto context = make_context(&allocator);
  const fake::Stream stream;
  Attention a;
  struct Beside {
    seer_context *context;
    bool ran = false;
  } beside{context.get()};
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = SEER_SUBMIT_USE_STREAM;
  submit.cuda_stream = stream.handle;
  submit.progress_user = &beside;
  submit.progress = [](void *user, uint64_t, uint64_t) -> int32_t {  // while the call is recorded
    auto &b = *static_cast<Beside *>(user);
    if (std::exchange(b.ran, true)) return 0;
    std::thread([&] {
      seer_buffer *buffer = nullptr;
      CHECK(seer_buffer_create(b.context, 1000, 0, &buffer) == SEER_OK);
      seer_buffer_release(buffer);
    }).join();
    return 0;
  };
  REQUIRE_MESSAGE(seer_attention(context.get(), &a.desc, &submit, nullptr) == SEER_OK, seer_last_error());
  CHECK(beside.ran);
  REQUIRE(arena.freed_on.size() == 1);
  CHECK(arena.allocated_on.back() != stream.handle);
  CHECK(arena.freed_on.back() != stream.handle);
  CHECK(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

TEST_CASE("a tensor at the end of its memory has none, whatever lies behind") {
  const Clean clean;
  Arena arena(uint64_t{64} << 20);
  const seer_allocator allocator = arena.allocator();
  const auto context = make_context(&allocator);
  Attention a;
  seer_attention_desc desc = a.desc;
  seer_buffer *buffers[2] = {};
  for (const bool empty : {false, true}) {  // the buffer; behind it there is more of the arena
    CAPTURE(empty);
    REQUIRE(seer_buffer_create(context.get(), empty ? 0 : a.v.size, 0, &buffers[empty]) == SEER_OK);
    desc.v = a.desc.v;
    desc.v.mem = SEER_MEM_BUFFER;
    desc.v.data = nullptr;
    desc.v.buffer = buffers[empty];
    CHECK(run(context, desc) == (empty ? SEER_ERROR_OUT_OF_BOUNDS : SEER_OK));
    desc.v.offset = empty ? 0 : a.v.size;
    CHECK(run(context, desc) == SEER_ERROR_OUT_OF_BOUNDS);
  }
  const fake::Memory twice(2 * a.v.size);
  desc.v = a.desc.v;
  desc.v.data = twice.address;
  desc.v.offset = a.v.size;
  CHECK_MESSAGE(run(context, desc) == SEER_OK, seer_last_error());
  desc.v.size = a.v.size;  // says the caller
  CHECK(run(context, desc) == SEER_ERROR_OUT_OF_BOUNDS);
  for (seer_buffer *buffer : buffers) seer_buffer_release(buffer);
}

TEST_CASE("errors: a context that cannot be made leaves nothing behind") {
  const Clean clean;
  for (const bool sticky : {false, true}) {
    bool made = false;
    for (int nth = 1; !made; nth++) {
      REQUIRE(nth < 100);
      CAPTURE(nth);
      CAPTURE(sticky);
      const fake::Counts before = fake::control().counts();
      seer_context_params params = SEER_INIT(seer_context_params);
      params.backend = SEER_BACKEND_CUDA;
      seer_context *context = nullptr;
      fake::control().fail("", nth, sticky ? kIllegalAddress : kInvalidValue, sticky);
      made = seer_context_create(&params, &context) == SEER_OK;
      fake::control().reset_errors();
      seer_context_release(context);
      const fake::Counts after = fake::control().counts();
      CHECK(after.device_memory == before.device_memory);
      CHECK(after.streams == before.streams);
      CHECK(after.contexts == before.contexts);
    }
  }
}

TEST_CASE("errors: any call of the driver may fail in a prefill, and leaves the gate cache as it was") {
  for (const bool sticky : {false, true}) {
    bool through = false;
    for (int nth = 1; !through; nth++) {
      REQUIRE(nth < 300);
      CAPTURE(nth);
      CAPTURE(sticky);
      const Clean clean;
      const fake::Counts before = fake::control().counts();
      {
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
        seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
        desc.q = a.desc.q;
        desc.k = a.desc.k;
        desc.v = a.desc.v;
        desc.out = a.desc.out;
        desc.mask = a.desc.mask;
        desc.cache = cache.get();
        desc.select.method = SEER_SELECT_RATIO;
        desc.select.ratio = 0.3;
        seer_submit submit = SEER_INIT(seer_submit);
        submit.flags = SEER_SUBMIT_USE_STREAM;
        submit.cuda_stream = stream.handle;
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
        fake::control().fail("", nth, sticky ? kIllegalAddress : kInvalidValue, sticky);
        const uint64_t calls = fake::control().calls("");
        const seer_status status = prefill();
        through = status == SEER_OK && fake::control().calls("") - calls < uint64_t(nth);
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
      }
      const fake::Counts after = fake::control().counts();
      CHECK(after == fake::Counts{before.device_memory, before.pinned_memory, before.streams, before.events,
                                  before.modules, before.contexts, before.bytes, after.peak_bytes});
    }
  }
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

TEST_CASE("a driver that does not list its devices, as in the child of a fork, is none; why is told") {
  const Clean clean;
  fake::control().fail("cuDeviceGetCount", 1, 3, true);
  int32_t count = -1;
  REQUIRE(seer_device_count(SEER_BACKEND_CUDA, &count) == SEER_OK);
  CHECK(count == 0);
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_CUDA;
  seer_context *made = nullptr;
  CHECK(seer_context_create(&params, &made) == SEER_ERROR_UNSUPPORTED);
  const std::string why = seer_last_error();
  CHECK_MESSAGE(why.find("the driver does not list its devices: CUDA_ERROR_OF_THE_FAKE") != std::string::npos, why);
}

TEST_CASE("select: vectors that 32-bit offsets do not reach are refused") {
  const Clean clean;
  const auto device = seer::create_device(seer::BackendKind::cuda, {});
  const fake::Memory vectors(4096), mask(4096);
  seer::Exec exec;
  for (const auto method : {seer::SelectMethod::threshold, seer::SelectMethod::ratio}) {
    seer::SelectArgs args;
    seer::Sequence s;
    s.q_len = 64;
    s.k_len = s.total_len = int64_t{64} << 17;  // 2^17 blocks, 128 heads, 128 channels
    args.sequences = {&s, 1};
    args.q_heads = args.gate.q_heads = 128;
    args.gate.q = args.gate.k = static_cast<const float *>(vectors.address);
    args.gate.dim = 128;
    args.gate.scale = 0.1;
    args.rule.method = method;
    args.rule.last_dense_rows = 0;
    args.mask.words = static_cast<uint32_t *>(mask.address);
    args.scratch = mask.address;
    args.gate.k_heads = 128;
    CHECK_THROWS_WITH_AS(device->fns->select(*device, exec, args),
                         doctest::Contains("2147483648 elements (131072 key blocks"), seer::Error);
    args.gate.k_heads = 64;
    CHECK_NOTHROW(device->fns->select(*device, exec, args));
  }
}

TEST_CASE("attend: keys whose lists Hopper's kernel has no room for go to the other") {
  const Clean clean;
  const auto context = make_context();
  Attention some(1, 64, 1000000, 1, 1, 128), many(1, 64, 1300000, 1, 1, 128);
  CHECK_MESSAGE(run(context, some.desc) == SEER_OK, seer_last_error());
  CHECK(launches("attend_").back().kernel == "attend_bf16_128");
  CHECK_MESSAGE(run(context, many.desc) == SEER_OK, seer_last_error());
  CHECK(launches("attend_").back().kernel == "attend_sm80_bf16_128");
}
