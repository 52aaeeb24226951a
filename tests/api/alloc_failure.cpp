// Every allocation fails once: operator new, which this program replaces for the library too, and the caller's own
// allocator. Whatever fails must say so, leak nothing, change nothing, and work on the next try.
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "api.h"

namespace {

std::atomic<long> countdown{-1};  // the allocation that fails; below 0: none
std::atomic<long> failures{0}, live{0};

bool fails_now() {
  if (countdown.load(std::memory_order_relaxed) < 0) return false;
  if (countdown.fetch_sub(1) != 0) return false;
  failures++;
  return true;
}

void *allocate(size_t size, size_t align) noexcept {
  if (fails_now()) return nullptr;
  void *p = nullptr;
  if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size ? size : 1) != 0) return nullptr;
  live++;
  return p;
}

void *allocate_or_throw(size_t size, size_t align) {
  if (void *p = allocate(size, align)) return p;
  throw std::bad_alloc();
}

void deallocate(void *p) noexcept {
  if (p) live--;
  std::free(p);
}

}  // namespace

void *operator new(size_t size) { return allocate_or_throw(size, 16); }
void *operator new[](size_t size) { return allocate_or_throw(size, 16); }
void *operator new(size_t size, std::align_val_t align) { return allocate_or_throw(size, size_t(align)); }
void *operator new[](size_t size, std::align_val_t align) { return allocate_or_throw(size, size_t(align)); }
void *operator new(size_t size, const std::nothrow_t &) noexcept { return allocate(size, 16); }
void *operator new[](size_t size, const std::nothrow_t &) noexcept { return allocate(size, 16); }
void *operator new(size_t size, std::align_val_t align, const std::nothrow_t &) noexcept {
  return allocate(size, size_t(align));
}
void *operator new[](size_t size, std::align_val_t align, const std::nothrow_t &) noexcept {
  return allocate(size, size_t(align));
}
void operator delete(void *p) noexcept { deallocate(p); }
void operator delete[](void *p) noexcept { deallocate(p); }
void operator delete(void *p, size_t) noexcept { deallocate(p); }
void operator delete[](void *p, size_t) noexcept { deallocate(p); }
void operator delete(void *p, std::align_val_t) noexcept { deallocate(p); }
void operator delete[](void *p, std::align_val_t) noexcept { deallocate(p); }
void operator delete(void *p, size_t, std::align_val_t) noexcept { deallocate(p); }
void operator delete[](void *p, size_t, std::align_val_t) noexcept { deallocate(p); }
void operator delete(void *p, const std::nothrow_t &) noexcept { deallocate(p); }
void operator delete[](void *p, const std::nothrow_t &) noexcept { deallocate(p); }

namespace {

using namespace api;

// Runs `call` with its first, second, ... allocation failing, until it succeeds without a failure. Returns how many
// failures it saw.
template <class Call>
int fail_each(const char *name, Call call) {
  for (int n = 0;; n++) {
    if (n == 20000) FAIL("more allocations than a call should make");
    failures = 0;
    countdown = n;
    const seer_status status = call();
    countdown = -1;
    INFO((std::string(name) + ", allocation " + std::to_string(n) + " failing: " + seer_last_error()));
    if (failures == 0) {
      REQUIRE(status == SEER_OK);
      return n;
    }
    // Some allocations can be done without: a failure may go unnoticed, but it may not become another error.
    if (status != SEER_OK) REQUIRE(status == SEER_ERROR_OUT_OF_MEMORY);
  }
}

// An allocator that counts, and fails when told to.
struct Counting {
  long allocated = 0, countdown = -1, failures = 0, released = 0;
  std::mutex mutex;

