// Part of seerattn.hpp: enumerations, errors, views of tensors, parameters.
#pragma once

#include <seerattn/seerattn.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace seerattn {

// ---- Enumerations ---------------------------------------------------------------------------------------------------

enum class Status : seer_status {
  ok = SEER_OK,
  not_ready = SEER_NOT_READY,
  timeout = SEER_TIMEOUT,
  invalid_argument = SEER_ERROR_INVALID_ARGUMENT,
  bad_struct = SEER_ERROR_STRUCT,
  bad_handle = SEER_ERROR_HANDLE,
  shape = SEER_ERROR_SHAPE,
  dtype = SEER_ERROR_DTYPE,
  stride = SEER_ERROR_STRIDE,
  memory_kind = SEER_ERROR_MEMORY_KIND,
  out_of_bounds = SEER_ERROR_OUT_OF_BOUNDS,
  unsupported = SEER_ERROR_UNSUPPORTED,
  out_of_memory = SEER_ERROR_OUT_OF_MEMORY,
  device_out_of_memory = SEER_ERROR_DEVICE_OUT_OF_MEMORY,
  device_lost = SEER_ERROR_DEVICE_LOST,
  cancelled = SEER_ERROR_CANCELLED,
  io = SEER_ERROR_IO,
  format = SEER_ERROR_FORMAT,
  unsafe_file = SEER_ERROR_UNSAFE_FILE,
  model_mismatch = SEER_ERROR_MODEL_MISMATCH,
  cache_state = SEER_ERROR_CACHE_STATE,
  busy = SEER_ERROR_BUSY,
  internal = SEER_ERROR_INTERNAL
};
enum class Backend : seer_backend {
  automatic = SEER_BACKEND_AUTO,
  cuda = SEER_BACKEND_CUDA,
  vulkan = SEER_BACKEND_VULKAN,
  cpu = SEER_BACKEND_CPU
};
enum class Dtype : seer_dtype {
  none = SEER_DTYPE_NONE,
  f32 = SEER_F32,
  f16 = SEER_F16,
  bf16 = SEER_BF16,
  i32 = SEER_I32,
  i64 = SEER_I64,
  u8 = SEER_U8,
  b32 = SEER_B32
};
enum class Method : seer_select_method {
  model = SEER_SELECT_MODEL,
  threshold = SEER_SELECT_THRESHOLD,
  ratio = SEER_SELECT_RATIO,
  budget = SEER_SELECT_BUDGET,
  all = SEER_SELECT_ALL
};
enum class RopeKind : seer_rope_kind {
  standard = SEER_ROPE_DEFAULT,
  none = SEER_ROPE_NONE,
  theta = SEER_ROPE_THETA,
  inv_freq = SEER_ROPE_INV_FREQ
};
enum class LogLevel : seer_log_level {
  off = SEER_LOG_OFF,
  error = SEER_LOG_ERROR,
  warn = SEER_LOG_WARN,
  info = SEER_LOG_INFO,
  debug = SEER_LOG_DEBUG
};

inline std::string_view name(Status status) noexcept { return seer_status_name(static_cast<seer_status>(status)); }
// SEER_VERSION of the library that runs, which may be newer than this header's.
inline std::uint32_t version() noexcept { return seer_version(); }

// ---- Errors ---------------------------------------------------------------------------------------------------------

// what() is "SEER_ERROR_SHAPE: " and the detail, which says what was found and what was expected.
class Error : public std::runtime_error {
public:
  Error(Status status, std::string_view detail)
      : std::runtime_error(std::string(name(status)).append(": ").append(detail)), status_(status) {}
  Status status() const noexcept { return status_; }

private:
  Status status_;
};

struct Failure {
  Status status = Status::ok;
  std::string detail = {};
  std::exception_ptr exception = {};  // of a progress callback

  [[noreturn]] void raise() const {
#if defined(__cpp_exceptions)
    if (exception) std::rethrow_exception(exception);
    throw Error(status, detail);
#else
    std::abort();
#endif
  }
};

// A value, or why there is none. value() throws what the call without try_ would have thrown.
template <class T>
class [[nodiscard]] Result {
public:
  Result(T value) : value_(std::move(value)) {}
  Result(Failure failure) : failure_(std::move(failure)) {}
  explicit operator bool() const noexcept { return value_.has_value(); }
  Status status() const noexcept { return failure_.status; }
  const std::string &detail() const noexcept { return failure_.detail; }
  Failure failure() && { return std::move(failure_); }
  T value() && {
    if (!value_) failure_.raise();
    return *std::move(value_);
  }
  T &value() & {
    if (!value_) failure_.raise();
    return *value_;
  }
  // Only where there is a value.
  T &operator*() noexcept { return *value_; }
  T *operator->() noexcept { return &*value_; }

private:
  Failure failure_;
  std::optional<T> value_;
};

