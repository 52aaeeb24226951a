// Tickets: waiting, polling, callbacks, cancelling, progress, and handles that go while work is in flight.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "../support/aligned.h"
#include "api.h"

using namespace api;

namespace {

constexpr uint64_t kMillisecond = 1000000;

// What on_done was called with.
struct Done {
  std::mutex mutex;
  std::condition_variable changed;
  int calls = 0;
  seer_ticket ticket = 0;
  seer_status status = SEER_NOT_READY;
  std::thread::id thread;
  seer_status reentry = SEER_OK;
  seer_context *ctx = nullptr;

  static void SEER_CALL fn(void *user, seer_ticket ticket, seer_status status) {
    auto &done = *static_cast<Done *>(user);
    seer_status reentry = SEER_OK;
    if (done.ctx) reentry = seer_wait(done.ctx, 0, 0);
    const std::lock_guard lock(done.mutex);
    done.calls++;
    done.ticket = ticket;
    done.status = status;
    done.thread = std::this_thread::get_id();
    done.reentry = reentry;
    done.changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return calls > 0; });
  }
};

}  // namespace

TEST_CASE("a ticket is not ready, times out, and is done; its successor waits in line") {
  const Context ctx = make_context();
  Gate gate;
  Batch x(1, 40, 40), y(1, 40, 40);
  const seer_attention_desc first = x.attention(), second = y.attention();
  const seer_submit held = gate.submit(), free = SEER_INIT(seer_submit);
  seer_ticket a = 0, b = 0;
  OK(seer_attention(ctx.get(), &first, &held, &a));
  OK(seer_attention(ctx.get(), &second, &free, &b));
  CHECK(b == a + 1);
  gate.wait_until_reached();
  CHECK(seer_wait(ctx.get(), a, 0) == SEER_NOT_READY);
  CHECK(seer_wait(ctx.get(), b, 0) == SEER_NOT_READY);
  CHECK(seer_wait(ctx.get(), SEER_TICKET_ALL, 0) == SEER_NOT_READY);
  const auto start = std::chrono::steady_clock::now();
  CHECK(seer_wait(ctx.get(), b, 20 * kMillisecond) == SEER_TIMEOUT);
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(20));
  seer_stats stats = SEER_INIT(seer_stats);
  stats.device_ns = 5;
  CHECK(seer_ticket_stats(ctx.get(), a, &stats) == SEER_NOT_READY);
  CHECK(stats.device_ns == 5);
  CHECK(seer_wait(ctx.get(), 0, 0) == SEER_OK);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "ticket is", seer_wait(ctx.get(), b + 1, 0));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "no single call", seer_ticket_stats(ctx.get(), SEER_TICKET_ALL, &stats));
  gate.open();
  CHECK(seer_wait(ctx.get(), b, UINT64_MAX) == SEER_OK);
  CHECK(seer_wait(ctx.get(), a, UINT64_MAX - 1) == SEER_OK);  // no overflow on the way to for ever
  CHECK(seer_wait(ctx.get(), SEER_TICKET_ALL, 0) == SEER_OK);
  CHECK(x.out == y.out);
  OK(seer_ticket_stats(ctx.get(), b, &stats));
  CHECK(stats.device_ns > 5);
}

