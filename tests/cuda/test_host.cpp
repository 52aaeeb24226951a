// The CUDA host on a driver without a GPU: what it launches, on which stream, what it keeps and gives back, and what
// becomes of the driver's errors. What kernels compute is checked by tests/check on a real one.
#include <doctest/doctest.h>
#include <seerattn/seerattn.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

#include "attention.h"
#include "backend.h"
#include "cuda/device.h"
#include "cuda/kernels.h"

using namespace seer;

TEST_CASE("devices are listed without a context") {
  const Clean clean;
  const fake::Counts before = fake::control().counts();
  int32_t count = 0;
  REQUIRE(seer_device_count(SEER_BACKEND_CUDA, &count) == SEER_OK);
  CHECK(count == 1);
  seer_device_info info = SEER_INIT(seer_device_info);
  REQUIRE(seer_device_get(SEER_BACKEND_CUDA, 0, &info) == SEER_OK);
  CHECK(std::string(info.name) == "Fake GPU");
  CHECK(info.vendor_id == 0x10de);
  CHECK(fake::control().counts() == before);
  fake::control().chip(75);
  REQUIRE(seer_device_get(SEER_BACKEND_CUDA, 0, &info) == SEER_OK);
  CHECK(std::string(info.detail).find("cannot be used: compute capability is 7.5") != std::string::npos);
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_CUDA;
  seer_context *made = nullptr;
  CHECK(seer_context_create(&params, &made) == SEER_ERROR_UNSUPPORTED);
}

TEST_CASE("attend: what the Hopper kernel is given") {
  const Clean clean;
  const auto context = make_context();
  Attention a(2, 200, 392, 8, 2, 128);
  a.desc.softmax_scale = 0.25;
  REQUIRE_MESSAGE(run(context, a.desc) == SEER_OK, seer_last_error());
  const auto all = launches("attend_");
  REQUIRE(all.size() == 1);
  const fake::Launch &l = all[0];
  CHECK(l.kernel == "attend_bf16_128");
  // 4 row groups of a head in items of 3: 2 items; 8 heads, 2 sequences.
  CHECK(l.attend.items == 32);
  CHECK(l.grid[0] == 32);
  CHECK(l.threads == 512);
  CHECK(l.attend.list_words == 1);  // 7 blocks of keys
  CHECK(l.shared == 213000 + 4 * (8 * 1 + 1));
  CHECK(l.attend.section == 2);
  CHECK(l.attend.heads == 8);
  CHECK(l.attend.group == 4);
  CHECK(l.attend.heads_first == 0);
  CHECK(l.attend.scale_log2 == doctest::Approx(0.25 * 1.4426950408889634));
  CHECK(l.attend.mask == a.mask.address);
  CHECK(l.attend.mask_shift == 0);
  CHECK(l.attend.mask_row == 1);
  CHECK(l.attend.mask_head == 4);
  CHECK(l.attend.mask_batch == 32);
  CHECK(l.attend.out == a.out.address);
  CHECK(l.attend.out_token == 8 * 128);
  CHECK(l.attend.lse == a.lse.address);
  CHECK(l.attend.lse_head == 200);
  REQUIRE(l.attend_sequences.size() == 2);
  CHECK(l.attend_sequences[1].batch == 1);
  CHECK(l.attend_sequences[1].first_item == 16);
  CHECK(l.attend_sequences[1].items == 16);
  CHECK(l.attend_sequences[1].q_len == 200);
  CHECK(l.attend_sequences[1].k_len == 392);

  const auto maps = fake::control().maps();
  REQUIRE(maps.size() == 3);
  CHECK(maps[0].address == a.q.address);
  CHECK(maps[1].address == a.k.address);
  CHECK(maps[2].address == a.v.address);
  CHECK(maps[1].type == 9);
  const uint64_t extent[] = {64, 392, 2, 2, 2}, stride[] = {2 * 128 * 2, 128, 128 * 2, 392 * 2 * 128 * 2};
  const uint32_t box[] = {64, 64, 2, 1, 1};
  CHECK(std::equal(extent, extent + 5, maps[1].extent));
  CHECK(std::equal(stride, stride + 4, maps[1].stride));
  CHECK(std::equal(box, box + 5, maps[1].box));
}