template <>
class [[nodiscard]] Result<void> {
public:
  Result() = default;
  Result(Failure failure) : failure_(std::move(failure)) {}
  explicit operator bool() const noexcept { return failure_.status == Status::ok; }
  Status status() const noexcept { return failure_.status; }
  const std::string &detail() const noexcept { return failure_.detail; }
  Failure failure() && { return std::move(failure_); }
  void value() const {
    if (!*this) failure_.raise();
  }

private:
  Failure failure_;
};

namespace detail {

inline Failure failure(seer_status status) { return {static_cast<Status>(status), seer_last_error()}; }
inline Result<void> result(seer_status status) { return status == SEER_OK ? Result<void>() : failure(status); }
inline std::string utf8(const std::filesystem::path &path) {
  const std::u8string text = path.u8string();
  return {text.begin(), text.end()};
}

}  // namespace detail

// ---- Tensors --------------------------------------------------------------------------------------------------------

// The dtype of a C++ type. For a 16-bit type of your own:
//   template <> inline constexpr seerattn::Dtype seerattn::dtype_of<my::half> = seerattn::Dtype::f16;
template <class T>
inline constexpr Dtype dtype_of = Dtype::none;
template <>
inline constexpr Dtype dtype_of<float> = Dtype::f32;
template <>
inline constexpr Dtype dtype_of<std::int32_t> = Dtype::i32;
template <>
inline constexpr Dtype dtype_of<std::int64_t> = Dtype::i64;
template <>
inline constexpr Dtype dtype_of<std::uint8_t> = Dtype::u8;
template <>
inline constexpr Dtype dtype_of<std::uint32_t> = Dtype::b32;

// One to four extents or strides, in elements; none = absent (strides: packed).
class Shape {
public:
  constexpr Shape() = default;
  template <std::integral... I>
    requires(sizeof...(I) >= 1 && sizeof...(I) <= 4)
  constexpr Shape(I... extents) : count_(sizeof...(I)), extents_{static_cast<std::int64_t>(extents)...} {}
  // More than four are refused by the library, with the number it was given.
  explicit constexpr Shape(std::span<const std::int64_t> extents) : count_(extents.size()) {
    for (std::size_t i = 0; i < extents.size() && i < 4; i++) extents_[i] = extents[i];
  }
  constexpr std::size_t size() const noexcept { return count_; }
  constexpr std::int64_t operator[](std::size_t i) const noexcept { return extents_[i]; }

private:
  std::size_t count_ = 0;
  std::int64_t extents_[4] = {};
};

namespace detail {

// A range whose memory a view may keep: an lvalue, a span, but no temporary vector.
template <class R>
concept Elements = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> && std::ranges::borrowed_range<R> &&
                   dtype_of<std::ranges::range_value_t<R>> != Dtype::none;
template <class R>
concept WritableElements = Elements<R> && !std::is_const_v<std::remove_reference_t<std::ranges::range_reference_t<R>>>;

inline seer_tensor tensor(seer_mem mem, Dtype dtype, const Shape &shape, const Shape &strides) {
  seer_tensor t = {};
  t.mem = mem;
  t.dtype = static_cast<seer_dtype>(dtype);
  // Strides of another number than the extents are no tensor at all: 0 dimensions, which the library refuses.
  const std::size_t rank = strides.size() == 0 || strides.size() == shape.size() ? shape.size() : 0;
  t.ndim = static_cast<std::int32_t>(rank < 100 ? rank : 100);
  for (std::size_t i = 0; i < rank && i < 4; i++) {
    t.shape[i] = shape[i];
    if (strides.size() != 0) t.stride[i] = strides[i];
  }
  return t;
}

inline Shape shape_of(const seer_tensor &t) noexcept {
  const auto rank = static_cast<std::size_t>(t.ndim > 0 && t.ndim <= 4 ? t.ndim : 0);
  return Shape(std::span(t.shape, rank));
}

inline seer_tensor host(const void *data, std::size_t bytes, Dtype dtype, const Shape &shape, const Shape &strides) {
  seer_tensor t = tensor(SEER_MEM_HOST, dtype, shape, strides);
  t.data = const_cast<void *>(data);  // what is not written is made into Inputs only
  t.size = bytes;
  return t;
}

}  // namespace detail