TEST_CASE("descriptors are read during the call only, memory of tensors and buffers until the ticket is done") {
  // Freed memory is spoiled, so that a buffer freed too early shows.
  seer_allocator allocator = SEER_INIT(seer_allocator);
  allocator.host_alloc = [](void *, uint64_t size, uint64_t align) -> void * { return aligned_get(size, align); };
  allocator.host_free = [](void *, void *p, uint64_t size) {
    volatile unsigned char *bytes = static_cast<unsigned char *>(p);  // a memset here is optimised away
    for (uint64_t i = 0; i < size; i++) bytes[i] = 0x7f;
    aligned_put(p);
  };
  seer_context_params params = cpu_params();
  params.allocator = &allocator;
  const Context ctx = make_context(params);
  Gate gate;
  Batch x(1, 40, 40), y(1, 40, 40);
  const int32_t offsets[] = {0, 40};
  seer_buffer *buffer = nullptr;
  OK(seer_buffer_create(ctx.get(), y.q.size() * 4, 0, &buffer));
  OK(seer_buffer_write(buffer, 0, y.q.data(), y.q.size() * 4));
  const seer_submit held = gate.submit();
  const seer_attention_desc plain = x.attention();
  OK(seer_attention(ctx.get(), &plain, &held, nullptr));
  {
    std::vector<int32_t> sequences(offsets, offsets + 2);
    seer_attention_desc desc = SEER_INIT(seer_attention_desc);
    desc.q = f32(y.q, {40, y.hq, y.d});
    desc.q.mem = SEER_MEM_BUFFER;
    desc.q.data = nullptr;
    desc.q.size = 0;
    desc.q.buffer = buffer;
    desc.k = f32(y.k, {40, y.hkv, y.d});
    desc.v = f32(y.v, {40, y.hkv, y.d});
    desc.out = f32(y.out, {40, y.hq, y.d});
    desc.block_size = 32;
    desc.sequences.q = sequences.data();
    desc.sequences.count = 1;
    seer_submit submit = SEER_INIT(seer_submit);
    OK(seer_attention(ctx.get(), &desc, &submit, nullptr));
    std::memset(&desc, 0xee, sizeof desc);
    std::memset(&submit, 0xee, sizeof submit);
    sequences[1] = 1 << 30;
  }
  seer_buffer_release(buffer);  // freed after the call that uses it
  gate.open();
  OK(seer_wait(ctx.get(), SEER_TICKET_ALL, UINT64_MAX));
  CHECK(distance(x.out, y.out) < 1e-5);
}

TEST_CASE("a call that fails on the device fails its ticket, with its text, and nothing else") {
  seer_context_params params = cpu_params();
  params.flags = SEER_CONTEXT_REFERENCE;  // its attend wants no scratch
  params.workspace_limit = 4096;
  const Context ctx = make_context(params);
  const Model model = make_model(ctx.get());
  Batch x(1, 300, 300), y(1, 40, 40);
  const seer_prefill_desc big = x.prefill();
  const seer_attention_desc small = y.attention();
  const seer_submit submit = SEER_INIT(seer_submit);
  seer_ticket bad = 0, good = 0;
  OK(seer_prefill(ctx.get(), model.get(), 4, &big, &submit, &bad));
  OK(seer_attention(ctx.get(), &small, &submit, &good));
  OK(seer_wait(ctx.get(), good, UINT64_MAX));
  FAILS(SEER_ERROR_OUT_OF_MEMORY, "4096", seer_wait(ctx.get(), bad, 0));
  CHECK(seer_wait(ctx.get(), SEER_TICKET_ALL, 0) == SEER_OK);
  FAILS(SEER_ERROR_OUT_OF_MEMORY, "4096", seer_prefill(ctx.get(), model.get(), 4, &big, nullptr, nullptr));
}

TEST_CASE("outcomes are kept for 4096 tickets, then only that they are complete") {
  const Context ctx = make_context();
  const Cancel cancel = [] {
    seer_cancel *c = nullptr;
    OK(seer_cancel_create(&c));
    return Cancel(c);
  }();
  seer_cancel_trigger(cancel.get());
  Batch x(0, 0, 0);
  const seer_attention_desc desc = x.attention();
  seer_submit cancelled = SEER_INIT(seer_submit), submit = SEER_INIT(seer_submit);
  cancelled.cancel = cancel.get();
  seer_ticket bad = 0;
  OK(seer_attention(ctx.get(), &desc, &cancelled, &bad));
  for (int i = 0; i < 4095; i++) OK(seer_attention(ctx.get(), &desc, &submit, nullptr));
  OK(seer_wait(ctx.get(), SEER_TICKET_ALL, UINT64_MAX));
  CHECK(seer_wait(ctx.get(), bad, 0) == SEER_ERROR_CANCELLED);
  OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
  CHECK(seer_wait(ctx.get(), bad, 0) == SEER_OK);
}

