#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// project: gate = rope(pooled W), a matrix product per head.
//
// A tile has the two channels of each RoPE pair, so that the rotation happens in registers. A thread computes ROWS_OF
// rows by 4 pairs; both tiles lie in shared memory as vec4, pooled along its channels with a vec4 of padding a row, W along its
// columns. While one slice of the channels is used the next one is on its way to registers.
#include "args.h"
#include "elements.glsl"
#include "item.glsl"

layout(local_size_x = kProjectThreads) in;
layout(constant_id = 0) const uint DTYPE = kDTypeF32;
layout(constant_id = 1) const uint BY_FOUR = 0;
layout(constant_id = 2) const uint ROTATE = 1;
layout(constant_id = 3) const uint PAIRS = 64;
layout(constant_id = 4) const uint MATRIX_BY_FOUR = 0;
layout(constant_id = 5) const uint ROWS_OF = 8;  // a thread's

layout(push_constant) uniform Push { ProjectPush p; };
layout(binding = kProjectPooled) restrict readonly buffer Pooled { float pooled[]; };
layout(binding = kProjectPooled) restrict readonly buffer Pooled4 { vec4 pooled4[]; };
layout(binding = kProjectWeight) restrict readonly buffer Weight { uint weight[]; };
layout(binding = kProjectWeight) restrict readonly buffer Weight2 { uvec2 weight2[]; };
layout(binding = kProjectWeight) restrict readonly buffer Weight4 { vec4 weight4[]; };
layout(binding = kProjectGate) restrict writeonly buffer Gate { float gate[]; };
layout(binding = kProjectTable) restrict readonly buffer Table { vec2 rope_table[]; };
#include "rope.glsl"

const uint QUADS = kProjectDepth / 4;     // of a row of pooled, in a slice of the channels
const uint A_STRIDE = QUADS + 1;          // vec4 of a row
const uint PAIR_THREADS = PAIRS / 4;      // threads along the pairs
const uint W_STRIDE = 2 * PAIR_THREADS;   // vec4 of a row: the first channels of the pairs, then the second ones
const uint ROW_THREADS = kProjectThreads / PAIR_THREADS;
const uint ROWS = ROWS_OF * ROW_THREADS;
const uint A_LOADS = ROWS * QUADS / kProjectThreads, W_LOADS = kProjectDepth * W_STRIDE / kProjectThreads;

shared vec4 a_tile[ROWS * A_STRIDE];
shared vec4 w_tile[kProjectDepth * W_STRIDE];

// Pooled channels i .. i + 3 of a row, 0 beyond the row's end.
vec4 load_pooled(uint base, uint i) {
  if (BY_FOUR != 0) return i < p.in_dim ? pooled4[(base + i) / 4] : vec4(0.0);
  vec4 v = vec4(0.0);
  [[unroll]] for (uint c = 0; c < 4; c++)
    if (i + c < p.in_dim) v[c] = pooled[base + i + c];
  return v;
}

float load_weight(uint e) {
  if (DTYPE == kDTypeF32) return uintBitsToFloat(weight[e]);
  const vec2 pair = widen_pair(DTYPE, weight[e / 2]);
  return (e & 1) == 0 ? pair.x : pair.y;
}

// Elements e .. e + 3 of the matrix, e a multiple of 4.
vec4 load_weights(uint e) {
  if (DTYPE == kDTypeF32) return weight4[e / 4];
  const uvec2 words = weight2[e / 4];
  return vec4(widen_pair(DTYPE, words.x), widen_pair(DTYPE, words.y));
}

void store_pair(uint row, uint head, uint pair, float a, float b) {
  const uint base = p.gate_skip / 4 + (row * p.gate_heads + head) * p.out_dim + pair;
  if (ROTATE != 0) {
    const vec2 t = rope_turn(p.table_skip, p.half_dim, p.position + row, pair);
    gate[base] = a * t.x - b * t.y;
    gate[base + p.half_dim] = b * t.x + a * t.y;
  } else {
    gate[base] = a;
    if (p.half_dim + pair < p.out_dim) gate[base + p.half_dim] = b;
  }
}

uint pooled_base(uint row, uint head) {
  const uint pooled_head = head * p.pooled_heads / p.gate_heads;
  return p.pooled_skip / 4 + (row * p.pooled_heads + pooled_head) * p.in_dim;
}

