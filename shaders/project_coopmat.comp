#version 460
// project on VK_KHR_cooperative_matrix, for matrices in bf16: gate = rope(pooled W), as project.comp.
//
// A value of pooled is cut into three bf16 of 8 bits each, which are it exactly; products with W are exact in f32, where
// they are added up, small ones first. So no range is lost and nothing is scaled.
//
// A workgroup computes ROWS block rows by PAIRS pairs of channels of a head, a subgroup SUB_ROWS by SUB_PAIRS of them.
// DEPTH channels of pooled at a time go through shared memory, the next ones on their way to registers meanwhile. Sums
// go through shared memory to threads that have whole pairs.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_bfloat16 : require
#pragma use_vulkan_memory_model
#include "args.h"
#include "elements.glsl"
#include "item.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint SIZE = 32;  // of a subgroup
layout(constant_id = 2) const uint M = 16;
layout(constant_id = 3) const uint N = 16;
layout(constant_id = 4) const uint K = 16;
layout(constant_id = 5) const uint ROWS = 64;
layout(constant_id = 6) const uint PAIRS = 64;
layout(constant_id = 7) const uint SUB_ROWS = 32;   // a multiple of M
layout(constant_id = 8) const uint SUB_PAIRS = 32;  // a multiple of N
layout(constant_id = 9) const uint DEPTH = 32;      // a multiple of K and 8
layout(constant_id = 10) const uint ROTATE = 1;

layout(push_constant) uniform Push { ProjectPush p; };
layout(binding = kProjectPooled) readonly buffer Pooled4 { vec4 pooled4[]; };
layout(binding = kProjectWeight) readonly buffer Weight { uvec4 weight[]; };
layout(binding = kProjectGate) writeonly buffer Gate4 { vec4 gate4[]; };
layout(binding = kProjectTable) readonly buffer Table { vec2 rope_table[]; };
#include "rope.glsl"

// In units of 16 bytes, strides odd so that rows lie in distinct banks.
const uint A_CHUNKS = DEPTH / 8, A_STRIDE = A_CHUNKS | 1, A_TERM = ROWS * A_STRIDE;  // of a row of a slice, a term
const uint W_CHUNKS = 2 * PAIRS / 8, W_STRIDE = W_CHUNKS | 1;  // the pairs' first channels, then their second ones
const uint A_LOADS = ROWS * A_CHUNKS / THREADS, W_LOADS = DEPTH * W_CHUNKS / THREADS;
const uint R = SUB_ROWS / M, C = SUB_PAIRS / N, ACROSS = PAIRS / SUB_PAIRS;
const uint SUM_STRIDE = 2 * PAIRS / 4 | 1;

// Slices of pooled and W, afterwards the sums.
const uint W_AT = 3 * A_TERM, SLICES = W_AT + DEPTH * W_STRIDE, SUMS = ROWS * SUM_STRIDE;
shared uvec4 tile[SLICES > SUMS ? SLICES : SUMS];

#define ACC coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define MAT_A coopmat<bfloat16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define MAT_B coopmat<bfloat16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

uint thread() { return gl_SubgroupID * SIZE + gl_SubgroupInvocationID; }

vec4 a_ahead[A_LOADS][2];
uvec4 w_ahead[W_LOADS];

uvec2 pack_terms(uvec4 x) { return uvec2(x.x >> 16 | (x.y & 0xffff0000u), x.z >> 16 | (x.w & 0xffff0000u)); }

