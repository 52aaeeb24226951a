// Calls recorded into the program's command buffers.
#include "recording.h"
#include "with.h"

using namespace api;
using namespace foreign;

namespace {

seer_vulkan_plan_info prefill_recorded(foreign::Gpu &gpu, double part_flops) {
  const Context ctx(gpu.context());
  const Model model = make_model(ctx.get());
  Batch x(2, 100, 164), y = x;
  const seer_prefill_desc on_host = full_prefill(y);
  seer_ticket ticket = 0;
  OK(seer_prefill(ctx.get(), model.get(), 5, &on_host, nullptr, &ticket));
  seer_stats stats = SEER_INIT(seer_stats);
  OK(seer_ticket_stats(ctx.get(), ticket, &stats));

  InBuffer memory(gpu, 1 << 20);
  seer_prefill_desc desc = full_prefill(x);
  for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out, &desc.lse, &desc.scores, &desc.mask})
    *t = memory.put(*t);
  seer_prefill_desc sizes = desc;  // the plan is made before there is any memory
  for (seer_tensor *t : {&sizes.q, &sizes.k, &sizes.v, &sizes.out, &sizes.lse, &sizes.scores, &sizes.mask})
    t->vk_buffer = t->offset = t->size = 0;
  const Plan plan =
      make_plan([&](const auto *params,
                    auto **out) { return seer_vulkan_plan_prefill(ctx.get(), model.get(), &sizes, params, out); },
                part_flops);
  const Room room(gpu, plan, 2);
  seer_vulkan_recording r = recording_of(desc);
  r.layer = 5;
  room.fill(r);
  const int locks = gpu.locks;
  const auto check = [&] {
    CHECK(memory.get<float>(desc.out, y.out.size()) == y.out);
    CHECK(memory.get<float>(desc.lse, y.lse.size()) == y.lse);
    CHECK(memory.get<float>(desc.scores, y.scores.size()) == y.scores);
    CHECK(memory.get<uint32_t>(desc.mask, y.bits.size()) == y.bits);
    CHECK(room.stats() == std::vector<uint64_t>{stats.blocks_kept, stats.blocks_causal, stats.fallback_rows});
    CHECK(memory.margins_intact());
  };
  run(gpu, plan, r);
  check();
  // Every part in a command buffer and a submission of its own.
  std::fill_n(memory.buffer().at<float>(desc.out.offset), y.out.size(), -1.0f);
  r.part_count = 1;
  for (; r.first_part < room.info.part_count; r.first_part++) {
    if (r.first_part == room.info.part_count - 1) CHECK(memory.get<float>(desc.out, y.out.size()) != y.out);
    run(gpu, plan, r);
  }
  check();
  CHECK(gpu.locks == locks);  // nothing was submitted by the library
  r.command_buffer = &r;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "parts", seer_vulkan_record(plan.get(), &r));
  return room.info;
}

}  // namespace

TEST_CASE("vulkan record: a prefill in the program's command buffer equals one that the library submits") {
  foreign::Gpu gpu;
  CHECK(prefill_recorded(gpu, 0).part_count == 1);
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: cut into parts, by operations, by items and by what bindings see") {
  foreign::Gpu gpu;
  CHECK(prefill_recorded(gpu, 3e5).part_count > 3);
  {
    const With chunk("SEER_VK_CHUNK_ITEMS", "7"), range("SEER_VK_MAX_RANGE", "60000"),
        alignment("SEER_VK_OFFSET_ALIGNMENT", "256");
    CHECK(prefill_recorded(gpu, 0).part_count > 20);
    // Bindings begin at multiples of 256 here, so those of dispatches beside each other see the same bytes: the layer's
    // search for hazards goes by that.
    CHECK(gpu.take_messages().find("VUID") == std::string::npos);
  }
  gpu.wait_for_release(2);
}