TEST_CASE("attend: RoPE of q is its own, k has a rotated copy") {
  const Clean clean;
  const auto context = make_context();
  for (const char *tier : {"sm90", "sm80", "plain"}) {
    CAPTURE(tier);
    const fake::Tier only(tier);
    fake::control().reset();
    Attention a(1, 200, 392, 8, 2, 128);
    CHECK(run(context, a.desc) == SEER_OK);
    rotate(a.desc);
    CHECK(run(context, a.desc) == SEER_OK);
    const auto pools = launches("pool_"), all = launches("attend_");
    REQUIRE(pools.size() == 1);
    REQUIRE(all.size() == 2);
    CHECK(pools[0].pool.side[0].x == a.k.address);
    if (!std::strcmp(tier, "sm90")) {
      CHECK(all[0].attend.coarse == nullptr);
      CHECK(all[1].attend.coarse == pools[0].pool.side[0].coarse);
      CHECK(all[1].attend.fine == pools[0].pool.side[0].fine);
      const auto maps = fake::control().maps();
      REQUIRE(maps.size() == 6);
      CHECK(maps[3].address == a.q.address);
      CHECK(maps[4].address == pools[0].pool.side[0].rotated);
    } else {
      CHECK(all[0].attend80.coarse == nullptr);
      CHECK(all[1].attend80.coarse == pools[0].pool.side[0].coarse);
      CHECK(all[1].attend80.fine == pools[0].pool.side[0].fine);
      CHECK(all[1].attend80.q == a.q.address);
      CHECK(all[1].attend80.k == pools[0].pool.side[0].rotated);
    }
  }
}

TEST_CASE("attend: the last rows of a few heads are walked in parts, which have a place in the workspace") {
  const Clean clean;
  const auto context = make_context();
  const auto attend = [&](Attention &a, seer_stats &stats) {
    fake::control().reset();
    seer_ticket ticket = 0;
    REQUIRE_MESSAGE(run(context, a.desc, nullptr, &ticket) == SEER_OK, seer_last_error());
    REQUIRE(seer_wait(context.get(), ticket, UINT64_MAX) == SEER_OK);
    REQUIRE(seer_ticket_stats(context.get(), ticket, &stats) == SEER_OK);
    const auto all = launches("attend_");
    REQUIRE(all.size() == 1);
    return all[0];
  };
  seer_stats few_stats = SEER_INIT(seer_stats), many_stats = SEER_INIT(seer_stats);
  Attention few(1, 8192, 8192, 2, 1, 64), many(1, 8192, 8192, 64, 1, 64);
  const fake::Launch l = attend(few, few_stats);
  CHECK(l.attend.split == 8);  // 128 blocks, 16 to a part
  CHECK(l.attend.items == 2 * (43 + 7));
  CHECK(l.attend_sequences.empty());
  CHECK(l.attend.only.items == l.attend.items);
  const uint64_t parts = uint64_t{2} * 3 * 8 * 128 * (32 + 4) * 4;
  CHECK(few_stats.workspace_bytes >= parts);
  CHECK(few_stats.workspace_bytes <= parts + 1024);
  std::memset(l.attend.partial, 0, parts);  // the address sanitizer watches this
  CHECK(attend(many, many_stats).attend.split == 1);
  CHECK(many_stats.workspace_bytes < 1024);
}

