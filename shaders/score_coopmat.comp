#version 460
// score on VK_KHR_cooperative_matrix, for select: logits as score.comp, of vectors that score_split.comp has taken apart,
// as high high + high low + low high in f16 with f32 sums. A logit is off by some 2^-21 of |q_i| |k_j| / sqrt(dim).
//
// A tile of ROWS x COLS logits; each of its subgroups has SUB_ROWS x SUB_COLS of them in accumulators. DEPTH channels at
// a time go through shared memory, the next ones on their way to registers meanwhile. Tiles with a vector that has a NaN
// or an infinity are computed one by one from the vectors as they are.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma use_vulkan_memory_model
#include "args.h"
#include "causal.glsl"
#include "item.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint SIZE = 32;  // of a subgroup
layout(constant_id = 2) const uint M = 16;
layout(constant_id = 3) const uint N = 16;
layout(constant_id = 4) const uint K = 16;
layout(constant_id = 5) const uint ROWS = 64;
layout(constant_id = 6) const uint COLS = 128;
layout(constant_id = 7) const uint SUB_ROWS = 32;  // a multiple of M
layout(constant_id = 8) const uint SUB_COLS = 64;  // a multiple of N
layout(constant_id = 9) const uint DEPTH = 32;     // a multiple of K and 8

layout(push_constant) uniform Push { ScoreSplitPush p; };
layout(binding = 0) readonly buffer Q { float q[]; };
layout(binding = 1) readonly buffer Keys { float k[]; };
layout(binding = 2) writeonly buffer Scores { float scores[]; };
layout(binding = 3) readonly buffer SplitQ { uvec4 split_q[]; };
layout(binding = 4) readonly buffer SplitK { uvec4 split_k[]; };
layout(binding = 3) readonly buffer PowersQ { float powers_q[]; };
layout(binding = 4) readonly buffer PowersK { float powers_k[]; };

const uint SUBGROUPS = THREADS / SIZE, ACROSS = COLS / SUB_COLS;  // subgroups along the columns
const uint R = SUB_ROWS / M, C = SUB_COLS / N;                    // matrices of a subgroup
const uint CHUNKS = DEPTH / 8;                                    // 16 bytes each, of a row of a slice
const uint STRIDE = CHUNKS + 1;
const uint Q_LOADS = 2 * ROWS * CHUNKS / THREADS, K_LOADS = 2 * COLS * CHUNKS / THREADS;
const uint LINES = THREADS / CHUNKS;  // rows that are loaded at once
// Where the parts begin in shared memory, and the logits of M rows of each subgroup afterwards.
const uint Q_HIGH = 0, Q_LOW = ROWS * STRIDE, K_HIGH = 2 * ROWS * STRIDE, K_LOW = K_HIGH + COLS * STRIDE;
const uint PATCH_STRIDE = SUB_COLS / 4 + 1, PATCH = M * PATCH_STRIDE;
const uint SLICES = (2 * ROWS + 2 * COLS) * STRIDE, PATCHES = SUBGROUPS * PATCH;

shared uvec4 tile[SLICES > PATCHES ? SLICES : PATCHES];
shared uint special;

#define ACC coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define MAT_A coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define MAT_B coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

uint thread() { return gl_SubgroupID * SIZE + gl_SubgroupInvocationID; }

struct Place {
  uint row0, col0, rows, cols;  // of the tile in the call's windows, and what of it there is
  uint score_head, head, k_head;
};

float logit_of_vectors(Place at, uint row, uint col) {
  const uint q_base = p.q_skip / 4 + ((at.row0 + row) * p.q_heads + at.head) * p.dim;
  const uint k_base = p.k_skip / 4 + ((at.col0 + col) * p.k_heads + at.k_head) * p.dim;
  float dot = 0.0;
  [[dont_unroll]] for (uint d = 0; d < p.dim; d++) dot = fma(q[q_base + d], k[k_base + d], dot);
  return dot * p.scale;
}

void put(Place at, uint row, uint col, float logit) {
  const uint r = at.row0 + row, c = at.col0 + col;
  if (row < at.rows && col < at.cols && c < causal_blocks(p.row + r, p.q_len, p.offset, p.block))
    scores[p.scores_skip / 4 + at.score_head * p.scores_head + r * p.scores_row + c] = logit;
}