TEST_CASE("cancel in the middle; the cache goes back to what it was, whatever waits behind") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  seer_cancel *cancel = nullptr;
  OK(seer_cancel_create(&cancel));
  seer_gate_cache_params params = SEER_INIT(seer_gate_cache_params);
  params.max_tokens = 320;
  seer_gate_cache *raw = nullptr;
  OK(seer_gate_cache_create(ctx.get(), model.get(), &params, &raw));
  const Cache cache(raw);
  const auto length = [&] {
    int64_t tokens = -1;
    OK(seer_gate_cache_length(raw, 4, 0, &tokens));
    return tokens;
  };

  Gate gate;
  Batch x(1, 320, 320);
  seer_prefill_desc desc = x.prefill();
  desc.cache = raw;
  seer_submit submit = gate.submit();
  submit.cancel = cancel;
  seer_ticket ticket = 0, behind = 0;
  OK(seer_prefill(ctx.get(), model.get(), 4, &desc, &submit, &ticket));
  CHECK(length() == 320);  // submitted work included
  gate.wait_until_reached();
  seer_cancel_trigger(cancel);
  seer_cancel_release(cancel);
  gate.open();
  FAILS(SEER_ERROR_CANCELLED, "cancelled", seer_wait(ctx.get(), ticket, UINT64_MAX));
  CHECK(length() == 0);  // and rolled back

  // Non-zero from progress cancels too; a call behind it that counts on its cache entries pools them itself.
  Gate second;
  const seer_submit stopped = second.submit(), free = SEER_INIT(seer_submit);
  Batch half(1, 160, 160), rest(1, 160, 320);
  seer_gate_desc first_half = half.gate(), second_half = rest.gate();
  first_half.cache = second_half.cache = raw;
  OK(seer_gate(ctx.get(), model.get(), 4, &first_half, &stopped, &ticket));
  OK(seer_gate(ctx.get(), model.get(), 4, &second_half, &free, &behind));
  CHECK(length() == 320);
  second.open(1);
  FAILS(SEER_ERROR_CANCELLED, "cancelled", seer_wait(ctx.get(), ticket, UINT64_MAX));
  OK(seer_wait(ctx.get(), behind, UINT64_MAX));
  CHECK(length() == 320);
  Batch plain(1, 160, 320);
  const seer_gate_desc reference = plain.gate();
  OK(seer_gate(ctx.get(), model.get(), 4, &reference, nullptr, nullptr));
  CHECK(plain.scores == rest.scores);

  // Truncating is in the queue's order: what was submitted before does not bring the length back.
  OK(seer_gate_cache_truncate(raw, -1, 0));
  const seer_gate_desc again = [&] {
    seer_gate_desc d = half.gate();
    d.cache = raw;
    return d;
  }();
  OK(seer_gate(ctx.get(), model.get(), 4, &again, &free, nullptr));
  OK(seer_gate_cache_truncate(raw, -1, 64));
  CHECK(length() == 64);
  OK(seer_wait(ctx.get(), SEER_TICKET_ALL, UINT64_MAX));
  CHECK(length() == 64);
}

TEST_CASE("progress that says stop at the very last step stops the call") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = SEER_SUBMIT_BLOCKING;
  submit.progress = [](void *, uint64_t done, uint64_t total) -> int32_t { return done == total; };
  Batch x(1, 320, 320);
  const seer_prefill_desc prefill = x.prefill();
  const seer_gate_desc gate = x.gate();
  const seer_attention_desc attention = x.attention();
  FAILS(SEER_ERROR_CANCELLED, "cancelled", seer_prefill(ctx.get(), model.get(), 4, &prefill, &submit, nullptr));
  FAILS(SEER_ERROR_CANCELLED, "cancelled", seer_gate(ctx.get(), model.get(), 4, &gate, &submit, nullptr));
  FAILS(SEER_ERROR_CANCELLED, "cancelled", seer_attention(ctx.get(), &attention, &submit, nullptr));
}

