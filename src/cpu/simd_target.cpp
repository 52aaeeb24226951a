#include "simd_target.h"

#include <hwy/highway.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "attend_amx.h"
#include "kernels.h"

namespace seer::cpu {
namespace {

std::once_flag once;
std::atomic<bool> amx{false};

struct Level {
  const char *name;
  int64_t best_target;  // Highway's bits fall as targets get better
};
constexpr Level kLevels[] = {
    {"avx512", HWY_AVX3_DL}, {"avx2", HWY_AVX2}, {"sse4", HWY_SSE4}, {"neon", HWY_NEON}, {"scalar", HWY_EMU128}};

void apply(const char *name) {
  hwy::SetSupportedTargetsForTest(0);
  amx.store(attend_amx_usable(), std::memory_order_relaxed);
  if (!name || !*name || std::strcmp(name, "amx") == 0) return;
  for (const Level &level : kLevels) {
    if (std::strcmp(name, level.name) != 0) continue;
    const int64_t allowed = hwy::SupportedTargets() & ~(level.best_target - 1);
    if (allowed) hwy::SetSupportedTargetsForTest(allowed);
    amx.store(false, std::memory_order_relaxed);
  }
}

}  // namespace

void simd_prepare() {
  std::call_once(once, [] { apply(std::getenv("SEER_CPU_TARGET")); });
}
void simd_limit(const char *target) {
  simd_prepare();
  apply(target);
}
bool simd_amx() {
  simd_prepare();
  return amx.load(std::memory_order_relaxed);
}

const char *simd_target() {
  simd_prepare();
  if (simd_amx()) return "AMX";
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(targets & -targets);
}

}  // namespace seer::cpu
