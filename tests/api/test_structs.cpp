// The rules of growable structs, for every one of them: a caller's size is believed, checked, and never exceeded.
#include <functional>

#include <algorithm>

#include "api.h"

using namespace api;

namespace {

// A valid call that passes one struct, given as bytes of whatever length.
struct Growable {
  const char *name;
  std::vector<unsigned char> valid;
  bool output;
  std::function<seer_status(void *)> call;
};

template <class T>
std::vector<unsigned char> bytes_of(const T &value) {
  std::vector<unsigned char> bytes(sizeof(T));
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

void set_size(std::vector<unsigned char> &bytes, uint32_t size) { std::memcpy(bytes.data(), &size, sizeof size); }

// Memory of exactly these bytes, so that a sanitizer sees any access beyond.
seer_status call_with(const Growable &g, std::vector<unsigned char> bytes,
                      std::vector<unsigned char> *after = nullptr) {
  bytes.shrink_to_fit();
  const seer_status status = g.call(bytes.data());
  if (after) *after = bytes;
  return status;
}

struct World {
  Context ctx = make_context();
  Model model = make_model(ctx.get());
  Batch x{1, 40, 40};
  Weights weights;
  seer_ticket ticket = 0;
  seer_allocator allocator = SEER_INIT(seer_allocator);

  World() {
    const seer_attention_desc desc = x.attention();
    OK(seer_attention(ctx.get(), &desc, nullptr, &ticket));
  }

  seer_status create_context(const void *params) {
    seer_context *out = nullptr;
    const seer_status status = seer_context_create(static_cast<const seer_context_params *>(params), &out);
    CHECK((out == nullptr) == (status != SEER_OK));
    seer_context_release(out);
    return status;
  }
  seer_status create_model(const void *config, const void *first_layer) {
    seer_model *out = nullptr;
    std::vector<const seer_gate_weights *> layers = weights.pointers;
    if (first_layer) layers[0] = static_cast<const seer_gate_weights *>(first_layer);
    const seer_status status =
        seer_model_create(ctx.get(), static_cast<const seer_gate_config *>(config), layers.data(), &out);
    CHECK((out == nullptr) == (status != SEER_OK));
    seer_model_release(out);
    return status;
  }

  std::vector<Growable> all() {
    const seer_gate_config config = gate_config();
    seer_gate_cache_params cache = SEER_INIT(seer_gate_cache_params);
    cache.max_tokens = 64;
    return {
        {"seer_context_params", bytes_of(cpu_params()), false, [this](void *p) { return create_context(p); }},
        {"seer_allocator", bytes_of(allocator), false,
         [this](void *p) {
           seer_context_params params = cpu_params();
           params.allocator = static_cast<const seer_allocator *>(p);
           return create_context(&params);
         }},
        {"seer_device_info", bytes_of(SEER_INIT(seer_device_info)), true,
         [this](void *p) { return seer_context_info(ctx.get(), static_cast<seer_device_info *>(p)); }},
        {"seer_device_info of seer_device_get", bytes_of(SEER_INIT(seer_device_info)), true,
         [](void *p) { return seer_device_get(SEER_BACKEND_CPU, 0, static_cast<seer_device_info *>(p)); }},
        {"seer_gate_config", bytes_of(config), false, [this](void *p) { return create_model(p, nullptr); }},
        {"seer_gate_weights", bytes_of(weights.layers[0]), false,
         [this](void *p) {
           const seer_gate_config c = gate_config();
           return create_model(&c, p);
         }},
        {"seer_gate_config of seer_model_config", bytes_of(SEER_INIT(seer_gate_config)), true,
         [this](void *p) { return seer_model_config(model.get(), static_cast<seer_gate_config *>(p)); }},
        {"seer_gate_cache_params", bytes_of(cache), false,
         [this](void *p) {
           seer_gate_cache *out = nullptr;
           const seer_status status =
               seer_gate_cache_create(ctx.get(), model.get(), static_cast<const seer_gate_cache_params *>(p), &out);
           CHECK((out == nullptr) == (status != SEER_OK));
           seer_gate_cache_release(out);
           return status;
         }},
        {"seer_prefill_desc", bytes_of(x.prefill()), false,
         [this](void *p) {
           return seer_prefill(ctx.get(), model.get(), 4, static_cast<seer_prefill_desc *>(p), nullptr, nullptr);
         }},
        {"seer_prefill_desc of seer_prefill_workspace", bytes_of(x.prefill()), false,
         [this](void *p) {
           uint64_t size = 0;
           return seer_prefill_workspace(ctx.get(), model.get(), static_cast<seer_prefill_desc *>(p), &size);
         }},
        {"seer_gate_desc", bytes_of(x.gate()), false,
         [this](void *p) {
           return seer_gate(ctx.get(), model.get(), 4, static_cast<seer_gate_desc *>(p), nullptr, nullptr);
         }},
        {"seer_select_desc", bytes_of(x.select()), false,
         [this](void *p) { return seer_select(ctx.get(), static_cast<seer_select_desc *>(p), nullptr, nullptr); }},
        {"seer_attention_desc", bytes_of(x.attention()), false,
         [this](void *p) {
           return seer_attention(ctx.get(), static_cast<seer_attention_desc *>(p), nullptr, nullptr);
         }},
        {"seer_submit", bytes_of(SEER_INIT(seer_submit)), false,
         [this](void *p) {
           const seer_attention_desc desc = x.attention();
           const seer_status status = seer_attention(ctx.get(), &desc, static_cast<seer_submit *>(p), nullptr);
           OK(seer_wait(ctx.get(), SEER_TICKET_ALL, UINT64_MAX));
           return status;
         }},
        {"seer_stats", bytes_of(SEER_INIT(seer_stats)), true,
         [this](void *p) { return seer_ticket_stats(ctx.get(), ticket, static_cast<seer_stats *>(p)); }},
        {"seer_load_params", bytes_of(SEER_INIT(seer_load_params)), false,
         [this](void *p) {
           seer_model *out = nullptr;
           const seer_status status = seer_model_load_dir(ctx.get(), SEER_TEST_DATA "/golden/double-gate",
                                                          static_cast<seer_load_params *>(p), &out);
           CHECK((out == nullptr) == (status != SEER_OK));
           seer_model_release(out);
           return status;
         }},
    };
  }
};

}  // namespace

TEST_CASE("struct_size: too small, not a multiple of 8 and absurd ones are refused") {
  World world;
  for (const Growable &g : world.all()) {
    CAPTURE(std::string(g.name));
    const auto full = static_cast<uint32_t>(g.valid.size());
    CHECK(full % 8 == 0);
    REQUIRE(call_with(g, g.valid) == SEER_OK);
    for (const uint32_t size : {0u, 4u, 8u, full - 8, full - 4}) {
      if (size >= full) continue;
      std::vector<unsigned char> bytes(g.valid.begin(), g.valid.begin() + std::max(size, 8u));
      set_size(bytes, size);
      FAILS(SEER_ERROR_STRUCT, "struct_size", call_with(g, bytes));
    }
    for (const uint32_t size : {full + 4, full + 1, 1u << 20, UINT32_MAX}) {
      std::vector<unsigned char> bytes = g.valid;
      bytes.resize(std::min<size_t>(size, full + 8));
      set_size(bytes, size);
      FAILS(SEER_ERROR_STRUCT, "struct_size", call_with(g, bytes));
    }
  }
}

TEST_CASE("a longer struct of a newer caller works while its unknown fields are zero, and is refused if not") {
  World world;
  for (const Growable &g : world.all()) {
    CAPTURE(std::string(g.name));
    const size_t full = g.valid.size();
    std::vector<unsigned char> bytes = g.valid;
    bytes.resize(full + 24);
    set_size(bytes, static_cast<uint32_t>(full + 24));
    if (!g.output) {
      CHECK(call_with(g, bytes) == SEER_OK);
      bytes[full + 17] = 1;
      FAILS(SEER_ERROR_UNSUPPORTED, std::to_string(full + 17), call_with(g, bytes));
      continue;
    }
    // Outputs: what the library does not know becomes zero, struct_size stays, guard bytes behind stay.
    std::fill(bytes.begin() + 4, bytes.end(), 0xee);
    bytes.resize(full + 32, 0xee);
    std::vector<unsigned char> after;
    CHECK(call_with(g, bytes, &after) == SEER_OK);
    uint32_t size = 0;
    std::memcpy(&size, after.data(), sizeof size);
    CHECK(size == full + 24);
    for (size_t i = full; i < full + 24; i++) CHECK(after[i] == 0);
    for (size_t i = full + 24; i < full + 32; i++) CHECK(after[i] == 0xee);
  }
}

TEST_CASE("outputs write their struct and not a byte more; a call that fails writes none") {
  World world;
  for (const Growable &g : world.all()) {
    if (!g.output) continue;
    CAPTURE(std::string(g.name));
    std::vector<unsigned char> bytes = g.valid, after;
    bytes.resize(bytes.size() + 16, 0xee);
    CHECK(call_with(g, bytes, &after) == SEER_OK);
    for (size_t i = g.valid.size(); i < after.size(); i++) CHECK(after[i] == 0xee);
    std::fill(bytes.begin(), bytes.end(), 0xee);
    set_size(bytes, 8);
    CHECK(call_with(g, bytes, &after) == SEER_ERROR_STRUCT);
    CHECK(after == bytes);
  }
}

TEST_CASE("reserved fields must be 0") {
  World world;
  Batch &x = world.x;
  const auto prefill = [&](auto change) {
    seer_prefill_desc desc = x.prefill();
    change(desc);
    return seer_prefill(world.ctx.get(), world.model.get(), 4, &desc, nullptr, nullptr);
  };
  FAILS(SEER_ERROR_STRUCT, "q.reserved0", prefill([](auto &d) { d.q.reserved0 = 1; }));
  FAILS(SEER_ERROR_STRUCT, "out.reserved1", prefill([](auto &d) { d.out.reserved1 = 1; }));
  FAILS(SEER_ERROR_STRUCT, "sequences.reserved", prefill([](auto &d) { d.sequences.reserved = 1; }));
  FAILS(SEER_ERROR_STRUCT, "select.reserved", prefill([](auto &d) { d.select.reserved = 1; }));
  FAILS(SEER_ERROR_STRUCT, "rope.reserved[0]", prefill([](auto &d) { d.rope.reserved[0] = 1; }));
  FAILS(SEER_ERROR_STRUCT, "rope.reserved[1]", prefill([](auto &d) { d.rope.reserved[1] = 1; }));
  FAILS(SEER_ERROR_UNSUPPORTED, "desc.flags", prefill([](auto &d) { d.flags = 1; }));
  FAILS(SEER_ERROR_UNSUPPORTED, "select.flags", prefill([](auto &d) { d.select.flags = 4; }));

  seer_select_desc select = x.select();
  select.reserved = 1;
  FAILS(SEER_ERROR_STRUCT, "reserved", seer_select(world.ctx.get(), &select, nullptr, nullptr));
  seer_attention_desc attention = x.attention();
  attention.reserved = 1;
  FAILS(SEER_ERROR_STRUCT, "reserved", seer_attention(world.ctx.get(), &attention, nullptr, nullptr));
  seer_gate_desc gate = x.gate();
  gate.flags = 2;
  FAILS(SEER_ERROR_UNSUPPORTED, "flags", seer_gate(world.ctx.get(), world.model.get(), 4, &gate, nullptr, nullptr));
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = 4;
  attention.reserved = 0;
  FAILS(SEER_ERROR_UNSUPPORTED, "submit.flags", seer_attention(world.ctx.get(), &attention, &submit, nullptr));
  seer_context_params params = cpu_params();
  params.reserved = 1;
  FAILS(SEER_ERROR_STRUCT, "params.reserved", world.create_context(&params));
  params = cpu_params();
  params.flags = 2;
  FAILS(SEER_ERROR_UNSUPPORTED, "params.flags", world.create_context(&params));
  seer_gate_config config = gate_config();
  config.reserved = 1;
  FAILS(SEER_ERROR_STRUCT, "config.reserved", world.create_model(&config, nullptr));
  seer_gate_weights layer = world.weights.layers[0];
  layer.reserved = 1;
  config = gate_config();
  FAILS(SEER_ERROR_STRUCT, "reserved", world.create_model(&config, &layer));
}
