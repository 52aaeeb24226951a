// attend for bf16 on processors with AMX tiles (x86-64, Sapphire Rapids and later).
#pragma once
#include "attend_tiles.h"

namespace seer::cpu {

// Whether this processor has AMX for bf16 and the system grants it to this process, which this asks for.
bool attend_amx_usable();
// Needs attend_amx_usable(), bf16 tensors and a head dim up to kMaxTileDim. Rotated q and k and the probabilities are
// rounded to bf16; sums are f32.
AttendKernel attend_amx_kernel(const AttendArgs &);

}  // namespace seer::cpu
