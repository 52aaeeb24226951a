// Which instructions the *_simd kernels use. Include before any Highway header, and in every file that uses Highway.
#pragma once

// Kernels keep arrays of vectors in registers, which scalable vectors do not allow; SSSE3 machines without SSE4 are
// gone.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | HWY_SSSE3)

namespace seer::cpu {

// Detects the processor once and applies SEER_CPU_TARGET, an upper bound on what is used: "amx", "avx512", "avx2",
// "sse4", "neon" or "scalar". Unknown values and those beyond the machine leave its best. Every simd kernel calls this
// before it dispatches.
void simd_prepare();
// The same choice from a test; null = the machine's best. Not while kernels run.
void simd_limit(const char *target);
// Whether attend may use AMX tiles: the processor has them, the system lets this process use them, no limit is below.
bool simd_amx();

}  // namespace seer::cpu
