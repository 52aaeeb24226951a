#include "convert.h"

#include <algorithm>

#include "vulkan/interop.h"

namespace seer::capi {

using ull = unsigned long long;

namespace {

bool is_empty(const seer_tensor &t) {
  return std::find(t.shape, t.shape + std::clamp(t.ndim, 0, 4), 0) != t.shape + std::clamp(t.ndim, 0, 4);
}

}  // namespace

// The enumerations that are passed on by value.
static_assert(int(Status::ok) == SEER_OK && int(Status::not_ready) == SEER_NOT_READY &&
              int(Status::timeout) == SEER_TIMEOUT && int(Status::invalid_argument) == SEER_ERROR_INVALID_ARGUMENT &&
              int(Status::bad_struct) == SEER_ERROR_STRUCT && int(Status::bad_handle) == SEER_ERROR_HANDLE &&
              int(Status::shape) == SEER_ERROR_SHAPE && int(Status::dtype) == SEER_ERROR_DTYPE &&
              int(Status::stride) == SEER_ERROR_STRIDE && int(Status::memory_kind) == SEER_ERROR_MEMORY_KIND &&
              int(Status::out_of_bounds) == SEER_ERROR_OUT_OF_BOUNDS &&
              int(Status::unsupported) == SEER_ERROR_UNSUPPORTED &&
              int(Status::out_of_memory) == SEER_ERROR_OUT_OF_MEMORY &&
              int(Status::device_out_of_memory) == SEER_ERROR_DEVICE_OUT_OF_MEMORY &&
              int(Status::device_lost) == SEER_ERROR_DEVICE_LOST && int(Status::cancelled) == SEER_ERROR_CANCELLED &&
              int(Status::io) == SEER_ERROR_IO && int(Status::format) == SEER_ERROR_FORMAT &&
              int(Status::unsafe_file) == SEER_ERROR_UNSAFE_FILE &&
              int(Status::model_mismatch) == SEER_ERROR_MODEL_MISMATCH &&
              int(Status::cache_state) == SEER_ERROR_CACHE_STATE && int(Status::busy) == SEER_ERROR_BUSY &&
              int(Status::internal) == SEER_ERROR_INTERNAL);
static_assert(int(BackendKind::automatic) == SEER_BACKEND_AUTO && int(BackendKind::cuda) == SEER_BACKEND_CUDA &&
              int(BackendKind::vulkan) == SEER_BACKEND_VULKAN && int(BackendKind::cpu) == SEER_BACKEND_CPU);
static_assert(int(DType::f32) == SEER_F32 && int(DType::f16) == SEER_F16 && int(DType::bf16) == SEER_BF16 &&
              int(DType::i32) == SEER_I32 && int(DType::i64) == SEER_I64 && int(DType::u8) == SEER_U8 &&
              int(DType::b32) == SEER_B32);
static_assert(int(Mem::host) == SEER_MEM_HOST && int(Mem::cuda) == SEER_MEM_CUDA &&
              int(Mem::vulkan) == SEER_MEM_VULKAN);
static_assert(int(SelectMethod::model) == SEER_SELECT_MODEL && int(SelectMethod::threshold) == SEER_SELECT_THRESHOLD &&
              int(SelectMethod::ratio) == SEER_SELECT_RATIO && int(SelectMethod::budget) == SEER_SELECT_BUDGET &&
              int(SelectMethod::all) == SEER_SELECT_ALL);
static_assert(int(RopeSpecKind::standard) == SEER_ROPE_DEFAULT && int(RopeSpecKind::none) == SEER_ROPE_NONE &&
              int(RopeSpecKind::theta) == SEER_ROPE_THETA && int(RopeSpecKind::inv_freq) == SEER_ROPE_INV_FREQ);
static_assert(int(LogLevel::error) == SEER_LOG_ERROR && int(LogLevel::debug) == SEER_LOG_DEBUG);
static_assert(int(pool_max) == SEER_POOL_MAX && int(pool_min) == SEER_POOL_MIN && int(pool_avg) == SEER_POOL_AVG);
// Frozen structs.
static_assert(sizeof(seer_tensor) == 128 && sizeof(seer_select_spec) == 40 && sizeof(seer_rope) == 48 &&
              sizeof(seer_sequences) == 24);

void check_struct_size(uint32_t size, uint32_t first_size, const char *name) {
  SEER_REQUIRE(size >= first_size && size % 8 == 0 && size <= kLongestStruct, Status::bad_struct,
               "%s.struct_size is %u; expected at least %u and a multiple of 8 (SEER_INIT sets it)", name, size,
               first_size);
}

void check_unknown_tail(const void *in, uint32_t size, uint32_t known, const char *name) {
  const auto *bytes = static_cast<const unsigned char *>(in);
  for (uint32_t i = known; i < size; i++)
    SEER_REQUIRE(bytes[i] == 0, Status::unsupported,
                 "%s has %u bytes, of which this library knows %u, and byte %u is set: a newer feature", name, size,
                 known, i);
}

void check_reserved(uint64_t value, const char *name, const char *field) {
  SEER_REQUIRE(value == 0, Status::bad_struct, "%s.%s is %llu; reserved fields must be 0", name, field, ull(value));
}

void check_flags(uint64_t flags, uint64_t known, const char *name) {
  SEER_REQUIRE((flags & ~known) == 0, Status::unsupported, "%s.flags is 0x%llx; this library knows 0x%llx", name,
               ull(flags), ull(known));
}

Tensor tensor(const seer_tensor &in, const char *name, const Context &context, Context::Pins &pins) {
  if (in.mem == SEER_MEM_NONE) {
    const auto *bytes = reinterpret_cast<const unsigned char *>(&in);
    SEER_REQUIRE(std::all_of(bytes, bytes + sizeof in, [](unsigned char b) { return b == 0; }),
                 Status::invalid_argument, "%s.mem is NONE, an absent tensor, but other fields are set", name);
    return {};
  }
  check_reserved(in.reserved0, name, "reserved0");
  check_reserved(in.reserved1, name, "reserved1");
  SEER_REQUIRE(in.mem >= SEER_MEM_HOST && in.mem <= SEER_MEM_BUFFER, Status::invalid_argument,
               "%s.mem is %d; expected 0 to 4", name, int(in.mem));
  SEER_REQUIRE(in.dtype >= SEER_DTYPE_NONE && in.dtype <= SEER_B32, Status::invalid_argument,
               "%s.dtype is %d; expected 1 to 7", name, int(in.dtype));
  SEER_REQUIRE(in.dtype != SEER_DTYPE_NONE, Status::dtype, "%s.dtype is NONE", name);
  const bool has_data = in.mem == SEER_MEM_HOST || in.mem == SEER_MEM_CUDA;
  SEER_REQUIRE(has_data || !in.data, Status::invalid_argument, "%s.data is set, but mem is %d", name, int(in.mem));
  SEER_REQUIRE(in.mem == SEER_MEM_VULKAN || !in.vk_buffer, Status::invalid_argument,
               "%s.vk_buffer is set, but mem is %d", name, int(in.mem));
  SEER_REQUIRE(in.mem == SEER_MEM_BUFFER || !in.buffer, Status::invalid_argument, "%s.buffer is set, but mem is %d",
               name, int(in.mem));

  const BackendKind backend = context.device().info.backend;
  Tensor t;
  t.mem = static_cast<Mem>(in.mem);
  t.dtype = static_cast<DType>(in.dtype);
  t.ndim = in.ndim;
  std::copy(in.shape, in.shape + 4, t.shape);
  std::copy(in.stride, in.stride + 4, t.stride);
  const auto step = backend == BackendKind::cpu ? static_cast<uint64_t>(element_size(t.dtype)) : 16;
  SEER_REQUIRE(in.offset % step == 0, Status::stride, "%s.offset is %llu; expected a multiple of %llu", name,
               ull(in.offset), ull(step));
  void *base = in.data;
  t.handle = in.vk_buffer;
  uint64_t size = in.size;
  if (in.mem == SEER_MEM_BUFFER) {
    const auto buffer = get(in.buffer, name);
    SEER_REQUIRE(buffer->context().same_device(context), Status::bad_handle, "%s.buffer belongs to another device",
                 name);
    const Memory &memory = buffer->memory();
    SEER_REQUIRE(size <= memory.size, Status::out_of_bounds, "%s.size is %llu; its buffer has %llu bytes", name,
                 ull(size), ull(memory.size));
    if (size == 0) size = memory.size;
    base = memory.address;
    t.mem = backend == BackendKind::cuda ? Mem::cuda : backend == BackendKind::vulkan ? Mem::vulkan : Mem::host;
    pins.push_back(buffer);
  }
  const bool known = in.mem != SEER_MEM_CUDA || size > 0;
  SEER_REQUIRE(!known || in.offset <= size, Status::out_of_bounds, "%s.offset is %llu; its memory has %llu bytes", name,
               ull(in.offset), ull(size));
  t.size = known ? size - in.offset : 0;
  // To Tensor 0 is an unknown size of device memory; none left is another thing.
  SEER_REQUIRE(!known || t.mem != Mem::cuda || t.size > 0 || is_empty(in), Status::out_of_bounds,
               "%s.offset is %llu, the end of its memory", name, ull(in.offset));
  if (in.mem == SEER_MEM_VULKAN) {
    t.offset = in.offset;
    if (backend == BackendKind::vulkan && in.vk_buffer) {
      const auto memory = vulkan::borrow(context.device(), in.vk_buffer, size);
      if (memory) base = memory->address;
      pins.push_back(memory);
    }
  }
  if (base) {
    const auto address = reinterpret_cast<uintptr_t>(base);
    SEER_REQUIRE(in.offset <= UINT64_MAX - address, Status::out_of_bounds, "%s.offset is %llu, beyond all memory", name,
                 ull(in.offset));
    t.data = reinterpret_cast<void *>(address + in.offset);
  }
  return t;
}

SequenceSpec sequences(const seer_sequences &in) {
  check_reserved(in.reserved, "sequences", "reserved");
  return {.q = in.q, .k = in.k, .count = in.count};
}

SelectSpec select_spec(const seer_select_spec &in, const char *name) {
  check_reserved(in.reserved, name, "reserved");
  check_flags(in.flags, SEER_SELECT_KEEP_DIAGONAL | SEER_SELECT_KEEP_FIRST, name);
  return {.method = in.method,
          .last_dense_rows = in.last_dense_rows,
          .threshold = in.threshold,
          .ratio = in.ratio,
          .token_budget = in.token_budget,
          .keep_diagonal = (in.flags & SEER_SELECT_KEEP_DIAGONAL) != 0,
          .keep_first = (in.flags & SEER_SELECT_KEEP_FIRST) != 0};
}

RopeSpec rope_spec(const seer_rope &in, const char *name) {
  check_reserved(in.reserved[0], name, "reserved[0]");
  check_reserved(in.reserved[1], name, "reserved[1]");
  return {.kind = in.kind,
          .inv_freq_count = in.inv_freq_count,
          .theta = in.theta,
          .attention_scaling = in.attention_scaling,
          .inv_freq = in.inv_freq};
}

namespace {

// What the descriptions of calls have in common: whatever fields Desc has, of the same names as the C struct's.
template <class Desc, class In>
Desc desc_of(const In &in, const Context &context, Context::Pins &pins) {
  if constexpr (requires { in.reserved; }) check_reserved(in.reserved, "desc", "reserved");
  Desc d;
  const auto take = [&](const seer_tensor &t, const char *name) { return tensor(t, name, context, pins); };
  if constexpr (requires { d.q; }) {
    d.q = take(in.q, "q");
    d.k = take(in.k, "k");
  }
  if constexpr (requires { d.v; }) {
    d.v = take(in.v, "v");
    d.out = take(in.out, "out");
    d.lse = take(in.lse, "lse");
    d.softmax_scale = in.softmax_scale;
  }
  if constexpr (requires { d.scores; }) d.scores = take(in.scores, "scores");
  d.mask = take(in.mask, "mask");
  d.sequences = sequences(in.sequences);
  if constexpr (requires { d.select; }) {
    d.select = select_spec(in.select, "select");
    d.total_len = in.total_len;
  }
  if constexpr (requires { d.rope; }) d.rope = rope_spec(in.rope, "rope");
  if constexpr (requires { d.block_size; }) d.block_size = in.block_size;
  return d;
}

}  // namespace

PrefillDesc prefill_desc(const seer_prefill_desc &in, const Context &context, Context::Pins &pins) {
  check_flags(in.flags, 0, "desc");
  return desc_of<PrefillDesc>(in, context, pins);
}

GateDesc gate_desc(const seer_gate_desc &in, const Context &context, Context::Pins &pins) {
  check_flags(in.flags, SEER_GATE_LOGITS, "desc");
  auto d = desc_of<GateDesc>(in, context, pins);
  d.logits = (in.flags & SEER_GATE_LOGITS) != 0;
  return d;
}

SelectDesc select_desc(const seer_select_desc &in, const Context &context, Context::Pins &pins) {
  check_flags(in.flags, 0, "desc");
  auto d = desc_of<SelectDesc>(in, context, pins);
  d.q_len = in.q_len;
  d.k_len = in.k_len;
  return d;
}

AttentionDesc attention_desc(const seer_attention_desc &in, const Context &context, Context::Pins &pins) {
  check_flags(in.flags, 0, "desc");
  return desc_of<AttentionDesc>(in, context, pins);
}

ContextParams context_params(const seer_context_params *params) {
  ContextParams p;
  if (!params) return p;
  const seer_context_params in = read_struct(params, "params");
  check_reserved(in.reserved, "params", "reserved");
  check_flags(in.flags, SEER_CONTEXT_REFERENCE, "params");
  SEER_REQUIRE(in.backend >= SEER_BACKEND_AUTO && in.backend <= SEER_BACKEND_CPU, Status::invalid_argument,
               "params.backend is %d; expected 0 to 3", int(in.backend));
  SEER_REQUIRE(in.log_level >= SEER_LOG_OFF && in.log_level <= SEER_LOG_DEBUG, Status::invalid_argument,
               "params.log_level is %d; expected 0 to 4", int(in.log_level));
  p.backend = static_cast<BackendKind>(in.backend);
  p.ordinal = in.device;
  p.threads = in.threads;
  p.reference = (in.flags & SEER_CONTEXT_REFERENCE) != 0;
  if (in.allocator) {
    const seer_allocator allocator = read_struct(in.allocator, "params.allocator");
    p.allocator = host_allocator(allocator);
    p.allocator_release = allocator.release;
  }
  p.log.fn = in.log;
  p.log.user = in.log_user;
  if (in.log_level != 0) p.log.level = static_cast<LogLevel>(in.log_level);
  p.log_release = in.log_release;
  p.workspace_limit = in.workspace_limit;
  return p;
}

HostAllocator host_allocator(const seer_allocator &in) {
  check_reserved(in.reserved, "allocator", "reserved");
  SEER_REQUIRE(!in.host_alloc == !in.host_free, Status::invalid_argument,
               "allocator has one of host_alloc and host_free; they come together");
  SEER_REQUIRE(!in.device_alloc == !in.device_free, Status::invalid_argument,
               "allocator has one of device_alloc and device_free; they come together");
  return {.alloc = in.host_alloc,
          .free = in.host_free,
          .device_alloc = in.device_alloc,
          .device_free = in.device_free,
          .user = in.user};
}

}  // namespace seer::capi