// A view of memory that a call writes; absent if default-constructed. The library checks that shape and strides stay
// within the range given. Further memory (Vulkan) comes as a seer_tensor.
class Output {
public:
  Output() = default;
  explicit Output(const seer_tensor &tensor) : tensor_(tensor) {}
  template <detail::WritableElements R>
  Output(R &&elements, Shape shape, Shape strides = {})
      : Output(detail::host(std::ranges::data(elements),
                            std::ranges::size(elements) * sizeof(std::ranges::range_value_t<R>),
                            dtype_of<std::ranges::range_value_t<R>>, shape, strides)) {}
  // Elements whose type only the program's data tells.
  Output(Dtype dtype, std::span<std::byte> bytes, Shape shape, Shape strides = {})
      : Output(detail::host(bytes.data(), bytes.size(), dtype, shape, strides)) {}
  // CUDA device or managed memory, whose extent the driver knows.
  static Output cuda(void *address, Dtype dtype, Shape shape, Shape strides = {}) {
    seer_tensor t = detail::tensor(SEER_MEM_CUDA, dtype, shape, strides);
    t.data = address;
    return Output(t);
  }
  Dtype dtype() const noexcept { return static_cast<Dtype>(tensor_.dtype); }
  Shape shape() const noexcept { return detail::shape_of(tensor_); }
  const seer_tensor &get() const noexcept { return tensor_; }

private:
  seer_tensor tensor_ = {};
};

// A view of memory that a call only reads; absent if default-constructed. An Output serves as one.
class Input {
public:
  Input() = default;
  Input(const Output &tensor) : tensor_(tensor.get()) {}
  explicit Input(const seer_tensor &tensor) : tensor_(tensor) {}
  template <detail::Elements R>
  Input(R &&elements, Shape shape, Shape strides = {})
      : tensor_(detail::host(std::ranges::data(elements),
                             std::ranges::size(elements) * sizeof(std::ranges::range_value_t<R>),
                             dtype_of<std::ranges::range_value_t<R>>, shape, strides)) {}
  Input(Dtype dtype, std::span<const std::byte> bytes, Shape shape, Shape strides = {})
      : tensor_(detail::host(bytes.data(), bytes.size(), dtype, shape, strides)) {}
  static Input cuda(const void *address, Dtype dtype, Shape shape, Shape strides = {}) {
    return Output::cuda(const_cast<void *>(address), dtype, shape, strides);
  }
  Dtype dtype() const noexcept { return static_cast<Dtype>(tensor_.dtype); }
  Shape shape() const noexcept { return detail::shape_of(tensor_); }
  const seer_tensor &get() const noexcept { return tensor_; }

private:
  seer_tensor tensor_ = {};
};

// ---- Parameters -----------------------------------------------------------------------------------------------------

// How blocks are chosen: seer_select_spec.
struct Selection {
  Method method = Method::model;
  std::int32_t last_dense_rows = 0;
  double threshold = 0;
  double ratio = 0;
  std::int64_t token_budget = 0;
  bool keep_diagonal = false;
  bool keep_first = false;

  seer_select_spec get() const {
    seer_select_spec spec = {};
    spec.method = static_cast<seer_select_method>(method);
    spec.last_dense_rows = last_dense_rows;
    spec.threshold = threshold;
    spec.ratio = ratio;
    spec.token_budget = token_budget;
    if (keep_diagonal) spec.flags |= SEER_SELECT_KEEP_DIAGONAL;
    if (keep_first) spec.flags |= SEER_SELECT_KEEP_FIRST;
    return spec;
  }
};

// Rotary embedding: seer_rope. The frequencies are read during the call.
struct Rope {
  RopeKind kind = RopeKind::standard;
  double theta = 0;
  double attention_scaling = 0;
  std::span<const float> inv_freq = {};

  seer_rope get() const {
    seer_rope rope = {};
    rope.kind = static_cast<seer_rope_kind>(kind);
    rope.theta = theta;
    rope.attention_scaling = attention_scaling;
    rope.inv_freq = inv_freq.data();
    rope.inv_freq_count = static_cast<std::uint32_t>(inv_freq.size());
    return rope;
  }
};

// The sequences of a packed batch: one offset more than sequences, from 0, rising, to the number of tokens. An empty k
// is as q. Both empty: not packed.
struct Sequences {
  std::span<const std::int32_t> q = {};
  std::span<const std::int32_t> k = {};

  Result<seer_sequences> get() const {
    if (q.size() == 1 || (q.empty() && !k.empty()) || (!k.empty() && k.size() != q.size()))
      return Failure{Status::shape, "sequences have " + std::to_string(q.size()) + " offsets of q and " +
                                        std::to_string(k.size()) + " of k; expected as many, and two or more"};
    seer_sequences s = {};
    s.q = q.data();
    s.k = k.empty() ? nullptr : k.data();
    s.count = q.empty() ? 0 : static_cast<std::int32_t>(q.size() - 1);
    return s;
  }
};

// false cancels the work. May be called from several threads at once.
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

struct Stats : seer_stats {
  // Blocks kept over blocks of the causal triangle; 0 for a call that does not select.
  double density() const noexcept {
    return blocks_causal ? static_cast<double>(blocks_kept) / static_cast<double>(blocks_causal) : 0;
  }
};

}  // namespace seerattn
