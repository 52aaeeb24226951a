#include "staging.h"

#include <algorithm>
#include <cstring>

#include "views.h"

namespace seer {
namespace {

constexpr int64_t kBounce = int64_t{4} << 20;  // bytes of the host's side of a strided copy

// A tensor as rows of contiguous bytes, in the order of its packed form.
class Rows {
public:
  explicit Rows(const Tensor &t) : tensor_(t) {
    const int64_t element = element_size(t.dtype);
    // Dimensions from the last one on that lie as if packed make one row.
    int64_t run = 1;
    outer_ = t.ndim;
    while (outer_ > 0 && (t.shape[outer_ - 1] == 1 || t.stride[outer_ - 1] == run)) run *= t.shape[--outer_];
    row_bytes_ = run * element;
    for (int d = 0; d < outer_; d++) count_ *= t.shape[d];
  }

  int64_t count() const { return count_; }
  int64_t row_bytes() const { return row_bytes_; }
  char *row(int64_t index) const {
    int64_t offset = 0;
    for (int d = outer_ - 1; d >= 0; d--) {
      offset += index % tensor_.shape[d] * tensor_.stride[d];
      index /= tensor_.shape[d];
    }
    return static_cast<char *>(tensor_.data) + offset * element_size(tensor_.dtype);
  }

private:
  const Tensor &tensor_;
  int outer_ = 0;
  int64_t count_ = 1, row_bytes_ = 0;
};

// Copies a tensor's elements to or from packed device memory, a bounce buffer full at a time. A row longer than the
// buffer, as the one row of a packed tensor, needs none.
void copy(Device &device, const Exec &exec, const Tensor &host, const Memory &memory, bool to_device) {
  const BackendFns &fns = *device.fns;
  const Rows rows(host);
  const int64_t bytes = rows.row_bytes(), batch = std::max<int64_t>(1, kBounce / bytes);
  std::vector<char> bounce;
  for (int64_t first = 0; first < rows.count(); first += batch) {
    exec.check_cancelled();
    const int64_t n = std::min(batch, rows.count() - first);
    const auto offset = static_cast<uint64_t>(first * bytes), size = static_cast<uint64_t>(n * bytes);
    if (n == 1) {
      if (to_device)
        fns.write(device, memory, offset, rows.row(first), size);
      else
        fns.read(device, memory, offset, rows.row(first), size);
      continue;
    }
    bounce.resize(size);
    if (!to_device) fns.read(device, memory, offset, bounce.data(), size);
    for (int64_t i = 0; i < n; i++) {
      char *packed = bounce.data() + i * bytes;
      if (to_device)
        std::memcpy(packed, rows.row(first + i), size_t(bytes));
      else
        std::memcpy(rows.row(first + i), packed, size_t(bytes));
    }
    if (to_device) fns.write(device, memory, offset, bounce.data(), size);
  }
}

}  // namespace

Staging::Staging(Device &device, Exec &exec, std::span<const HostTensor> host) : device_(device), exec_(exec) {
  copies_.reserve(host.size());
  try {
    for (const HostTensor &h : host) {
      Copy c{.host = &h, .device = h.tensor, .memory = {}};
      std::fill_n(c.device.stride, 4, 0);
      pack_strides(c.device);
      const auto bytes = uint64_t(c.device.extent_bytes());
      const bool packed = Rows(h.tensor).count() == 1;
      if (packed && device.fns->in_place) c.memory = device.fns->in_place(device, h.tensor.data, bytes);
      c.copied = c.memory.size == 0;
      if (c.copied) c.memory = device.fns->alloc(device, bytes);
      c.device.data = c.memory.address;
      copies_.push_back(c);
      if (c.copied && !h.output) copy(device, exec, h.tensor, c.memory, true);
    }
  } catch (...) {
    free_all();
    throw;
  }
}

Staging::~Staging() { free_all(); }

void Staging::free_all() noexcept {
  if (copies_.empty()) return;
  complete(device_, exec_.stream);  // a call that failed may have left work that uses them
  for (const Copy &c : copies_) device_.fns->free(device_, c.memory);
}

const Tensor *Staging::find(TensorRole role) const {
  for (const Copy &c : copies_)
    if (c.host->role == role) return &c.device;
  return nullptr;
}

void Staging::place(GateCall &call) const {
  if (const Tensor *t = find(TensorRole::q)) call.q = token_view(*t);
  if (const Tensor *t = find(TensorRole::k)) call.k = token_view(*t);
  if (const Tensor *t = find(TensorRole::scores)) call.scores = scores_view(*t);
  if (const Tensor *t = find(TensorRole::mask)) set_mask(*t, call.mask, call.mask_bytes);
}

void Staging::place(AttendCall &call) const {
  if (const Tensor *t = find(TensorRole::q)) call.q = token_view(*t);
  if (const Tensor *t = find(TensorRole::k)) call.k = token_view(*t);
  if (const Tensor *t = find(TensorRole::v)) call.v = token_view(*t);
  if (const Tensor *t = find(TensorRole::out)) call.out = token_view(*t);
  if (const Tensor *t = find(TensorRole::lse)) call.lse = lse_view(*t);
  if (const Tensor *t = find(TensorRole::mask)) set_mask(*t, call.mask, call.mask_bytes);
}

void Staging::place(SelectCall &call) const {
  if (const Tensor *t = find(TensorRole::scores)) call.scores = scores_view(*t);
  if (const Tensor *t = find(TensorRole::mask)) set_mask(*t, call.mask, call.mask_bytes);
}

void Staging::finish() {
  for (const Copy &c : copies_)
    if (c.copied && c.host->output) copy(device_, exec_, c.host->tensor, c.memory, false);
}

}  // namespace seer
