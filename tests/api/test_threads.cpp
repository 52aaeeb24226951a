// Many threads on one context and one model at once. What there is to find, TSan finds.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "api.h"

using namespace api;

TEST_CASE("threads share a context and a model") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch expected(1, 100, 100);
  const seer_prefill_desc reference = expected.prefill();
  OK(seer_prefill(ctx.get(), model.get(), 4, &reference, nullptr, nullptr));

  std::atomic<int> wrong{0}, callbacks{0};
  const auto must = [&](bool ok) {
    if (!ok) wrong++;
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 8; i++) {
        Batch x(1, 100, 100);
        const seer_prefill_desc desc = x.prefill();
        seer_submit submit = SEER_INIT(seer_submit);
        seer_ticket ticket = 0;
        seer_context_retain(ctx.get());
        seer_model_retain(model.get());
        must(seer_prefill(ctx.get(), model.get(), 4, &desc, &submit, &ticket) == SEER_OK);
        must(seer_on_done(
                 ctx.get(), ticket,
                 [](void *user, seer_ticket, seer_status) { ++*static_cast<std::atomic<int> *>(user); },
                 &callbacks) == SEER_OK);
        // Errors of the threads do not mix.
        int32_t count = 0;
        must(seer_device_count(100 + t, &count) == SEER_ERROR_INVALID_ARGUMENT);
        must(std::string(seer_last_error()).find(std::to_string(100 + t)) != std::string::npos);
        must(seer_wait(ctx.get(), ticket, UINT64_MAX) == SEER_OK);
        must(x.out == expected.out);
        seer_stats stats = SEER_INIT(seer_stats);
        must(seer_ticket_stats(ctx.get(), ticket, &stats) == SEER_OK);
        must(stats.blocks_kept > 0);
        seer_buffer *buffer = nullptr;
        must(seer_buffer_create(ctx.get(), 64, 0, &buffer) == SEER_OK);
        uint64_t in = uint64_t(t) * 100 + uint64_t(i), out = 0;
        must(seer_buffer_write(buffer, 8, &in, 8) == SEER_OK);
        must(seer_buffer_read(buffer, 8, &out, 8) == SEER_OK);
        must(in == out);
        seer_buffer_release(buffer);
        seer_model_release(model.get());
        seer_context_release(ctx.get());
      }
    });
  for (std::thread &thread : threads) thread.join();
  CHECK(wrong == 0);
  OK(seer_wait(ctx.get(), SEER_TICKET_ALL, UINT64_MAX));
  for (int i = 0; i < 1000 && callbacks < 32; i++) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(callbacks == 32);
}

TEST_CASE("contexts come and go on many threads, one cancel object stops them all") {
  seer_cancel *cancel = nullptr;
  OK(seer_cancel_create(&cancel));
  std::atomic<int> wrong{0}, cancelled{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; t++)
    threads.emplace_back([&] {
      for (int i = 0; i < 4; i++) {
        seer_context_params params = cpu_params();
        seer_context *ctx = nullptr;
        if (seer_context_create(&params, &ctx) != SEER_OK) wrong++;
        Batch x(1, 200, 200);
        const seer_attention_desc desc = x.attention();
        seer_submit submit = SEER_INIT(seer_submit);
        submit.cancel = cancel;
        submit.flags = SEER_SUBMIT_BLOCKING;
        const seer_status status = seer_attention(ctx, &desc, &submit, nullptr);
        if (status == SEER_ERROR_CANCELLED) cancelled++;
        if (status != SEER_OK && status != SEER_ERROR_CANCELLED) wrong++;
        if (i == 2) seer_cancel_trigger(cancel);
        seer_context_release(ctx);
      }
    });
  for (std::thread &thread : threads) thread.join();
  seer_cancel_release(cancel);
  CHECK(wrong == 0);
  CHECK(cancelled >= 3);
}
