// Weak stand-ins: while a vectorised stage is missing, its reference runs. Goes away with the last of them.
#include "kernels.h"

namespace seer::cpu {

[[gnu::weak]] void pool_simd(Workers &w, const PoolArgs &a) { pool_ref(w, a); }
[[gnu::weak]] void project_simd(Workers &w, const ProjectArgs &a) { project_ref(w, a); }
[[gnu::weak]] void score_simd(Workers &w, const ScoreArgs &a) { score_ref(w, a); }
[[gnu::weak]] void select_simd(Workers &w, const SelectArgs &a) { select_ref(w, a); }
[[gnu::weak]] void attend_simd(Workers &w, const AttendArgs &a) { attend_ref(w, a); }
[[gnu::weak]] const char *simd_target() { return "reference"; }

}  // namespace seer::cpu