void copy(uint item) {
  const uint i = item * kProjectThreads + gl_LocalInvocationID.x;
  const uint pair = i % p.half_dim, head = i / p.half_dim % p.gate_heads, row = i / p.half_dim / p.gate_heads;
  if (row >= p.rows) return;
  const uint base = pooled_base(row, head) + pair;
  store_pair(row, head, pair, pooled[base], p.half_dim + pair < p.in_dim ? pooled[base + p.half_dim] : 0.0);
}

vec4 a_ahead[A_LOADS], w_ahead[W_LOADS];

void multiply(uint item) {
  const uint thread = gl_LocalInvocationID.x, tx = thread % PAIR_THREADS, ty = thread / PAIR_THREADS;
  const uint pair0 = item % p.pair_tiles * PAIRS;
  const uint row0 = item / p.pair_tiles % p.row_tiles * ROWS;
  const uint matrix = item / p.pair_tiles / p.row_tiles, head = p.head + matrix;
  const uint size = DTYPE == kDTypeF32 ? 4 : 2;
  const uint w_base = p.weight_skip / size + matrix * p.in_dim * p.out_dim;

  vec4 first[ROWS_OF], second[ROWS_OF];
  [[unroll]] for (uint i = 0; i < ROWS_OF; i++) first[i] = second[i] = vec4(0.0);

  for (uint k0 = 0; k0 < p.in_dim + kProjectDepth; k0 += kProjectDepth) {
    if (k0 > 0) {
      barrier();  // the slice before is read
      [[unroll]] for (uint n = 0; n < A_LOADS; n++) {
        const uint x = n * kProjectThreads + thread;
        a_tile[x / QUADS * A_STRIDE + x % QUADS] = a_ahead[n];
      }
      [[unroll]] for (uint n = 0; n < W_LOADS; n++) w_tile[n * kProjectThreads + thread] = w_ahead[n];
      barrier();
    }
    if (k0 < p.in_dim) {
      [[unroll]] for (uint n = 0; n < A_LOADS; n++) {
        const uint x = n * kProjectThreads + thread, row = row0 + x / QUADS;
        a_ahead[n] = row < p.rows ? load_pooled(pooled_base(row, head), k0 + 4 * (x % QUADS)) : vec4(0.0);
      }
      [[unroll]] for (uint n = 0; n < W_LOADS; n++) {
        const uint x = n * kProjectThreads + thread, k = k0 + x / W_STRIDE, column = x % W_STRIDE;
        const uint side = column / PAIR_THREADS, pair = pair0 + column % PAIR_THREADS * 4;
        const uint o = side * p.half_dim + pair, e = w_base + k * p.out_dim + o;
        vec4 w = vec4(0.0);
        if (k < p.in_dim && pair < p.half_dim) {
          if (MATRIX_BY_FOUR != 0) {
            w = load_weights(e);
          } else {
            [[unroll]] for (uint c = 0; c < 4; c++)
              if (pair + c < p.half_dim && o + c < p.out_dim) w[c] = load_weight(e + c);
          }
        }
        w_ahead[n] = w;
      }
    }
    if (k0 == 0) continue;
    for (uint k4 = 0; k4 < QUADS; k4++) {
      vec4 a[ROWS_OF];
      [[unroll]] for (uint i = 0; i < ROWS_OF; i++) a[i] = a_tile[(ty + i * ROW_THREADS) * A_STRIDE + k4];
      [[unroll]] for (uint c = 0; c < 4; c++) {
        const vec4 u = w_tile[(4 * k4 + c) * W_STRIDE + tx], v = w_tile[(4 * k4 + c) * W_STRIDE + PAIR_THREADS + tx];
        [[unroll]] for (uint i = 0; i < ROWS_OF; i++) {
          first[i] = fma(vec4(a[i][c]), u, first[i]);
          second[i] = fma(vec4(a[i][c]), v, second[i]);
        }
      }
    }
  }
  [[unroll]] for (uint i = 0; i < ROWS_OF; i++) {
    const uint row = row0 + ty + i * ROW_THREADS;
    if (row >= p.rows) continue;
    [[unroll]] for (uint c = 0; c < 4; c++) {
      const uint pair = pair0 + 4 * tx + c;
      if (pair < p.half_dim) store_pair(row, head, pair, first[i][c], second[i][c]);
    }
  }
}

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  if (DTYPE == kDTypeNone)
    copy(item);
  else
    multiply(item);
}
