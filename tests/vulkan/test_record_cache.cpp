// Chunked prefill recorded into the program's command buffers: gate caches.
#include <algorithm>

#include "recording.h"
#include "with.h"

using namespace api;
using namespace foreign;

namespace {

constexpr int32_t kLayer = 5;

Cache make_cache(seer_context *ctx, const seer_model *model, int32_t sequences, int64_t max_tokens) {
  seer_gate_cache_params params = SEER_INIT(seer_gate_cache_params);
  params.sequences = sequences;
  params.max_tokens = max_tokens;
  seer_gate_cache *cache = nullptr;
  OK(seer_gate_cache_create(ctx, model, &params, &cache));
  return Cache(cache);
}

int64_t length(const Cache &cache, int32_t layer = kLayer, int32_t sequence = 0) {
  int64_t tokens = -1;
  OK(seer_gate_cache_length(cache.get(), layer, sequence, &tokens));
  return tokens;
}

// Tokens first .. last - 1 of a batch whose q, k and v are in the program's buffer, with outputs of their own there.
struct Chunk {
  Chunk(const Batch &whole, int64_t first, int64_t last, InBuffer &memory, const seer_prefill_desc &all)
      : begin(first), x(whole.b, last - first, last), desc(full_prefill(x)) {
    const auto view = [&](const seer_tensor &t, int64_t from, int64_t tokens) {
      seer_tensor part = t;
      const int64_t token = t.shape[2] * t.shape[3];
      const int64_t stride[4] = {t.shape[1] * token, token, t.shape[3], 1};
      std::copy(stride, stride + 4, part.stride);
      part.shape[1] = tokens;
      part.offset += uint64_t(from * token) * 4;
      return part;
    };
    desc.q = view(all.q, first, last - first);
    desc.k = view(all.k, 0, last);
    desc.v = view(all.v, 0, last);
    for (seer_tensor *t : {&desc.out, &desc.lse, &desc.scores, &desc.mask}) *t = memory.put(*t);
    desc.total_len = whole.l;
  }
  // Whether its outputs are, bit for bit, the rows of the whole batch's that they stand for.
  bool equals(const InBuffer &memory, const Batch &whole) {
    x.out = memory.get<float>(desc.out, x.out.size());
    x.scores = memory.get<float>(desc.scores, x.scores.size());
    x.bits = memory.get<uint32_t>(desc.mask, x.bits.size());
    const int64_t token = x.hq * x.d;
    bool equal = true;
    for (int64_t b = 0; b < x.b; b++) {
      equal &= std::equal(x.out.begin() + b * x.s * token, x.out.begin() + (b + 1) * x.s * token,
                          whole.out.begin() + (b * whole.s + begin) * token);
      for (int64_t h = 0; h < x.hq; h++)
        for (int64_t i = 0; i < x.nq; i++) {
          const int64_t row = begin / x.block + i;
          const auto *score = &x.scores[size_t(((b * x.hq + h) * x.nq + i) * x.nk)];
          equal &= std::equal(score, score + x.nk, &whole.scores[size_t(((b * x.hq + h) * whole.nq + row) * whole.nk)]);
          for (int64_t j = 0; j < x.nk; j++) equal &= x.kept(b, h, i, j) == whole.kept(b, h, row, j);
        }
    }
    return equal;
  }
  const int64_t begin;
  Batch x;
  seer_prefill_desc desc;
};

Plan plan_of(const Context &ctx, const Model &model, const seer_prefill_desc &desc, double part_flops = 0) {
  return make_plan([&](const auto *params,
                       auto **out) { return seer_vulkan_plan_prefill(ctx.get(), model.get(), &desc, params, out); },
                   part_flops);
}

// A prompt of 230 tokens in four chunks, prepared; a cache and the whole prompt's results, as ordinary calls compute
// them.
struct Prompt {
  Prompt(Gpu &device, double part_flops)
      : gpu(device),
        ctx(gpu.context()),
        model(make_model(ctx.get())),
        cache(make_cache(ctx.get(), model.get(), 2, 256)),
        whole(2, 230, 230),
        memory(gpu, 1 << 20),
        all(full_prefill(whole)) {
    for (seer_tensor *t : {&all.q, &all.k, &all.v, &all.out, &all.lse, &all.scores, &all.mask}) *t = memory.put(*t);
    const int64_t borders[] = {0, 64, 96, 192, 230};
    chunks.reserve(4);
    for (int c = 0; c < 4; c++) {
      Chunk &chunk = chunks.emplace_back(whole, borders[c], borders[c + 1], memory, all);
      chunk.desc.cache = cache.get();
      plans.push_back(plan_of(ctx, model, chunk.desc, part_flops));
      rooms.push_back(std::make_unique<Room>(gpu, plans.back(), 4));
    }
  }
  seer_vulkan_recording recording(size_t chunk) const {
    seer_vulkan_recording r = recording_of(chunks[chunk].desc);
    r.layer = kLayer;
    r.cache = cache.get();
    rooms[chunk]->fill(r);
    return r;
  }
  // The whole prompt by an ordinary call without a cache.
  const Batch &expected() {
    OK(seer_prefill(ctx.get(), model.get(), kLayer, &all, nullptr, nullptr));
    whole.out = memory.get<float>(all.out, whole.out.size());
    whole.scores = memory.get<float>(all.scores, whole.scores.size());
    whole.bits = memory.get<uint32_t>(all.mask, whole.bits.size());
    return whole;
  }
  void check() {
    expected();
    for (size_t c = 0; c < chunks.size(); c++) {
      INFO(c);
      CHECK(chunks[c].equals(memory, whole));
    }
    CHECK(memory.margins_intact());
  }
  void change_inputs() {
    for (const seer_tensor *t : {&all.q, &all.k, &all.v})
      for (int64_t i = 0; i < t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3]; i++)
        memory.buffer().at<float>(t->offset)[i] *= i % 3 == 0 ? -1.5f : 0.5f;
  }

