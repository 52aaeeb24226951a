// What kernels are chosen by, for the most part: the form of a call, not its lengths but their magnitude.
#pragma once
#include <cstdint>
#include <vector>

#include "pipeline.h"

namespace seer {

using CallKind = std::vector<int64_t>;
CallKind gate_kind(const GateCall &call);
CallKind attend_kind(const AttendCall &call);
CallKind prefill_kind(const GateCall &gate, const AttendCall &attend);
CallKind select_kind(const SelectCall &call);

}  // namespace seer