TEST_CASE("attend: which kernel, and what the others than Hopper's are given") {
  const Clean clean;
  const auto context = make_context();
  const auto kernel = [&](Attention &a) {
    fake::control().reset();
    REQUIRE_MESSAGE(run(context, a.desc) == SEER_OK, seer_last_error());
    const auto all = launches("attend_");
    REQUIRE(all.size() == 1);
    return all[0];
  };
  Attention a(2, 200, 392, 8, 2, 128);
  CHECK(kernel(a).kernel == "attend_bf16_128");
  {
    const fake::Tier tier("sm80");
    const fake::Launch l = kernel(a);
    CHECK(l.kernel == "attend_sm80_bf16_128");
    CHECK(l.grid[0] == 2 * 8 * 4);  // 4 times 64 rows
    CHECK(l.attend80.items == 64);
    CHECK(l.attend80.heads == 8);
    CHECK(l.attend80.group == 4);
    CHECK(l.attend80.dim == 128);
    CHECK(l.attend80.block_log2 == 6);
    CHECK(l.attend80.section == 2);
    CHECK(l.attend80.scale_log2 == doctest::Approx(1.4426950408889634 / std::sqrt(128.0)));
    CHECK(l.attend80.q == a.q.address);
    CHECK(l.attend80.k == a.k.address);
    CHECK(l.attend80.v == a.v.address);
    CHECK(l.attend80.out == a.out.address);
    CHECK(l.attend80.k_token == 2 * 128);
    CHECK(l.attend80.v_batch == 392 * 2 * 128);
    CHECK(l.attend80.out_head == 128);
    CHECK(l.attend80.mask == a.mask.address);
    CHECK(l.attend80.mask_head == 4);
    CHECK(l.attend80.lse_head == 200);
    REQUIRE(l.attend_sequences.size() == 2);
    CHECK(l.attend_sequences[1].batch == 1);
    CHECK(l.attend_sequences[1].first_item == 32);
    CHECK(l.attend_sequences[1].items == 32);
  }
  {
    const fake::Tier tier("plain");
    CHECK(kernel(a).kernel == "attend_plain_bf16_128");
  }
  {
    const fake::Tier tier("volta");
    CHECK(run(context, a.desc) == SEER_ERROR_INVALID_ARGUMENT);
  }
  Attention wide(1, 200, 392, 8, 2, 256), odd(1, 200, 392, 8, 2, 100), narrow(1, 200, 392, 8, 2, 40);
  CHECK(kernel(wide).kernel == "attend_sm80_bf16_256");
  CHECK(kernel(narrow).kernel == "attend_sm80_bf16_64");
  const fake::Launch l = kernel(odd);  // rows of 200 bytes
  CHECK(l.kernel == "attend_plain_bf16_128");
  CHECK(l.attend80.dim == 100);
  CHECK(l.attend80.sequence == nullptr);
  CHECK(l.attend80.only.k_len == 392);

  const int64_t shift[] = {0, 1};  // a tensor that starts in the middle of 16 bytes
  for (const int64_t by : shift) {
    Attention b(1, 200, 200, 4, 2, 64);
    b.desc.k.data = static_cast<char *>(b.k.address) + 2 * by;
    b.desc.k.shape[1] = b.desc.v.shape[1] = b.desc.q.shape[1] = b.desc.out.shape[1] = b.desc.lse.shape[2] = 192;
    b.desc.mask = {};
    CHECK(kernel(b).kernel == (by ? "attend_plain_bf16_64" : "attend_bf16_64"));
  }
  Attention small(1, 200, 392, 8, 2, 128);
  small.desc.block_size = 32;
  small.desc.mask = {};
  CHECK(kernel(small).kernel == "attend_bf16_128");  // without a mask blocks do not matter
}

TEST_CASE("attend: sections, the device's size, scales") {
  const Clean clean;
  const auto context = make_context();
  Attention a(1, 40000, 40000, 8, 8, 128);
  REQUIRE_MESSAGE(run(context, a.desc) == SEER_OK, seer_last_error());
  Attention zero(1, 64, 64, 1, 1, 64);
  zero.desc.softmax_scale = 1e-40;
  zero.desc.mask = {};
  REQUIRE_MESSAGE(run(context, zero.desc) == SEER_OK, seer_last_error());
  const auto all = launches("attend_");
  REQUIRE(all.size() == 2);
  CHECK(all[0].grid[0] == 132);  // multiprocessors, not items
  CHECK(all[0].attend.split == 2);
  CHECK(all[0].attend.items == 8 * (209 + 1));
  CHECK(all[0].attend.section == 1);  // K and V of a head take 20 MB
  CHECK(all[0].attend.list_words == 20);
  CHECK(all[1].kernel == "attend_bf16_64");
  CHECK(all[1].attend.scale_log2 == 1e-30f);
  CHECK(all[1].attend.mask == nullptr);
  CHECK(all[1].attend.sequence == nullptr);
  CHECK(all[1].attend.only.items == 1);
}

TEST_CASE("the counter is 0 before a launch and the same for calls that follow each other") {
  const Clean clean;
  const auto context = make_context();
  Attention a;
  REQUIRE(run(context, a.desc) == SEER_OK);
  REQUIRE(run(context, a.desc) == SEER_OK);
  const auto all = launches("attend_");
  REQUIRE(all.size() == 2);
  CHECK(all[0].attend.counter == all[1].attend.counter);
  CHECK(all[0].attend.counter[0] == 0);
  CHECK(all[0].attend.counter[1] == 0);
}