  Gpu &gpu;
  Context ctx;
  Model model;
  Cache cache;
  Batch whole;
  InBuffer memory;
  seer_prefill_desc all;
  std::vector<Chunk> chunks;
  std::vector<Plan> plans;
  std::vector<std::unique_ptr<Room>> rooms;
};

void chunks_in_one_command_buffer(Gpu &gpu) {
  Prompt prompt(gpu, 0);
  Commands commands(gpu);
  commands.begin();
  for (size_t c = 0; c < prompt.plans.size(); c++) {
    seer_vulkan_recording r = prompt.recording(c);
    r.command_buffer = commands.handle;
    OK(seer_vulkan_record(prompt.plans[c].get(), &r));
  }
  commands.run();
  prompt.check();
  CHECK(length(prompt.cache) == 0);
  // Another prompt through the same commands, in a cache that still has the first one's vectors.
  prompt.change_inputs();
  const std::vector<uint32_t> bits = prompt.whole.bits;
  commands.run_again();
  prompt.check();
  CHECK(prompt.whole.bits != bits);
}

}  // namespace

TEST_CASE("vulkan record: chunks through a gate cache equal one whole call bit for bit, and again on a new prompt") {
  Gpu gpu;
  chunks_in_one_command_buffer(gpu);
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: a gate cache without push descriptors, behind small bindings") {
  Gpu gpu;
  {
    const With none("SEER_VK_PUSH_DESCRIPTOR", "0"), range("SEER_VK_MAX_RANGE", "60000");
    chunks_in_one_command_buffer(gpu);
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: chunks in parts and submissions of their own, in another cache than the plan's") {
  Gpu gpu;
  {
    Prompt prompt(gpu, 3e5);
    const Cache other = make_cache(prompt.ctx.get(), prompt.model.get(), 2, 256);
    for (size_t c = 0; c < prompt.plans.size(); c++) {
      seer_vulkan_recording r = prompt.recording(c);
      r.cache = other.get();
      CHECK(prompt.rooms[c]->info.part_count > 1);
      r.part_count = 1;
      for (; r.first_part < prompt.rooms[c]->info.part_count; r.first_part++) run(gpu, prompt.plans[c], r);
    }
    prompt.check();
    // The last chunk once more; then on what nobody has put into the first cache, which is not what it takes.
    seer_vulkan_recording last = prompt.recording(3);
    last.cache = other.get();
    run(gpu, prompt.plans[3], last);
    CHECK(prompt.chunks[3].equals(prompt.memory, prompt.whole));
    seer_vulkan_recording first = prompt.recording(0);
    prompt.change_inputs();
    run(gpu, prompt.plans[0], first);  // vectors of other keys, in the first cache
    prompt.expected();
    last.cache = prompt.cache.get();
    for (size_t c = 1; c < 4; c++) run(gpu, prompt.plans[c], prompt.recording(c));
    prompt.check();
    last.cache = other.get();
    run(gpu, prompt.plans[3], last);  // vectors of the prompt before
    CHECK_FALSE(prompt.chunks[3].equals(prompt.memory, prompt.whole));
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: recorded chunks and ordinary calls take each other's vectors") {
  Gpu gpu;
  {
    Prompt prompt(gpu, 0);
    seer_context *ctx = prompt.ctx.get();
    seer_gate_cache *cache = prompt.cache.get();
    // Ordinary, recorded, recorded, ordinary.
    OK(seer_prefill(ctx, prompt.model.get(), kLayer, &prompt.chunks[0].desc, nullptr, nullptr));
    CHECK(length(prompt.cache) == 64);
    for (size_t c = 1; c < 3; c++) run(gpu, prompt.plans[c], prompt.recording(c));
    CHECK(length(prompt.cache) == 64);
    OK(seer_vulkan_gate_cache_extend(cache, kLayer, 1, 200));
    CHECK(length(prompt.cache, kLayer, 1) == 192);
    CHECK(length(prompt.cache, kLayer, 0) == 64);
    CHECK(length(prompt.cache, kLayer - 1, 1) == 0);
    OK(seer_vulkan_gate_cache_extend(cache, kLayer, -1, 192));
    CHECK(length(prompt.cache) == 192);
    OK(seer_vulkan_gate_cache_extend(cache, kLayer, -1, 64));  // takes nothing back
    CHECK(length(prompt.cache) == 192);
    OK(seer_prefill(ctx, prompt.model.get(), kLayer, &prompt.chunks[3].desc, nullptr, nullptr));
    CHECK(length(prompt.cache) == 224);
    prompt.check();

    // The vectors are taken, not made again: under other keys before the chunk they stay what they were.
    const auto last = [&] {
      OK(seer_prefill(ctx, prompt.model.get(), kLayer, &prompt.chunks[3].desc, nullptr, nullptr));
      return prompt.memory.get<float>(prompt.chunks[3].desc.scores, prompt.chunks[3].x.scores.size());
    };
    OK(seer_gate_cache_truncate(cache, -1, 192));
    const std::vector<float> scores = last();
    std::fill_n(prompt.memory.buffer().at<float>(prompt.all.k.offset), 32 * prompt.whole.hkv * prompt.whole.d, 1.0f);
    OK(seer_gate_cache_truncate(cache, -1, 0));
    OK(seer_vulkan_gate_cache_extend(cache, kLayer, -1, 192));
    CHECK(last() == scores);
    OK(seer_gate_cache_truncate(cache, -1, 0));
    CHECK(last() != scores);
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: a gate call with a cache that an ordinary call has filled") {
  Gpu gpu;
  {
    const Context ctx(gpu.context());
    const Model model = make_model(ctx.get());
    const Cache cache = make_cache(ctx.get(), model.get(), 1, 160);
    Batch x(1, 64, 160);
    InBuffer memory(gpu, 1 << 18);
    seer_gate_desc desc = x.gate();
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.scores, &desc.mask}) *t = memory.put(*t);
    desc.cache = cache.get();
    OK(seer_gate(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
    const std::vector<float> scores = memory.get<float>(desc.scores, x.scores.size());
    const std::vector<uint32_t> bits = memory.get<uint32_t>(desc.mask, x.bits.size());
    std::fill_n(memory.buffer().at<float>(desc.scores.offset), scores.size(), -1.0f);
    std::fill_n(memory.buffer().at<uint32_t>(desc.mask.offset), bits.size(), 0u);
    // Keys before the chunk, which starts at 96, are not looked at.
    std::fill_n(memory.buffer().at<float>(desc.k.offset), 96 * x.hkv * x.d, 1.0f);
    const Plan plan = make_plan([&](const auto *params, auto **out) {
      return seer_vulkan_plan_gate(ctx.get(), model.get(), &desc, params, out);
    });
    const Room room(gpu, plan);
    seer_vulkan_recording r = recording_of(desc);
    r.layer = 4;
    r.cache = cache.get();
    room.fill(r);
    run(gpu, plan, r);
    CHECK(memory.get<float>(desc.scores, scores.size()) == scores);
    CHECK(memory.get<uint32_t>(desc.mask, bits.size()) == bits);
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: gate caches that do not fit are refused") {
  Gpu gpu;
  {
    const Context ctx(gpu.context()), elsewhere(gpu.context());
    const Model model = make_model(ctx.get()), other_model = make_model(ctx.get());
    const auto cache = [&](const Context &of, const Model &m, int32_t sequences, int64_t tokens) {
      return make_cache(of.get(), m.get(), sequences, tokens);
    };
    const Cache good = cache(ctx, model, 1, 128), small = cache(ctx, model, 1, 64), wide = cache(ctx, model, 2, 128),
                long_one = cache(ctx, model, 1, 160), foreign_one = cache(elsewhere, model, 1, 128),
                of_other = cache(ctx, other_model, 1, 128);
    Batch x(1, 64, 128);
    InBuffer memory(gpu, 1 << 18);
    seer_prefill_desc desc = x.prefill();
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out}) *t = memory.put(*t);

    const auto plan_refused = [&](seer_status status, const char *word, seer_gate_cache *given) {
      seer_vulkan_plan *none = nullptr;
      desc.cache = given;
      FAILS(status, word, seer_vulkan_plan_prefill(ctx.get(), model.get(), &desc, nullptr, &none));
      CHECK(none == nullptr);
    };
    plan_refused(SEER_ERROR_CACHE_STATE, "made for 64", small.get());
    plan_refused(SEER_ERROR_CACHE_STATE, "made for 2", wide.get());
    plan_refused(SEER_ERROR_HANDLE, "another context", foreign_one.get());
    plan_refused(SEER_ERROR_HANDLE, "another model", of_other.get());

    const Plan without = plan_of(ctx, model, [&] {
      desc.cache = nullptr;
      return desc;
    }());
    desc.cache = good.get();
    const Plan plan = plan_of(ctx, model, desc);
    const Room room(gpu, plan), room_without(gpu, without);
    CHECK(room.info.workspace_bytes < room_without.info.workspace_bytes);
    Commands commands(gpu);
    commands.begin();
    const auto refused = [&](seer_status status, const char *word, const Plan &p, seer_gate_cache *given) {
      seer_vulkan_recording r = recording_of(desc);
      r.layer = kLayer;
      r.command_buffer = commands.handle;
      (&p == &plan ? room : room_without).fill(r);
      r.cache = given;
      FAILS(status, word, seer_vulkan_record(p.get(), &r));
    };
    refused(SEER_ERROR_INVALID_ARGUMENT, "cache is absent", plan, nullptr);
    refused(SEER_ERROR_INVALID_ARGUMENT, "cache is there", without, good.get());
    refused(SEER_ERROR_CACHE_STATE, "64", plan, small.get());
    refused(SEER_ERROR_CACHE_STATE, "160", plan, long_one.get());
    refused(SEER_ERROR_CACHE_STATE, "2 sequences", plan, wide.get());
    refused(SEER_ERROR_HANDLE, "another context", plan, foreign_one.get());
    refused(SEER_ERROR_HANDLE, "another model", plan, of_other.get());
    commands.run();
    CHECK(memory.margins_intact());
    CHECK(memory.get<float>(desc.out, x.out.size()) == x.out);

    FAILS(SEER_ERROR_CACHE_STATE, "tokens is 129", seer_vulkan_gate_cache_extend(good.get(), kLayer, 0, 129));
    FAILS(SEER_ERROR_INVALID_ARGUMENT, "tokens is -1", seer_vulkan_gate_cache_extend(good.get(), kLayer, 0, -1));
    FAILS(SEER_ERROR_INVALID_ARGUMENT, "sequence is 1", seer_vulkan_gate_cache_extend(good.get(), kLayer, 1, 64));
    FAILS(SEER_ERROR_INVALID_ARGUMENT, "layer is 3", seer_vulkan_gate_cache_extend(good.get(), 3, 0, 64));
    FAILS(SEER_ERROR_INVALID_ARGUMENT, "cache is NULL", seer_vulkan_gate_cache_extend(nullptr, kLayer, 0, 64));
    CHECK(length(good) == 0);
    const Context cpu = make_context();
    const Model on_cpu = make_model(cpu.get());
    const Cache cpu_cache = make_cache(cpu.get(), on_cpu.get(), 1, 128);
    FAILS(SEER_ERROR_UNSUPPORTED, "backend cpu", seer_vulkan_gate_cache_extend(cpu_cache.get(), kLayer, 0, 64));
  }
  gpu.wait_for_release(2);
}
