// The CUDA host on a driver without a GPU: several devices, streams that only look the same, and whose allocator is
// told what.
#include <doctest/doctest.h>
#include <seerattn/seerattn.h>

#include <atomic>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

#include "attention.h"
#include "backend.h"

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
  seer_submit submit = submit_to(&stream.handle);
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