  static void *SEER_CALL alloc(void *user, uint64_t size, uint64_t align) {
    auto &c = *static_cast<Counting *>(user);
    const std::lock_guard lock(c.mutex);
    if (c.countdown >= 0 && c.countdown-- == 0) {
      c.failures++;
      return nullptr;
    }
    void *p = nullptr;
    if (posix_memalign(&p, align, size) != 0) return nullptr;
    c.allocated++;
    return p;
  }
  static void SEER_CALL free(void *user, void *ptr, uint64_t) {
    auto &c = *static_cast<Counting *>(user);
    const std::lock_guard lock(c.mutex);
    c.allocated--;
    std::free(ptr);
  }
  static void SEER_CALL release(void *user) { static_cast<Counting *>(user)->released++; }
  seer_allocator params() {
    seer_allocator a = SEER_INIT(seer_allocator);
    a.host_alloc = alloc;
    a.host_free = free;
    a.user = this;
    a.release = release;
    return a;
  }
};

struct Calls {
  seer_context_params params = cpu_params();
  Weights weights;
  seer_gate_config config = gate_config();
  Batch x{2, 100, 100};
  seer_gate_cache_params cache_params = SEER_INIT(seer_gate_cache_params);
  const std::string dir = SEER_TEST_DATA "/golden/double-gate";

  Calls() {
    params.threads = 2;
    cache_params.sequences = 2;
    cache_params.max_tokens = 100;
  }
  seer_status context(seer_context **out) { return seer_context_create(&params, out); }
  seer_status model(seer_context *ctx, seer_model **out) {
    return seer_model_create(ctx, &config, weights.pointers.data(), out);
  }
};

}  // namespace

TEST_CASE("operator new fails: contexts, models, buffers, caches, compute") {
  Calls calls;
  {  // what is made once and kept (tables, locale data, thread caches) is not a leak
    const Context ctx = make_context(calls.params);
    const Model model = make_model(ctx.get());
    const seer_prefill_desc desc = calls.x.prefill();
    OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
    seer_model *loaded = nullptr;
    OK(seer_model_load_dir(ctx.get(), calls.dir.c_str(), nullptr, &loaded));
    seer_model_release(loaded);
  }
  const long before = live;
  {
    const int created = fail_each("context_create", [&] {
      seer_context *ctx = nullptr;
      const seer_status status = calls.context(&ctx);
      if ((ctx == nullptr) != (status != SEER_OK)) return seer_status{SEER_ERROR_INTERNAL};
      seer_context_release(ctx);
      return status;
    });
    CHECK(created > 5);
  }
  CHECK(live == before);
  {
    const Context ctx = make_context(calls.params);
    const long with_context = live;
    CHECK(fail_each("model_create", [&] {
            seer_model *model = nullptr;
            const seer_status status = calls.model(ctx.get(), &model);
            if ((model == nullptr) != (status != SEER_OK)) return seer_status{SEER_ERROR_INTERNAL};
            seer_model_release(model);
            return status;
          }) > 5);
    CHECK(live == with_context);
    CHECK(fail_each("model_load_dir", [&] {
            seer_model *model = nullptr;
            const seer_status status = seer_model_load_dir(ctx.get(), calls.dir.c_str(), nullptr, &model);
            if ((model == nullptr) != (status != SEER_OK)) return seer_status{SEER_ERROR_INTERNAL};
            seer_model_release(model);
            return status;
          }) > 20);
    CHECK(live == with_context);
    CHECK(fail_each("buffer_create", [&] {
            seer_buffer *buffer = nullptr;
            const seer_status status = seer_buffer_create(ctx.get(), 1000, 0, &buffer);
            seer_buffer_release(buffer);
            return status;
          }) > 1);
    CHECK(live == with_context);

    const Model model = make_model(ctx.get());
    CHECK(fail_each("gate_cache_create", [&] {
            seer_gate_cache *cache = nullptr;
            const seer_status status = seer_gate_cache_create(ctx.get(), model.get(), &calls.cache_params, &cache);
            seer_gate_cache_release(cache);
            return status;
          }) > 3);

    // Each compute call, with a cache that must not move while it fails.
    seer_gate_cache *raw = nullptr;
    OK(seer_gate_cache_create(ctx.get(), model.get(), &calls.cache_params, &raw));
    const Cache cache(raw);
    seer_prefill_desc prefill = calls.x.prefill();
    prefill.cache = raw;
    prefill.mask = calls.x.bytes_();
    prefill.scores = calls.x.scores_();
    int64_t tokens = -1;
    bool moved = false;
    CHECK(fail_each("prefill", [&] {
            const seer_status status = seer_prefill(ctx.get(), model.get(), 4, &prefill, nullptr, nullptr);
            const long kept = countdown.exchange(-1);
            if (seer_gate_cache_length(raw, 4, 1, &tokens) != SEER_OK) return seer_status{SEER_ERROR_INTERNAL};
            moved |= (tokens != 0) != (status == SEER_OK);
            if (status == SEER_OK) seer_gate_cache_truncate(raw, -1, 0);
            countdown = kept;
            return status;
          }) > 3);
    CHECK(!moved);
    const seer_gate_desc gate = calls.x.gate();
    fail_each("gate", [&] { return seer_gate(ctx.get(), model.get(), 4, &gate, nullptr, nullptr); });
    const seer_select_desc select = calls.x.select();
    fail_each("select", [&] { return seer_select(ctx.get(), &select, nullptr, nullptr); });
    seer_attention_desc attention = calls.x.attention();
    attention.mask = calls.x.bytes_();
    fail_each("attention", [&] { return seer_attention(ctx.get(), &attention, nullptr, nullptr); });

    // Asynchronous: what was accepted completes, and its callback comes exactly once.
    std::atomic<int> callbacks{0};
    int accepted = 0;
    fail_each("on_done", [&] {
      seer_submit submit = SEER_INIT(seer_submit);
      seer_ticket ticket = 0;
      seer_status status = seer_attention(ctx.get(), &attention, &submit, &ticket);
      if (status != SEER_OK) return status;
      status = seer_on_done(
          ctx.get(), ticket, [](void *user, seer_ticket, seer_status) { ++*static_cast<std::atomic<int> *>(user); },
          &callbacks);
      if (status == SEER_OK) accepted++;
      const seer_status outcome = seer_wait(ctx.get(), ticket, UINT64_MAX);
      return status != SEER_OK ? status : outcome;
    });
    for (int i = 0; i < 1000 && callbacks < accepted; i++) {
      const timespec pause{0, 2000000};
      nanosleep(&pause, nullptr);
    }
    CHECK(callbacks == accepted);
    CHECK(accepted > 0);
  }
  CHECK(live == before);
}