TEST_CASE("progress rises to its total, once per step, and then the work is done") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  struct Seen {
    std::mutex mutex;
    std::vector<uint64_t> done;
    uint64_t total = 0;
    bool rising = true, same_total = true;
    std::atomic<int> inside{0};
    bool alone = true;
  } seen;
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = SEER_SUBMIT_BLOCKING;
  submit.progress_user = &seen;
  submit.progress = [](void *user, uint64_t done, uint64_t total) -> int32_t {
    auto &s = *static_cast<Seen *>(user);
    if (s.inside++ != 0) s.alone = false;
    {
      const std::lock_guard lock(s.mutex);
      s.rising &= s.done.empty() || done >= s.done.back();
      s.same_total &= s.total == 0 || s.total == total;
      s.total = total;
      s.done.push_back(done);
    }
    s.inside--;
    return 0;
  };
  Batch x(2, 320, 320);
  const auto check = [&](seer_status status) {
    OK(status);
    CHECK(seen.done.size() > 1);
    CHECK(seen.done.back() == seen.total);
    CHECK(seen.total > 0);
    CHECK(seen.rising);
    CHECK(seen.same_total);
    CHECK(seen.alone);
    seen.done.clear();
    seen.total = 0;
  };
  const seer_prefill_desc prefill = x.prefill();
  const seer_gate_desc gate = x.gate();
  const seer_attention_desc attention = x.attention();
  check(seer_prefill(ctx.get(), model.get(), 4, &prefill, &submit, nullptr));
  check(seer_gate(ctx.get(), model.get(), 4, &gate, &submit, nullptr));
  check(seer_attention(ctx.get(), &attention, &submit, nullptr));
}

TEST_CASE("on_done runs once, on another thread, with the outcome; also for what is done already") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Gate gate;
  Batch x(1, 40, 40);
  const seer_prefill_desc desc = x.prefill();  // of several stages: what cancels it in the first stops the next
  seer_submit held = gate.submit();
  seer_ticket ticket = 0;
  OK(seer_prefill(ctx.get(), model.get(), 4, &desc, &held, &ticket));
  Done before, all, after, none, bad;
  before.ctx = ctx.get();
  OK(seer_on_done(ctx.get(), ticket, Done::fn, &before));
  OK(seer_on_done(ctx.get(), SEER_TICKET_ALL, Done::fn, &all));
  gate.wait_until_reached();
  {
    const std::lock_guard lock(before.mutex);
    CHECK(before.calls == 0);
  }
  gate.open(1);  // cancels
  before.wait();
  all.wait();
  CHECK(before.ticket == ticket);
  CHECK(before.status == SEER_ERROR_CANCELLED);
  CHECK(before.thread != std::this_thread::get_id());
  CHECK(before.reentry == SEER_ERROR_BUSY);
  CHECK(all.ticket == SEER_TICKET_ALL);
  CHECK(all.status == SEER_OK);
  OK(seer_on_done(ctx.get(), ticket, Done::fn, &after));
  OK(seer_on_done(ctx.get(), 0, Done::fn, &none));
  after.wait();
  none.wait();
  CHECK(after.status == SEER_ERROR_CANCELLED);
  CHECK(none.status == SEER_OK);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "fn is NULL", seer_on_done(ctx.get(), ticket, nullptr, nullptr));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "ticket", seer_on_done(ctx.get(), ticket + 1, Done::fn, &bad));
  CHECK(bad.calls == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  for (Done *d : {&before, &all, &after, &none}) {
    const std::lock_guard lock(d->mutex);
    CHECK(d->calls == 1);
  }
}

TEST_CASE("a callback that blocks does not hold up the queue") {
  const Context ctx = make_context();
  Batch x(1, 40, 40);
  const seer_attention_desc desc = x.attention();
  struct Block {
    std::mutex mutex;
    std::condition_variable changed;
    bool open = false, inside = false, left = false;
  } block;
  OK(seer_on_done(
      ctx.get(), 0,
      [](void *user, seer_ticket, seer_status) {
        auto &b = *static_cast<Block *>(user);
        std::unique_lock lock(b.mutex);
        b.inside = true;
        b.changed.notify_all();
        b.changed.wait(lock, [&] { return b.open; });
        b.left = true;
        b.changed.notify_all();
      },
      &block));
  {
    std::unique_lock lock(block.mutex);
    block.changed.wait(lock, [&] { return block.inside; });
  }
  OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
  std::unique_lock lock(block.mutex);
  CHECK(!block.left);
  block.open = true;
  block.changed.notify_all();
  block.changed.wait(lock, [&] { return block.left; });
}