// Four values as three terms. NaN and infinity are all in the first.
void cut(vec4 x, out uvec2 terms[3]) {
  const uvec4 bits = floatBitsToUint(x), rest = bits & 0x7fffffffu;
  const bvec4 finite = lessThan(rest, uvec4(0x7f800000u)), nan = greaterThan(rest, uvec4(0x7f800000u));
  const uvec4 first = mix(bits & 0xffff0000u, uvec4(0x7fc00000u), nan);
  const vec4 left = mix(vec4(0.0), x - uintBitsToFloat(first), finite);
  const uvec4 second = floatBitsToUint(left) & 0xffff0000u;
  terms[0] = pack_terms(first);
  terms[1] = pack_terms(second);
  terms[2] = pack_terms(floatBitsToUint(left - uintBitsToFloat(second)));
}

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  const uint pair0 = item % p.pair_tiles * PAIRS, row0 = item / p.pair_tiles % p.row_tiles * ROWS;
  const uint matrix = item / p.pair_tiles / p.row_tiles, head = p.head + matrix;
  const uint in4 = p.in_dim / 4, out8 = p.out_dim / 8;
  const uint pooled_base = p.pooled_skip / 16 + head * p.pooled_heads / p.gate_heads * in4;
  const uint weight_base = p.weight_skip / 16 + matrix * p.in_dim * out8 + pair0 / 8;
  const uint own = gl_SubgroupID, own_row = own / ACROSS * SUB_ROWS, own_pair = own % ACROSS * SUB_PAIRS;

  ACC sums[R][2 * C];
  [[unroll]] for (uint i = 0; i < R; i++)
    [[unroll]] for (uint j = 0; j < 2 * C; j++) sums[i][j] = ACC(0.0);

  for (uint k0 = 0; k0 < p.in_dim + DEPTH; k0 += DEPTH) {
    if (k0 > 0) {
      barrier();  // the slice before is read
      [[unroll]] for (uint n = 0; n < A_LOADS; n++) {
        const uint x = n * THREADS + thread();
        uvec2 low[3], high[3];
        cut(a_ahead[n][0], low);
        cut(a_ahead[n][1], high);
        [[unroll]] for (uint t = 0; t < 3; t++)
          tile[t * A_TERM + x / A_CHUNKS * A_STRIDE + x % A_CHUNKS] = uvec4(low[t], high[t]);
      }
      [[unroll]] for (uint n = 0; n < W_LOADS; n++) {
        const uint x = n * THREADS + thread();
        tile[W_AT + x / W_CHUNKS * W_STRIDE + x % W_CHUNKS] = w_ahead[n];
      }
      barrier();
    }
    if (k0 < p.in_dim) {
      [[unroll]] for (uint n = 0; n < A_LOADS; n++) {
        // Rows that are not there are the last one once more.
        const uint x = n * THREADS + thread(), row = min(row0 + x / A_CHUNKS, p.rows - 1);
        const uint at = pooled_base + row * p.pooled_heads * in4 + k0 / 4 + x % A_CHUNKS * 2;
        a_ahead[n][0] = pooled4[at];
        a_ahead[n][1] = pooled4[at + 1];
      }
      [[unroll]] for (uint n = 0; n < W_LOADS; n++) {
        const uint x = n * THREADS + thread(), column = x % W_CHUNKS;
        const uint side = column / (PAIRS / 8) * (p.half_dim / 8) + column % (PAIRS / 8);
        w_ahead[n] = weight[weight_base + (k0 + x / W_CHUNKS) * out8 + side];
      }
    }
    if (k0 == 0) continue;
    [[unroll]] for (uint d = 0; d < DEPTH / K; d++) {
      MAT_A a[R][3];
      [[unroll]] for (uint i = 0; i < R; i++)
        [[unroll]] for (uint t = 0; t < 3; t++)
          coopMatLoad(a[i][t], tile, t * A_TERM + (own_row + i * M) * A_STRIDE + d * K / 8, A_STRIDE,
                      gl_CooperativeMatrixLayoutRowMajor);
      [[unroll]] for (uint j = 0; j < 2 * C; j++) {
        MAT_B b;
        coopMatLoad(b, tile, W_AT + d * K * W_STRIDE + (j / C * PAIRS + own_pair + j % C * N) / 8, W_STRIDE,
                    gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint t = 0; t < 3; t++)
          [[unroll]] for (uint i = 0; i < R; i++) sums[i][j] = coopMatMulAdd(a[i][2 - t], b, sums[i][j]);
      }
    }
  }

  barrier();
  [[unroll]] for (uint i = 0; i < R; i++)
    [[unroll]] for (uint j = 0; j < 2 * C; j++)
      coopMatStore(sums[i][j], tile,
                   (own_row + i * M) * SUM_STRIDE + (j / C * PAIRS + own_pair + j % C * N) / 4, SUM_STRIDE,
                   gl_CooperativeMatrixLayoutRowMajor);
  barrier();
  for (uint x = thread(); x < ROWS * PAIRS / 4; x += THREADS) {
    const uint r = x / (PAIRS / 4), quad = x % (PAIRS / 4), row = row0 + r, pair = pair0 + 4 * quad;
    if (row >= p.rows) break;
    vec4 first = uintBitsToFloat(tile[r * SUM_STRIDE + quad]);
    vec4 second = uintBitsToFloat(tile[r * SUM_STRIDE + PAIRS / 4 + quad]);
    if (ROTATE != 0) {
      const vec4 a = first, b = second;
      [[unroll]] for (uint c = 0; c < 4; c++) {
        const vec2 turn = rope_turn(p.table_skip, p.half_dim, p.position + row, pair + c);
        first[c] = a[c] * turn.x - b[c] * turn.y;
        second[c] = b[c] * turn.x + a[c] * turn.y;
      }
    }
    const uint base = p.gate_skip / 16 + ((row * p.gate_heads + head) * p.out_dim + pair) / 4;
    gate4[base] = first;
    gate4[base + p.half_dim / 4] = second;
  }
}