TEST_CASE("a call on the caller's stream is recorded before it returns, and waits for nothing") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  Attention a(2, 200, 200);
  rotate(a.desc);
  seer_ticket ticket = 0;
  REQUIRE_MESSAGE(run(context, a.desc, &stream.handle, &ticket) == SEER_OK, seer_last_error());
  REQUIRE(seer_wait(context.get(), ticket, UINT64_MAX) == SEER_OK);
  fake::control().reset();
  REQUIRE(run(context, a.desc, &stream.handle, &ticket) == SEER_OK);
  // Before anybody waits: everything is there, on the stream.
  const auto all = fake::control().launches();
  CHECK(all.size() == 2);
  for (const fake::Launch &l : all) CHECK(l.stream == stream.handle);
  CHECK(launches("pool_").size() == 1);
  CHECK(launches("attend_").size() == 1);
  CHECK(fake::control().calls("cuStreamSynchronize") == 0);
  CHECK(fake::control().calls("cuEventRecord") == 4);  // begin, end of attend, end; one for calls to come
  CHECK(fake::control().calls("cuMemAlloc") == 0);
  CHECK(fake::control().calls("cuMemFree") == 0);
  CHECK(fake::control().calls("cuMemHostAlloc") == 0);
  REQUIRE(seer_wait(context.get(), ticket, UINT64_MAX) == SEER_OK);
  seer_stats stats = SEER_INIT(seer_stats);
  REQUIRE(seer_ticket_stats(context.get(), ticket, &stats) == SEER_OK);
  CHECK(stats.device_ns == 500000);  // by the fake's events
  CHECK(stats.attend_ns == 500000);
  CHECK(stats.workspace_bytes > 0);
}

TEST_CASE("tables larger than what is pinned are copied in order with the call, and nothing waits") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  constexpr int64_t tokens = 532480, row = tokens / 64 - 1;  // 64 pairs of floats a row: 4.1 MB
  Attention first(1, 64, 64, 1, 1, 128), a(1, 64, tokens, 1, 1, 128);
  rotate(first.desc);
  rotate(a.desc);
  REQUIRE_MESSAGE(run(context, first.desc, &stream.handle) == SEER_OK, seer_last_error());
  fake::control().reset();
  REQUIRE_MESSAGE(run(context, a.desc, &stream.handle) == SEER_OK, seer_last_error());
  CHECK(fake::control().calls("cuStreamSynchronize") == 0);
  fake::control().run_all();
  const auto pools = launches("pool_");
  REQUIRE(pools.size() == 1);
  CHECK(pools[0].pool.side[0].coarse[2 * row * 64] == doctest::Approx(std::cos(64.0 * row)));
  CHECK(seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

TEST_CASE("lists of calls in flight do not share memory") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  constexpr int64_t n = 20;
  std::vector<seer_ticket> tickets;
  std::vector<std::unique_ptr<Attention>> calls;
  for (int64_t i = 0; i < n; i++) {
    calls.push_back(std::make_unique<Attention>(3, 64 + i, 64 + 2 * i));
    tickets.emplace_back();
    REQUIRE(run(context, calls.back()->desc, &stream.handle, &tickets.back()) == SEER_OK);
  }
  fake::control().run_all();
  const auto all = launches("attend_");
  REQUIRE(all.size() == size_t(n));
  for (int64_t i = 0; i < n; i++) {
    REQUIRE(all[size_t(i)].attend_sequences.size() == 3);
    for (const auto &s : all[size_t(i)].attend_sequences) {
      CHECK(s.q_len == 64 + i);
      CHECK(s.k_len == 64 + 2 * i);
    }
  }
  CHECK(seer_wait(context.get(), tickets.back(), UINT64_MAX) == SEER_OK);
}

TEST_CASE("calls on two streams share a workspace: the second waits for the first, on the device") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream one, two;
  Attention a;
  rotate(a.desc);
  REQUIRE(run(context, a.desc, &one.handle) == SEER_OK);
  CHECK(fake::control().calls("cuStreamWaitEvent") == 0);
  REQUIRE(run(context, a.desc, &one.handle) == SEER_OK);
  CHECK(fake::control().calls("cuStreamWaitEvent") == 0);
  REQUIRE(run(context, a.desc, &two.handle) == SEER_OK);
  CHECK(fake::control().calls("cuStreamWaitEvent") == 1);
  REQUIRE(run(context, a.desc) == SEER_OK);  // on the context's own
  CHECK(fake::control().calls("cuStreamWaitEvent") == 2);
}