TEST_CASE("the caller's allocator fails: nothing leaks, nothing changes, and the next try works") {
  Calls calls;
  Counting counting;
  const seer_allocator allocator = counting.params();
  calls.params.allocator = &allocator;
  const auto each = [&](const char *name, auto call) {
    for (int n = 0; n < 1000; n++) {
      counting.failures = 0;
      counting.countdown = n;
      const long before = counting.allocated;
      const seer_status status = call();
      counting.countdown = -1;
      INFO((std::string(name) + " " + std::to_string(n) + ": " + seer_last_error()));
      if (counting.failures == 0) {
        REQUIRE(status == SEER_OK);
        return n;
      }
      REQUIRE(status == SEER_ERROR_OUT_OF_MEMORY);
      REQUIRE(counting.allocated <= before);
    }
    return -1;
  };
  {
    const Context ctx = make_context(calls.params);
    seer_model *model = nullptr, *loaded = nullptr;
    seer_buffer *buffer = nullptr;
    seer_gate_cache *cache = nullptr;
    CHECK(each("model_create", [&] { return calls.model(ctx.get(), &model); }) == 1);  // one block for all weights
    CHECK(each("model_load_dir", [&] { return seer_model_load_dir(ctx.get(), calls.dir.c_str(), nullptr, &loaded); }) ==
          1);
    CHECK(each("buffer_create", [&] { return seer_buffer_create(ctx.get(), 64, 0, &buffer); }) == 1);
    CHECK(each("gate_cache_create",
               [&] { return seer_gate_cache_create(ctx.get(), model, &calls.cache_params, &cache); }) == 2);
    const seer_prefill_desc prefill = calls.x.prefill();
    CHECK(each("prefill", [&] { return seer_prefill(ctx.get(), model, 4, &prefill, nullptr, nullptr); }) >= 1);
    seer_model_release(model);
    seer_model_release(loaded);
    seer_buffer_release(buffer);
    seer_gate_cache_release(cache);
    CHECK(counting.allocated > 0);  // the workspace
  }
  CHECK(counting.allocated == 0);
  CHECK(counting.released == 1);
}
