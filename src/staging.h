// Host tensors on a device whose memory is not the host's: used where they lie if the device can do that and they are
// packed, else copied there before a call, packed on the way, and its outputs back after it. Correct, not fast: callers
// who want speed keep their tensors in buffers.
#pragma once
#include <span>
#include <vector>

#include "pipeline.h"

namespace seer {

// The device's copies of a call's host tensors, for the life of the call. Of host memory, only bytes of elements are
// read and written: the gaps between them are not this library's.
class Staging {
public:
  // Copies inputs. `host` must outlive this.
  Staging(Device &device, Exec &exec, std::span<const HostTensor> host);
  ~Staging();
  Staging(const Staging &) = delete;
  Staging &operator=(const Staging &) = delete;

  // Points the call's views to the copies.
  void place(GateCall &call) const;
  void place(AttendCall &call) const;
  void place(SelectCall &call) const;

  // Copies outputs, once the call's work is recorded. Not called for a call that failed.
  void finish();

private:
  struct Copy {
    const HostTensor *host;
    Tensor device;  // packed
    Memory memory;
    bool copied = true;
  };
  const Tensor *find(TensorRole role) const;
  void free_all() noexcept;

  Device &device_;
  Exec &exec_;
  std::vector<Copy> copies_;
};

}  // namespace seer