TEST_CASE("a capture: no waits, nothing from host memory, nothing reused") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  Attention a(2, 200, 200);
  rotate(a.desc);
  fake::control().capture(stream.handle, true);
  seer_ticket ticket = 0;
  REQUIRE_MESSAGE(run(context, a.desc, &stream.handle, &ticket) == SEER_OK, seer_last_error());
  CHECK(seer_wait(context.get(), ticket, UINT64_MAX) == SEER_OK);  // there is nothing to wait for
  fake::control().capture(stream.handle, false);
  auto captured = launches("attend_");
  REQUIRE(captured.size() == 1);
  CHECK(captured[0].captured);
  // A longer call makes the workspace and the tables grow: what the graph uses stays where it is.
  Attention longer(2, 1000, 1000);
  rotate(longer.desc);
  REQUIRE(run(context, longer.desc) == SEER_OK);
  const seer::cuda::PoolSide pool = launches("pool_").front().pool.side[0];
  uint64_t value = 0;
  std::memcpy(&value, pool.coarse, sizeof value);  // the address sanitizer watches these
  std::memcpy(&value, captured[0].attend.sequence, sizeof value);
  std::memcpy(&value, pool.rotated, sizeof value);
  CHECK(captured[0].attend.counter != launches("attend_").back().attend.counter);
  fake::control().run_all();
  captured = launches("attend_");
  CHECK(captured[0].attend_sequences.size() == 2);
}

TEST_CASE("host tensors are copied; on the caller's stream they are refused") {
  const Clean clean;
  const auto context = make_context();
  Attention a;
  std::vector<uint16_t> host(a.q.size / 2, 0x3f80);
  seer_attention_desc desc = a.desc;
  desc.q.mem = SEER_MEM_HOST;
  desc.q.data = host.data();
  desc.q.size = a.q.size;
  CHECK_MESSAGE(run(context, desc) == SEER_OK, seer_last_error());
  const auto maps = fake::control().maps();
  REQUIRE(maps.size() == 3);
  CHECK(maps[0].address != static_cast<const void *>(host.data()));
  const fake::Stream stream;
  CHECK(run(context, desc, &stream.handle) == SEER_ERROR_MEMORY_KIND);
}

TEST_CASE("device pointers are asked of the driver") {
  const Clean clean;
  const auto context = make_context();
  Attention a;
  seer_attention_desc desc = a.desc;
  desc.q.shape[1] = desc.out.shape[1] = desc.lse.shape[2] = 201;  // a token more than there is
  desc.k.shape[1] = desc.v.shape[1] = 201;
  CHECK(run(context, desc) == SEER_ERROR_OUT_OF_BOUNDS);
  desc = a.desc;
  std::vector<uint16_t> host(a.q.size / 2);
  desc.q.data = host.data();  // host memory under the name of device memory
  CHECK(run(context, desc) == SEER_ERROR_MEMORY_KIND);
  desc.q.size = a.q.size;  // whatever the caller says of its size
  CHECK(run(context, desc) == SEER_ERROR_MEMORY_KIND);
  CHECK(run(context, a.desc) == SEER_OK);
}

TEST_CASE("the workspace of a prefill of 128k tokens, 32 query heads: 64 MB beyond the rotated copy of k") {
  const Clean clean;
  const auto context = make_context();
  constexpr int64_t tokens = 131072, heads = 32, kv_heads = 8, dim = 128;
  const ModelHandle model = make_model(context, heads, kv_heads, dim);
  seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
  desc.q = desc.out = tensor(nullptr, 0, SEER_BF16, {1, tokens, heads, dim});
  desc.k = desc.v = tensor(nullptr, 0, SEER_BF16, {1, tokens, kv_heads, dim});
  constexpr int64_t copy = tokens * kv_heads * dim * 2;
  for (const seer_select_method method : {SEER_SELECT_THRESHOLD, SEER_SELECT_RATIO, SEER_SELECT_BUDGET}) {
    desc.select.method = method;
    desc.select.ratio = 0.1;
    desc.select.token_budget = 8192;
    uint64_t bytes = 0;
    CHECK_MESSAGE(seer_prefill_workspace(context.get(), model.get(), &desc, &bytes) == SEER_OK, seer_last_error());
    MESSAGE("workspace: ", double(int64_t(bytes) - copy) / (1 << 20), " MB beyond the rotated copy of k");
    CHECK(int64_t(bytes) > copy);
    CHECK(int64_t(bytes) - copy <= int64_t{64} << 20);
  }
}