void multiply(Place at) {
  const uint own = gl_SubgroupID, own_row = own / ACROSS * SUB_ROWS, own_col = own % ACROSS * SUB_COLS;
  const uint chunk = thread() % CHUNKS, line = thread() / CHUNKS;
  const uint vector = p.dim / 4;  // 16 bytes each: dim / 8 of high parts, dim / 8 of low ones
  const uint q_base = p.split_q_skip / 16 + (at.row0 * p.q_heads + at.head) * vector + chunk;
  const uint k_base = p.split_k_skip / 16 + (at.col0 * p.k_heads + at.k_head) * vector + chunk;
  const uint q_row = p.q_heads * vector, k_row = p.k_heads * vector;

  ACC sums[R][C];
  [[unroll]] for (uint i = 0; i < R; i++)
    [[unroll]] for (uint j = 0; j < C; j++) sums[i][j] = ACC(0.0);

  uvec4 q_ahead[Q_LOADS], k_ahead[K_LOADS];
  for (uint d0 = 0; d0 < p.dim + DEPTH; d0 += DEPTH) {
    if (d0 > 0) {
      barrier();  // the slice before is read
      [[unroll]] for (uint n = 0; n < Q_LOADS; n++) tile[Q_HIGH + (line + n * LINES) * STRIDE + chunk] = q_ahead[n];
      [[unroll]] for (uint n = 0; n < K_LOADS; n++) tile[K_HIGH + (line + n * LINES) * STRIDE + chunk] = k_ahead[n];
      barrier();
    }
    if (d0 < p.dim) {
      [[unroll]] for (uint n = 0; n < Q_LOADS; n++) {
        const uint x = line + n * LINES, row = x % ROWS, part = x / ROWS * (p.dim / 8);
        q_ahead[n] = row < at.rows ? split_q[q_base + row * q_row + part + d0 / 8] : uvec4(0);
      }
      [[unroll]] for (uint n = 0; n < K_LOADS; n++) {
        const uint x = line + n * LINES, row = x % COLS, part = x / COLS * (p.dim / 8);
        k_ahead[n] = row < at.cols ? split_k[k_base + row * k_row + part + d0 / 8] : uvec4(0);
      }
    }
    if (d0 == 0) continue;
    [[unroll]] for (uint d = 0; d < DEPTH / K; d++) {
      MAT_A high[R], low[R];
      [[unroll]] for (uint i = 0; i < R; i++) {
        const uint a = (own_row + i * M) * STRIDE + d * K / 8;
        coopMatLoad(high[i], tile, Q_HIGH + a, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(low[i], tile, Q_LOW + a, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      }
      [[unroll]] for (uint j = 0; j < C; j++) {
        const uint b = (own_col + j * N) * STRIDE + d * K / 8;
        MAT_B other;
        coopMatLoad(other, tile, K_LOW + b, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint i = 0; i < R; i++) sums[i][j] = coopMatMulAdd(high[i], other, sums[i][j]);
        coopMatLoad(other, tile, K_HIGH + b, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint i = 0; i < R; i++) sums[i][j] = coopMatMulAdd(low[i], other, sums[i][j]);
        [[unroll]] for (uint i = 0; i < R; i++) sums[i][j] = coopMatMulAdd(high[i], other, sums[i][j]);
      }
    }
  }

  const uint area = own * PATCH;
  const uint q_power = p.powers_q + at.row0 * p.q_heads + at.head, k_power = p.powers_k + at.col0 * p.k_heads + at.k_head;
  [[unroll]] for (uint i = 0; i < R; i++) {
    barrier();  // the slice, or the patch before, is read
    [[unroll]] for (uint j = 0; j < C; j++)
      coopMatStore(sums[i][j], tile, area + j * N / 4, PATCH_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
    barrier();
    [[unroll]] for (uint x0 = 0; x0 < M * SUB_COLS; x0 += SIZE) {
      const uint x = x0 + gl_SubgroupInvocationID, r = x / SUB_COLS, c = x % SUB_COLS;
      const uint row = own_row + i * M + r, col = own_col + c;
      if (row >= at.rows || col >= at.cols) continue;
      const float sum = uintBitsToFloat(tile[area + r * PATCH_STRIDE + c / 4][c % 4]);
      const float power = powers_q[q_power + row * p.q_heads];
      put(at, row, col, sum * power * powers_k[k_power + col * p.k_heads] * p.scale);
    }
  }
}

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  Place at;
  at.col0 = item % p.col_tiles * COLS;
  at.row0 = item / p.col_tiles % p.row_tiles * ROWS;
  at.score_head = item / p.col_tiles / p.row_tiles;
  at.head = p.head + at.score_head;
  at.k_head = at.head * p.k_heads / p.q_heads;
  at.rows = min(ROWS, p.rows - at.row0);
  const uint seen = causal_blocks(p.row + at.row0 + at.rows - 1, p.q_len, p.offset, p.block);  // by any of the rows
  if (at.col0 >= seen) return;
  at.cols = min(COLS, min(seen, p.cols) - at.col0);

  if (thread() == 0) special = 0;
  barrier();
  const uint nan = 0x7fc00000u;
  for (uint r = thread(); r < at.rows; r += THREADS)
    if (floatBitsToUint(powers_q[p.powers_q + (at.row0 + r) * p.q_heads + at.head]) == nan) special = 1;
  for (uint c = thread(); c < at.cols; c += THREADS)
    if (floatBitsToUint(powers_k[p.powers_k + (at.col0 + c) * p.k_heads + at.k_head]) == nan) special = 1;
  barrier();
  // A vote: what follows must not look divergent to a compiler (attend_flexible.comp).
  if (subgroupAll(special == 0)) {
    multiply(at);
  } else {
    [[dont_unroll]] for (uint x = thread(); x < ROWS * COLS; x += THREADS)
      if (x / COLS < at.rows && x % COLS < at.cols) put(at, x / COLS, x % COLS, logit_of_vectors(at, x / COLS, x % COLS));
  }
}
