// One signature per stage, and every implementation of it: *_ref (plain, f32, the oracle) and the vectorised ones.
// `ls src/cpu/attend*` lists them all.
#pragma once
#include "../backend.h"
#include "thread_pool.h"

namespace seer::cpu {

struct Workers {
  ThreadPool &pool;
  Exec &exec;
};

#define SEER_CPU_KERNELS(variant)                         \
  void pool_##variant(Workers &, const PoolArgs &);       \
  void project_##variant(Workers &, const ProjectArgs &); \
  void score_##variant(Workers &, const ScoreArgs &);     \
  void select_##variant(Workers &, const SelectArgs &);   \
  void attend_##variant(Workers &, const AttendArgs &);

// Bytes that attend_simd wants at args.scratch, for the sizes of args, on `workers` threads.
uint64_t attend_simd_scratch(const AttendArgs &args, int workers);

SEER_CPU_KERNELS(ref)   // single-threaded
SEER_CPU_KERNELS(simd)  // Highway, run-time dispatch, all threads

const char *simd_target();  // "AVX3_SPR", ...: what the simd kernels dispatch to here

}  // namespace seer::cpu