TEST_CASE("select: rows are shared among as many blocks of a cluster as hold their columns") {
  const Clean clean;
  const auto context = make_context();
  constexpr int64_t heads = 4, kv_heads = 2, dim = 128;
  const ModelHandle model = make_model(context, heads, kv_heads, dim);
  struct Case {
    int64_t tokens;
    const char *kernel;
    uint32_t cluster;
  };
  for (const Case &c : {Case{64 * 64, "select_threshold_32", 1},
                        {65 * 64, "select_cluster_128", 1},
                        {256 * 64, "select_cluster_128", 1},
                        {257 * 64, "select_cluster_128", 2},
                        {513 * 64, "select_cluster_128", 4},
                        {1025 * 64, "select_cluster_128", 8}}) {
    CAPTURE(c.tokens);
    const Attention a(1, c.tokens, c.tokens, heads, kv_heads, dim);
    const seer_prefill_desc desc = prefill_of(a, SEER_SELECT_THRESHOLD);
    fake::control().reset();
    CHECK_MESSAGE(seer_prefill(context.get(), model.get(), 0, &desc, nullptr, nullptr) == SEER_OK, seer_last_error());
    int found = 0;
    for (const fake::Launch &l : fake::control().launches()) {
      if (l.kernel.rfind("select", 0) != 0) continue;
      found++;
      CHECK(l.kernel == c.kernel);
      CHECK(l.cluster == c.cluster);
      CHECK(l.grid[0] % c.cluster == 0);
      // Clusters of one block: as many at a time as multiprocessors have room for.
      if (c.tokens > 64 * 64 && c.cluster == 1) CHECK(l.grid[0] <= 132 * (233472 / (l.shared + 1024)));
    }
    CHECK(found == 1);
  }
}

TEST_CASE("many calls leave memory where it was") {
  const Clean clean;
  const auto context = make_context();
  const fake::Stream stream;
  Attention a(2, 300, 300);
  rotate(a.desc);
  fake::Counts warm;
  for (int i = 0; i < 2000; i++) {
    seer_ticket ticket = 0;
    if (i % 3 == 0) {
      REQUIRE(run(context, a.desc) == SEER_OK);
    } else {
      REQUIRE(run(context, a.desc, &stream.handle, &ticket) == SEER_OK);
      if (i % 3 == 1) REQUIRE(seer_wait(context.get(), ticket, UINT64_MAX) == SEER_OK);
    }
    seer_wait(context.get(), SEER_TICKET_ALL, UINT64_MAX);
    if (i == 10) warm = fake::control().counts();
  }
  fake::Counts after = fake::control().counts();
  CHECK(after.device_memory == warm.device_memory);
  CHECK(after.pinned_memory == warm.pinned_memory);
  CHECK(after.events == warm.events);
  CHECK(after.bytes == warm.bytes);
}

TEST_CASE("the caller's allocator serves the workspace, and gets all of it back") {
  const Clean clean;
  struct Pool {
    int64_t live = 0, calls = 0;
    void *stream = nullptr;
  } pool;
  seer_allocator allocator = SEER_INIT(seer_allocator);
  allocator.user = &pool;
  allocator.device_alloc = [](void *user, uint64_t size, void *stream) -> void * {
    auto &p = *static_cast<Pool *>(user);
    p.live++;
    p.calls++;
    p.stream = stream;
    return fake::control().allocate(size);
  };
  allocator.device_free = [](void *user, void *memory, uint64_t, void *) {
    static_cast<Pool *>(user)->live--;
    fake::control().release(memory);
  };
  {
    const auto context = make_context(&allocator);
    const fake::Stream stream;
    Attention a(2, 300, 300), longer(2, 900, 900);
    rotate(a.desc);
    rotate(longer.desc);
    seer_ticket ticket = 0;
    REQUIRE(run(context, a.desc, &stream.handle, &ticket) == SEER_OK);
    CHECK(pool.live >= 1);
    CHECK(pool.stream == stream.handle);
    REQUIRE(run(context, longer.desc, &stream.handle, &ticket) == SEER_OK);
    REQUIRE(seer_wait(context.get(), ticket, UINT64_MAX) == SEER_OK);
  }
  CHECK(pool.calls >= 2);
  CHECK(pool.live == 0);
}
