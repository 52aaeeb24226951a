#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// score: logits = scale <q_i, k_j> of a tile of block rows and key blocks, of those within the causal triangle.
//
// A thread computes 4 rows by 8 columns, kScoreTile / 4 and / 8 apart. The tiles lie in shared memory as vec4 along the
// channels, with a vec4 of padding a row: columns that neighbouring threads read are then in different banks.
#include "args.h"
#include "causal.glsl"
#include "item.glsl"

layout(local_size_x = kScoreThreads) in;
layout(constant_id = 0) const uint BY_FOUR = 0;

layout(push_constant) uniform Push { ScorePush p; };
layout(binding = kScoreQ) restrict readonly buffer Q { float q[]; };
layout(binding = kScoreQ) restrict readonly buffer Q4 { vec4 q4[]; };
layout(binding = kScoreK) restrict readonly buffer K { float k[]; };
layout(binding = kScoreK) restrict readonly buffer K4 { vec4 k4[]; };
layout(binding = kScoreScores) restrict writeonly buffer Scores { float scores[]; };

const uint STRIDE = kScoreDepth / 4 + 1;  // vec4 of a row
const uint COLUMN_THREADS = 8, ROW_THREADS = kScoreThreads / COLUMN_THREADS;

shared vec4 q_tile[kScoreTile * STRIDE];
shared vec4 k_tile[kScoreTile * STRIDE];

vec4 load_q(uint base, uint d) {
  if (BY_FOUR != 0) return d < p.dim ? q4[(base + d) / 4] : vec4(0.0);
  vec4 v = vec4(0.0);
  [[unroll]] for (uint c = 0; c < 4; c++)
    if (d + c < p.dim) v[c] = q[base + d + c];
  return v;
}
vec4 load_k(uint base, uint d) {
  if (BY_FOUR != 0) return d < p.dim ? k4[(base + d) / 4] : vec4(0.0);
  vec4 v = vec4(0.0);
  [[unroll]] for (uint c = 0; c < 4; c++)
    if (d + c < p.dim) v[c] = k[base + d + c];
  return v;
}

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  const uint thread = gl_LocalInvocationID.x, tx = thread % COLUMN_THREADS, ty = thread / COLUMN_THREADS;
  const uint col0 = item % p.col_tiles * kScoreTile;  // from p.col on
  const uint row0 = item / p.col_tiles % p.row_tiles * kScoreTile;
  const uint score_head = item / p.col_tiles / p.row_tiles;
  const uint head = p.head + score_head, k_head = head * p.k_heads / p.q_heads;
  const uint last_row = min(row0 + kScoreTile, p.rows) - 1;
  const uint seen_cols = causal_blocks(p.row + last_row, p.q_len, p.offset, p.block);  // by any of the rows
  const bool seen = p.col + col0 < seen_cols;
  if (!seen && p.fill == 0) return;

  float dots[4][8];
  [[unroll]] for (uint i = 0; i < 4; i++)
    [[unroll]] for (uint j = 0; j < 8; j++) dots[i][j] = 0.0;

  if (seen) {
    const uint q_base = p.q_skip / 4 + head * p.dim, k_base = p.k_skip / 4 + k_head * p.dim;
    for (uint d0 = 0; d0 < p.dim; d0 += kScoreDepth) {
      barrier();  // the tiles before are read
      [[unroll]] for (uint n = 0; n < kScoreTile * kScoreDepth / 4; n += kScoreThreads) {
        const uint row = (n + thread) / (kScoreDepth / 4), d4 = (n + thread) % (kScoreDepth / 4);
        q_tile[row * STRIDE + d4] =
            row0 + row < p.rows ? load_q(q_base + (row0 + row) * p.q_heads * p.dim, d0 + 4 * d4) : vec4(0.0);
        k_tile[row * STRIDE + d4] =
            p.col + col0 + row < seen_cols && col0 + row < p.cols ? load_k(k_base + (col0 + row) * p.k_heads * p.dim, d0 + 4 * d4) : vec4(0.0);
      }
      barrier();
      [[unroll]] for (uint d4 = 0; d4 < kScoreDepth / 4; d4++) {
        vec4 a[4];
        [[unroll]] for (uint i = 0; i < 4; i++) a[i] = q_tile[(ty + i * ROW_THREADS) * STRIDE + d4];
        [[unroll]] for (uint j = 0; j < 8; j++) {
          const vec4 b = k_tile[(tx + j * COLUMN_THREADS) * STRIDE + d4];
          [[unroll]] for (uint i = 0; i < 4; i++)
            dots[i][j] = fma(a[i].w, b.w, fma(a[i].z, b.z, fma(a[i].y, b.y, fma(a[i].x, b.x, dots[i][j]))));
        }
      }
    }
  }
  [[unroll]] for (uint i = 0; i < 4; i++) {
    const uint row = row0 + ty + i * ROW_THREADS;
    if (row >= p.rows) continue;
    const uint causal = causal_blocks(p.row + row, p.q_len, p.offset, p.block);
    const uint base = p.scores_skip / 4 + score_head * p.scores_head + row * p.scores_row;
    [[unroll]] for (uint j = 0; j < 8; j++) {
      const uint col = col0 + tx + j * COLUMN_THREADS;
      if (col >= p.cols) continue;
      if (p.col + col < causal)
        scores[base + col] = dots[i][j] * p.scale;
      else if (p.fill != 0)
        scores[base + col] = uintBitsToFloat(0xff800000u);
    }
  }
}