TEST_CASE("calls from inside callbacks say busy; cancelling and releasing work") {
  struct State {
    seer_context *ctx = nullptr;
    seer_cancel *cancel = nullptr;
    seer_buffer *buffer = nullptr;
    seer_status wait = SEER_OK, create = SEER_OK, load = SEER_OK;
    seer_context *made = reinterpret_cast<seer_context *>(8);
    std::string text;
  } state;
  const Context ctx = make_context();
  state.ctx = ctx.get();
  OK(seer_cancel_create(&state.cancel));
  OK(seer_buffer_create(ctx.get(), 8, 0, &state.buffer));
  seer_submit submit = SEER_INIT(seer_submit);
  submit.cancel = state.cancel;
  submit.flags = SEER_SUBMIT_BLOCKING;
  submit.progress_user = &state;
  submit.progress = [](void *user, uint64_t, uint64_t) -> int32_t {
    auto &s = *static_cast<State *>(user);
    s.wait = seer_wait(s.ctx, 0, 0);
    s.create = seer_context_create(nullptr, &s.made);
    s.text = seer_last_error();
    seer_cancel_trigger(s.cancel);
    seer_buffer_release(s.buffer);
    s.buffer = nullptr;
    return 0;
  };
  Batch x(1, 320, 320);
  const Model model = make_model(ctx.get());
  const seer_prefill_desc desc = x.prefill();
  CHECK(seer_prefill(ctx.get(), model.get(), 4, &desc, &submit, nullptr) == SEER_ERROR_CANCELLED);
  CHECK(state.wait == SEER_ERROR_BUSY);
  CHECK(state.create == SEER_ERROR_BUSY);
  CHECK(state.made == nullptr);
  CHECK(state.text.find("callback") != std::string::npos);
  CHECK(seer_wait(ctx.get(), 0, 0) == SEER_OK);  // outside again
  seer_cancel_release(state.cancel);
}

TEST_CASE("a context released with work in flight finishes it in the background, then goes") {
  struct Release {
    std::mutex mutex;
    std::condition_variable changed;
    bool released = false;
  } release;
  seer_allocator allocator = SEER_INIT(seer_allocator);
  allocator.user = &release;
  allocator.release = [](void *user) {
    auto &r = *static_cast<Release *>(user);
    const std::lock_guard lock(r.mutex);
    r.released = true;
    r.changed.notify_all();
  };
  const auto wait_released = [&] {
    std::unique_lock lock(release.mutex);
    release.changed.wait(lock, [&] { return release.released; });
    release.released = false;
  };
  seer_context_params params = cpu_params();
  params.allocator = &allocator;
  Batch x(1, 100, 100), y(1, 100, 100);
  for (const bool with_callback : {false, true}) {
    Gate gate;
    Done done;
    seer_context *ctx = nullptr;
    OK(seer_context_create(&params, &ctx));
    const seer_attention_desc first = x.attention(), second = y.attention();
    const seer_submit held = gate.submit(), free = SEER_INIT(seer_submit);
    seer_ticket ticket = 0;
    OK(seer_attention(ctx, &first, &held, nullptr));
    OK(seer_attention(ctx, &second, &free, &ticket));
    if (with_callback) OK(seer_on_done(ctx, ticket, Done::fn, &done));
    seer_context_release(ctx);  // does not wait: the gate is closed
    {
      const std::lock_guard lock(release.mutex);
      CHECK(!release.released);
    }
    gate.open();
    if (with_callback) done.wait();
    wait_released();
    CHECK(distance(x.out, y.out) == 0);
    CHECK(x.out[0] != -7.0f);
  }
  // Idle: gone when the release returns.
  const seer_attention_desc desc = x.attention();
  seer_context *ctx = nullptr;
  OK(seer_context_create(&params, &ctx));
  OK(seer_attention(ctx, &desc, nullptr, nullptr));
  seer_context_release(ctx);
  const std::lock_guard lock(release.mutex);
  CHECK(release.released);
}