TEST_CASE("vulkan record: a command buffer runs again on new inputs; sequences of odd lengths, masks of bytes, RoPE") {
  foreign::Gpu gpu;
  {
    const Context ctx(gpu.context());
    const std::vector<int32_t> offsets = {0, 1, 34, 34, 130};
    Batch x(1, 130, 130);
    x.nq = 1 + 2 + 0 + 3;
    x.nk = 3;
    x.bytes.assign(size_t(x.hq * x.nq * x.nk), 0);
    for (size_t i = 0; i < x.bytes.size(); i++) x.bytes[i] = i % 3 != 0;
    InBuffer memory(gpu, 1 << 20);
    seer_attention_desc desc = SEER_INIT(seer_attention_desc);
    desc.q = memory.put(f32(x.q, {130, x.hq, x.d}));
    desc.k = memory.put(f32(x.k, {130, x.hkv, x.d}));
    desc.v = memory.put(f32(x.v, {130, x.hkv, x.d}));
    desc.out = memory.put(f32(x.out, {130, x.hq, x.d}));
    desc.mask = memory.put(u8(x.bytes, {x.hq, x.nq, x.nk}));
    desc.block_size = 32;
    desc.rope.kind = SEER_ROPE_THETA;
    desc.rope.theta = 500;
    std::vector<int32_t> planned_offsets = offsets;
    desc.sequences.q = planned_offsets.data();
    desc.sequences.count = 4;
    const Plan plan = make_plan(
        [&](const auto *params, auto **out) { return seer_vulkan_plan_attention(ctx.get(), &desc, params, out); });
    planned_offsets.assign(5, -1);  // the plan has its own
    const Room room(gpu, plan);
    foreign::Commands commands(gpu);
    commands.begin();
    seer_vulkan_recording r = recording_of(desc);
    r.command_buffer = commands.handle;
    room.fill(r);
    OK(seer_vulkan_record(plan.get(), &r));
    commands.run();
    desc.sequences.q = offsets.data();
    for (int i = 0; i < 2; i++) {
      const std::vector<float> recorded = memory.get<float>(desc.out, x.out.size());
      OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
      CHECK(memory.get<float>(desc.out, x.out.size()) == recorded);
      CHECK(recorded != x.out);
      for (size_t n = 0; n < x.v.size(); n += 3) memory.buffer().at<float>(desc.v.offset)[n] += 1.0f;
      commands.run_again();
      CHECK(memory.get<float>(desc.out, x.out.size()) != recorded);
    }
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: gate and select, in the library's buffers, too, and all in one command buffer") {
  foreign::Gpu gpu;
  {
    const Context ctx(gpu.context());
    const Model model = make_model(ctx.get());
    Batch x(1, 128, 128), y = x;
    seer_gate_desc gate_on_host = y.gate();
    gate_on_host.select.method = SEER_SELECT_BUDGET;
    gate_on_host.select.token_budget = 64;
    OK(seer_gate(ctx.get(), model.get(), 4, &gate_on_host, nullptr, nullptr));
    std::vector<uint32_t> gate_bits = y.bits;
    seer_select_desc select_on_host = y.select();
    select_on_host.select.method = SEER_SELECT_RATIO;
    select_on_host.select.ratio = 0.3;
    OK(seer_select(ctx.get(), &select_on_host, nullptr, nullptr));

    InBuffer memory(gpu, 1 << 20);
    seer_gate_desc gate = x.gate();
    gate.select = gate_on_host.select;
    for (seer_tensor *t : {&gate.q, &gate.k, &gate.mask}) *t = memory.put(*t);
    seer_buffer *scores = nullptr;
    OK(seer_buffer_create(ctx.get(), x.scores.size() * 4, 0, &scores));
    gate.scores.mem = SEER_MEM_BUFFER;
    gate.scores.data = nullptr;
    gate.scores.buffer = scores;
    gate.scores.size = 0;
    seer_select_desc select = x.select();
    select.select = select_on_host.select;
    select.scores = gate.scores;
    select.mask = memory.put(select.mask);
    const Plan gate_plan = make_plan([&](const auto *params, auto **out) {
      return seer_vulkan_plan_gate(ctx.get(), model.get(), &gate, params, out);
    });
    const Plan select_plan = make_plan(
        [&](const auto *params, auto **out) { return seer_vulkan_plan_select(ctx.get(), &select, params, out); });
    const Room gate_room(gpu, gate_plan), select_room(gpu, select_plan);
    foreign::Commands commands(gpu);
    commands.begin();
    seer_vulkan_recording r = recording_of(gate);
    r.layer = 4;
    r.command_buffer = commands.handle;
    gate_room.fill(r);
    OK(seer_vulkan_record(gate_plan.get(), &r));
    r = recording_of(select);  // what it reads was written by compute work: no barrier of ours
    r.command_buffer = commands.handle;
    select_room.fill(r);
    r.stats = {};
    OK(seer_vulkan_record(select_plan.get(), &r));
    commands.run();
    CHECK(memory.get<uint32_t>(gate.mask, gate_bits.size()) == gate_bits);
    CHECK(memory.get<uint32_t>(select.mask, y.bits.size()) == y.bits);
    CHECK(gate_bits != y.bits);
    std::vector<float> read(y.scores.size());
    OK(seer_buffer_read(scores, 0, read.data(), read.size() * 4));
    CHECK(read == y.scores);
    CHECK(select_room.stats()[0] == UINT64_MAX);  // not asked for
    seer_buffer_release(scores);
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: what does not fit the plan is refused, and nothing is recorded") {
  foreign::Gpu gpu;
  {
    const Context ctx(gpu.context());
    Batch x(1, 64, 64);
    InBuffer memory(gpu, 1 << 18);
    seer_attention_desc desc = x.attention();
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out, &desc.lse}) *t = memory.put(*t);
    const Plan plan = make_plan(
        [&](const auto *params, auto **out) { return seer_vulkan_plan_attention(ctx.get(), &desc, params, out); });
    const Room room(gpu, plan);
    foreign::Commands commands(gpu);
    commands.begin();
    seer_vulkan_recording good = recording_of(desc);
    good.command_buffer = commands.handle;
    room.fill(good);
    const auto refused = [&](seer_status status, const char *word, auto change) {
      seer_vulkan_recording r = good;
      change(r);
      FAILS(status, word, seer_vulkan_record(plan.get(), &r));
    };
    using R = seer_vulkan_recording;
    refused(SEER_ERROR_INVALID_ARGUMENT, "command_buffer", [](R &r) { r.command_buffer = nullptr; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "lse is absent", [](R &r) { r.lse = {}; });
    refused(SEER_ERROR_DTYPE, "k.dtype is f16", [](R &r) { r.k.dtype = SEER_F16; });
    refused(SEER_ERROR_SHAPE, "q has another shape", [](R &r) { r.q.shape[1] = 32; });
    refused(SEER_ERROR_STRIDE, "other strides", [](R &r) {
      for (int d = 0; d < 4; d++) r.out.stride[d] = d == 3 ? 1 : 4096 >> (4 * d);
    });
    refused(SEER_ERROR_OUT_OF_BOUNDS, "v reaches over", [](R &r) { r.v.size = r.v.offset + 64; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "out.vk_buffer is 0", [](R &r) { r.out.vk_buffer = 0; });
    refused(SEER_ERROR_MEMORY_KIND, "host memory", [&](R &r) { r.q = x.q_(); });
    refused(SEER_ERROR_INVALID_ARGUMENT, "workspace.buffer is 0", [](R &r) { r.workspace.buffer = 0; });
    refused(SEER_ERROR_STRIDE, "workspace.offset", [](R &r) { r.workspace.offset += 16; });
    refused(SEER_ERROR_OUT_OF_BOUNDS, "workspace.size", [](R &r) { r.workspace.size--; });
    refused(SEER_ERROR_STRIDE, "overlaps the workspace", [&](R &r) {
      r.workspace.buffer = r.q.vk_buffer;
      r.workspace.offset = 0;
    });
    refused(SEER_ERROR_OUT_OF_BOUNDS, "stats.size", [](R &r) { r.stats.size = 16; });
    refused(SEER_ERROR_STRIDE, "stats.offset", [](R &r) { r.stats.offset += 2; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "parts", [](R &r) { r.part_count = 2; });
    refused(SEER_ERROR_STRUCT, "struct_size", [](R &r) { r.struct_size = 16; });
    commands.run();
    CHECK(memory.margins_intact());
    CHECK(memory.get<float>(desc.out, x.out.size()) == x.out);

    seer_vulkan_plan *none = nullptr;
    desc.q = x.q_();
    FAILS(SEER_ERROR_MEMORY_KIND, "q.mem is 1", seer_vulkan_plan_attention(ctx.get(), &desc, nullptr, &none));
    desc = x.attention();
    FAILS(SEER_ERROR_UNSUPPORTED, "backend cpu",
          seer_vulkan_plan_attention(make_context().get(), &desc, nullptr, &none));
    CHECK(none == nullptr);
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan record: without push descriptors, from the program's descriptor pool") {
  foreign::Gpu gpu;
  const With none("SEER_VK_PUSH_DESCRIPTOR", "0");
  const seer_vulkan_plan_info info = prefill_recorded(gpu, 3e5);
  CHECK(info.descriptor_sets > info.part_count);
  CHECK(info.descriptors > info.descriptor_sets);
  {
    const Context ctx(gpu.context());
    Batch x(1, 64, 64);
    InBuffer memory(gpu, 1 << 18);
    seer_attention_desc desc = x.attention();
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out, &desc.lse}) *t = memory.put(*t);
    const Plan plan = make_plan(
        [&](const auto *params, auto **out) { return seer_vulkan_plan_attention(ctx.get(), &desc, params, out); });
    const Room room(gpu, plan);
    foreign::Commands commands(gpu);
    commands.begin();
    seer_vulkan_recording r = recording_of(desc);
    r.command_buffer = commands.handle;
    room.fill(r);
    r.descriptor_pool = 0;
    FAILS(SEER_ERROR_INVALID_ARGUMENT, "VK_KHR_push_descriptor", seer_vulkan_record(plan.get(), &r));
    commands.run();
  }
  gpu.wait_for_release(2);
}

TEST_CASE("vulkan record: on the library's own device a plan only prepares") {
  Batch x(1, 64, 64);
  seer_attention_desc sizes = x.attention();
  for (seer_tensor *t : {&sizes.q, &sizes.k, &sizes.v, &sizes.out, &sizes.lse}) {
    t->mem = SEER_MEM_VULKAN;
    t->data = nullptr;
    t->size = 0;
  }
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_VULKAN;
  const Context own = make_context(params);
  const Plan plan =
      make_plan([&](const auto *p, auto **out) { return seer_vulkan_plan_attention(own.get(), &sizes, p, out); });
  seer_vulkan_recording r = recording_of(sizes);
  r.command_buffer = &r;
  FAILS(SEER_ERROR_UNSUPPORTED, "VkDevice of its own", seer_vulkan_record(plan.get(), &r));
}
