// Times and statistics of a call. Where the queue has time stamps they are the device's, and nothing waits for the
// device before the call's end; elsewhere each mark waits, and looks at the clock.
#include "device.h"
#include "dispatch.h"

namespace seer::vulkan {
namespace {

constexpr uint32_t kQueries = 64;

using Clock = std::chrono::steady_clock;

uint64_t ns_between(Clock::time_point from, Clock::time_point to) {
  return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(to - from).count());
}

}  // namespace

class Recorder::PendingVulkan final : public PendingCall {
public:
  PendingVulkan(Recorder &recorder, uint64_t submission, bool stats)
      : recorder_(recorder), submission_(submission), stats_(stats) {}
  ~PendingVulkan() override {
    try {
      wait();
    } catch (const std::exception &) {  // who waits next is told of a lost device
    }
  }
  CallResult wait() override {
    if (!waited_) {
      waited_ = true;
      result_ = recorder_.finish_call(submission_, stats_);
    }
    return result_;
  }

private:
  Recorder &recorder_;
  const uint64_t submission_;
  const bool stats_;
  bool waited_ = false;
  CallResult result_;
};

void Recorder::begin_call() {
  times_ = {};
  times_.start = Clock::now();
  stamp(CallTimes::What::begin);
}

void Recorder::stamp(seer::Mark mark) {
  switch (mark) {
    case seer::Mark::gate_begin: return stamp(CallTimes::What::gate_begin);
    case seer::Mark::gate_end: return stamp(CallTimes::What::gate_end);
    case seer::Mark::attend_begin: return stamp(CallTimes::What::attend_begin);
    case seer::Mark::attend_end: return stamp(CallTimes::What::attend_end);
  }
}

void Recorder::stamp(CallTimes::What what) {
  using What = CallTimes::What;
  if (!device_.timestamp_mask) {
    if (what == What::begin) return;
    if (what == What::gate_end || what == What::attend_end) wait();
    const Clock::time_point now = Clock::now();
    if (what == What::gate_end) times_.gate_ns += ns_between(times_.marked, now);
    if (what == What::attend_end) times_.attend_ns += ns_between(times_.marked, now);
    times_.marked = now;
    return;
  }
  const DeviceFunctions &fn = device_.fn;
  if (!queries_) {
    VkQueryPoolCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
    info.queryType = VK_QUERY_TYPE_TIMESTAMP;
    info.queryCount = kQueries;
    device_.check(fn.vkCreateQueryPool(device_.handle, &info, device_.allocation, &queries_), "vkCreateQueryPool");
  }
  // Pairs stay together: a call of many groups of sequences has more stamps than there are queries.
  if ((what == What::gate_begin || what == What::attend_begin) && times_.stamps.size() + 3 > kQueries) {
    wait();
    collect_stamps();
  }
  Slot &slot = current();
  const auto query = uint32_t(times_.stamps.size());
  times_.stamps.push_back(what);
  fn.vkCmdResetQueryPool(slot.commands, queries_, query, 1);
  fn.vkCmdWriteTimestamp(slot.commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries_, query);
}

// Of work that is done.
void Recorder::collect_stamps() {
  using What = CallTimes::What;
  std::vector<uint64_t> ticks(times_.stamps.size());
  if (ticks.empty()) return;
  device_.check(device_.fn.vkGetQueryPoolResults(device_.handle, queries_, 0, uint32_t(ticks.size()),
                                                 ticks.size() * sizeof ticks[0], ticks.data(), sizeof ticks[0],
                                                 VK_QUERY_RESULT_64_BIT),
                "vkGetQueryPoolResults");
  const auto ns = [&](uint64_t from, uint64_t to) {
    return uint64_t(double((to - from) & device_.timestamp_mask) * device_.caps.timestamp_ns);
  };
  uint64_t marked = 0;
  for (size_t i = 0; i < ticks.size(); i++) switch (times_.stamps[i]) {
      case What::begin: times_.first = ticks[i]; break;
      case What::gate_begin:
      case What::attend_begin: marked = ticks[i]; break;
      case What::gate_end: times_.gate_ns += ns(marked, ticks[i]); break;
      case What::attend_end: times_.attend_ns += ns(marked, ticks[i]); break;
      case What::end: times_.device_ns = ns(times_.first, ticks[i]); break;
    }
  times_.stamps.clear();
}

std::unique_ptr<PendingCall> Recorder::end_call(const SelectStats *stats) {
  if (stats) {
    if (!stats_.buffer) stats_ = make_host_buffer(device_, sizeof *stats, true);
    copy(stats, {.buffer = stats_.buffer, .offset = 0, .range = sizeof *stats}, sizeof *stats);
  }
  stamp(CallTimes::What::end);
  return std::make_unique<PendingVulkan>(*this, submit(), stats != nullptr);
}

CallResult Recorder::finish_call(uint64_t submission, bool stats) {
  wait(submission, UINT64_MAX);
  CallResult result;
  if (stats) std::memcpy(&result.select, stats_.mapped, sizeof result.select);
  if (!device_.timestamp_mask) times_.device_ns = ns_between(times_.start, Clock::now());
  collect_stamps();
  result.device_ns = times_.device_ns;
  result.gate_ns = times_.gate_ns;
  result.attend_ns = times_.attend_ns;
  recycle();
  device_.save();  // a program may end without releasing anything
  return result;
}

}  // namespace seer::vulkan
