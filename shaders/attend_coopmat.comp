#version 460
// attend on VK_KHR_cooperative_matrix: f16, or bf16 where BFLOAT16 is defined, products of M x N x K with f32 sums.
//
// A workgroup takes ROWS query rows of HEADS heads that share a KV head; each of its subgroups M of those rows. Keys
// come in tiles of KEYS through shared memory, for the blocks that any of the heads keeps; a subgroup whose head does
// not keep the block, or whose rows all lie before it, only helps to load. Q stays in A matrices and the output in
// accumulators all the time. The row-wise part of the softmax goes through shared memory, SIZE / M lanes to a row: what
// element of a matrix a lane holds is the driver's secret. Online softmax as in attend.comp.
//
// Tensors of bf16 on f16 matrices (DTYPE bf16 without BFLOAT16): exact from 2^-14 to 65504, below that with an error
// under 2^-25. Items that hold more, or whose values are so small that this error shows, are marked in `redo`, and so
// are those with Inf or NaN among values that some of their rows must not see (0 * NaN): attend.comp computes them again.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#ifdef BFLOAT16
#extension GL_EXT_bfloat16 : require
#define T bfloat16_t
#else
#define T float16_t
#endif
#pragma use_vulkan_memory_model
#include "attend_args.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint ROWS = 64;    // divides BLOCK
layout(constant_id = 2) const uint KEYS = 32;    // divides BLOCK
layout(constant_id = 3) const uint HEADS = 1;    // divides the GQA group
layout(constant_id = 4) const uint DIM = 128;    // channels, a multiple of N and K
layout(constant_id = 5) const uint BLOCK = 64;   // tokens of a block of the mask
layout(constant_id = 6) const uint DTYPE = 2;
layout(constant_id = 7) const bool PAIRED = true;
layout(constant_id = 8) const bool WIDE = true;  // every row begins at a multiple of 16 bytes of the buffer
layout(constant_id = 9) const uint SIZE = 32;    // of a subgroup
layout(constant_id = 10) const uint M = 16;
layout(constant_id = 11) const uint N = 16;
layout(constant_id = 12) const uint K = 16;
layout(constant_id = 13) const bool AHEAD = true;   // load the next tile into registers while this one is used
layout(constant_id = 14) const bool APART = true;   // K and V have shared memory of their own
layout(constant_id = 15) const bool SPREAD = true;  // a row's factor becomes a matrix by a load of stride 0
// Every subgroup comes to every subgroup_sync(): lavapipe takes them for barriers of the workgroup.
layout(constant_id = 16) const bool EVEN = false;
layout(constant_id = 17) const uint REDO_ROWS = 32;  // rows of an item of attend.comp
#include "attend_element.glsl"

layout(push_constant, std430) uniform Push { AttendPush p; };
layout(std430, binding = 0) readonly buffer Q { uint q_words[]; };
layout(std430, binding = 1) readonly buffer Keys { uint k_words[]; };
layout(std430, binding = 2) readonly buffer V { uint v_words[]; };
layout(std430, binding = 0) readonly buffer Q4 { uvec4 q_wide[]; };
layout(std430, binding = 1) readonly buffer Keys4 { uvec4 k_wide[]; };
layout(std430, binding = 2) readonly buffer V4 { uvec4 v_wide[]; };
layout(std430, binding = 3) buffer Out { uint out_words[]; };
layout(std430, binding = 4) writeonly buffer Lse { float lse[]; };
layout(std430, binding = 5) readonly buffer Mask { uint mask_words[]; };
layout(std430, binding = 6) buffer Redo { uint redo[]; };  // a bit for each item of attend.comp

const float kLowest = -1.0e38, kMasked = -3.0e38;
const float kLn2 = 0.69314718055994531;

const uint SUBGROUPS = THREADS / SIZE;
const uint PER_HEAD = ROWS / M;  // subgroups; THREADS = HEADS * PER_HEAD * SIZE
const uint LANES = SIZE / M;     // of a row
const uint QUADS = KEYS / LANES / 4u;  // scores of a lane, by fours
const uint CHUNKS = DIM / 8u;          // of a row, 16 bytes each
const uint PIECES = (KEYS * CHUNKS + THREADS - 1u) / THREADS;  // of a tile, a thread's
const bool FULL = PIECES * THREADS == KEYS * CHUNKS;

// Rows of shared memory in units of 16 bytes, one unit longer than they need so that columns lie in distinct banks.
const uint KV_STRIDE = CHUNKS + 1u;
const uint S_STRIDE = KEYS / 4u + 1u;

// attend_tile.cpp computes the same number of bytes.
shared uvec4 kv_tile[(APART ? 2u : 1u) * KEYS * KV_STRIDE];
shared uvec4 s_tile[SUBGROUPS * M * S_STRIDE];  // scores in f32, then over them weights in 16 bits
shared float factor[SUBGROUPS * M * (SPREAD ? 1u : N)];
shared uint marks;
const uint V_AT = APART ? KEYS * KV_STRIDE : 0u;

#define ACC coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define MAT_A coopmat<T, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define MAT_B coopmat<T, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

SEER_DEFINE_LOAD(q_pair, q_words)
SEER_DEFINE_LOAD(k_pair, k_words)
SEER_DEFINE_LOAD(v_pair, v_words)
SEER_DEFINE_STORE(store_out, store_out_half, out_words)

#define SEER_DEFINE_CHUNK(NAME, PAIR, wide)                                                             \
  uvec4 NAME(uint at, uint c) {                                                                         \
    if (WIDE) return wide[(at >> 3) + c];                                                               \
    return uvec4(PAIR(at, 4u * c).x, PAIR(at, 4u * c + 1u).x, PAIR(at, 4u * c + 2u).x, PAIR(at, 4u * c + 3u).x); \
  }
SEER_DEFINE_CHUNK(q_chunk, q_pair, q_wide)
SEER_DEFINE_CHUNK(k_chunk, k_pair, k_wide)
SEER_DEFINE_CHUNK(v_chunk, v_pair, v_wide)

#ifdef BFLOAT16
const bool CONVERTS = false;
#else
const bool CONVERTS = DTYPE == kBf16;
#endif

// In the loop over keys there is no branch that lanes of a subgroup could take differently: attend_flexible.comp says
// why.
uint beyond = 0u;     // not 0: this thread met a value that f16 or a product with 0 does not bear
uint largest_v = 0u;  // bits of this thread's largest |v|, of a bf16

uint convert_word(uint w) {
  const vec2 x = vec2(uintBitsToFloat(w << 16), uintBitsToFloat(w & 0xffff0000u));
  // In this form NaN is beyond, too.
  const bool low = abs(x.x) <= 65504.0, high = abs(x.y) <= 65504.0;
  beyond |= low && high ? 0u : 1u;
  return packHalf2x16(x);
}

uvec4 converted(uvec4 w) {
  if (!CONVERTS) return w;
  return uvec4(convert_word(w.x), convert_word(w.y), convert_word(w.z), convert_word(w.w));
}

void measure_v(uvec4 w) {
  const uvec4 most = max(w & 0x7fffu, w >> 16 & 0x7fffu);
  largest_v = max(largest_v, max(max(most.x, most.y), max(most.z, most.w)));
}

uint own_head() { return gl_SubgroupID / PER_HEAD; }
#include "attend_walk.glsl"

uint thread() { return gl_SubgroupID * SIZE + gl_SubgroupInvocationID; }

void subgroup_sync() {
  controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared, gl_SemanticsAcquireRelease);
}

uvec4 load_k(Tile t, uint piece) {
  const uint x = piece * THREADS + thread(), row = x / CHUNKS;
  const bool there = row < t.present;
  const uvec4 w = k_chunk(t.k_at + (there ? row * p.k_token : 0u), x % CHUNKS);
  return converted(there ? w : uvec4(0u));
}

uvec4 load_v(Tile t, uint piece) {
  const uint x = piece * THREADS + thread(), row = x / CHUNKS;
  const bool there = row < t.present;
  const uvec4 loaded = v_chunk(t.v_at + (there ? row * p.v_token : 0u), x % CHUNKS);
  const uvec4 w = there ? loaded : uvec4(0u);
  if (CONVERTS) measure_v(w);
  if (!CONVERTS) beyond |= t.edge ? specials(w) : 0u;
  return converted(w);
}

void keep(uint first, uint piece, uvec4 w) {
  const uint x = piece * THREADS + thread(), row = x / CHUNKS;
  if (FULL || row < KEYS) kv_tile[first + row * KV_STRIDE + x % CHUNKS] = w;
}

uvec4 k_ahead[PIECES], v_ahead[PIECES];

// Goes to the next tile and begins to load it.
void advance() {
  step_walk();
  if (AHEAD && next.key != kNone)
    [[unroll]] for (uint x = 0; x < PIECES; x++) {
      k_ahead[x] = load_k(next, x);
      v_ahead[x] = load_v(next, x);
    }
}

// Makes a matrix of which every row is one number, that of the row's lanes; a subgroup_sync() belongs between.
void store_factor(float value) {
  const uint lane = gl_SubgroupInvocationID, first = gl_SubgroupID * M;
  if (SPREAD) {
    if (lane % LANES == 0u) factor[first + lane / LANES] = value;
  } else {
    for (uint c = lane % LANES; c < N; c += LANES) factor[(first + lane / LANES) * N + c] = value;
  }
}

ACC load_factor() {
  const uint first = gl_SubgroupID * M;
  ACC rows;
  if (SPREAD)
    coopMatLoad(rows, factor, first, 0u, gl_CooperativeMatrixLayoutColumnMajor);
  else
    coopMatLoad(rows, factor, first * N, N, gl_CooperativeMatrixLayoutRowMajor);
  return rows;
}

uint pack(vec2 x) {
#ifdef BFLOAT16
  return f32_to_bf16(x.x) | (f32_to_bf16(x.y) << 16);
#else
  return packHalf2x16(x);
#endif
}

vec2 unpack(uint w) {
#ifdef BFLOAT16
  return vec2(uintBitsToFloat(w << 16), uintBitsToFloat(w & 0xffff0000u));
#else
  return unpackHalf2x16(w);
#endif
}

void main() {
  const uint w = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  if (w >= p.count) return;
  const uint item = p.first + w, units = p.heads / HEADS;
  const uint head0 = item % units * HEADS;
  const uint tile_index = p.tiles - 1u - item / units;  // long rows first
  const uint query0 = tile_index * ROWS;
  const uint queries = min(p.q_rows - query0, ROWS);

  const uint lane = gl_SubgroupInvocationID, tid = thread();
  const uint own_row0 = gl_SubgroupID % PER_HEAD * M;        // its first row
  const uint s_at = gl_SubgroupID * M * S_STRIDE;
  const uint row = own_row0 + lane / LANES;                  // of this lane
  const uint s_lane = s_at + lane / LANES * S_STRIDE;        // that row of s_tile
  const uint quad0 = lane % LANES * QUADS;

  // Q, as many rows at a time as the tile of keys holds.
  MAT_A q[DIM / K];
  [[dont_unroll]] for (uint first = 0; first < HEADS * ROWS; first += KEYS) {
    for (uint x = tid; x < KEYS * CHUNKS; x += THREADS) {
      const uint r = first + x / CHUNKS, h = r / ROWS, i = query0 + r % ROWS;
      uvec4 words = uvec4(0u);
      if (h < HEADS && i < p.q_rows)
        words = converted(q_chunk(p.q_base + (head0 + h) * p.q_head + i * p.q_token, x % CHUNKS));
      kv_tile[x / CHUNKS * KV_STRIDE + x % CHUNKS] = words;
    }
    barrier();
    const uint own = gl_SubgroupID * M;
    if (own >= first && own < first + KEYS)
      [[unroll]] for (uint d = 0; d < DIM / K; d++)
        coopMatLoad(q[d], kv_tile, (own - first) * KV_STRIDE + d * K / 8u, KV_STRIDE,
                    gl_CooperativeMatrixLayoutRowMajor);
    barrier();
  }
  if (tid == 0u) marks = 0u;

  ACC sum[DIM / N];
  [[unroll]] for (uint d = 0; d < DIM / N; d++) sum[d] = ACC(0.0);
  // The sums of weights of this lane's keys: in f32 for the LSE, and of what the product with V sees for the output, so
  // that the rounding of the weights, whichever way it goes, does not shift their mean.
  float highest = kLowest, total = 0.0, rounded = 0.0;

  begin_walk(head0, query0, queries);
  const uint sees = walk.sees;
  advance();
  [[dont_unroll]] while (next.key != kNone) {
    const Tile tile = next;
    barrier();  // everyone is done with the tile before
    [[unroll]] for (uint x = 0; x < PIECES; x++) {
      keep(0u, x, AHEAD ? k_ahead[x] : load_k(tile, x));
      if (APART) keep(V_AT, x, AHEAD ? v_ahead[x] : load_v(tile, x));
    }
    barrier();
    if (AHEAD && APART) advance();
    // Subgroup-uniform: whether some row of this subgroup sees some key of the tile.
    const bool sees_some = tile.key <= sees + own_row0 + M - 1u, has_rows = own_row0 < queries;
    const bool on = tile.kept && sees_some && has_rows;
    if (on) {
      for (uint n = 0; n < KEYS / N; n++) {
        ACC scores = ACC(0.0);
        [[unroll]] for (uint d = 0; d < DIM / K; d++) {
          MAT_B b;
          coopMatLoad(b, kv_tile, n * N * KV_STRIDE + d * K / 8u, KV_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
          scores = coopMatMulAdd(q[d], b, scores);
        }
        coopMatStore(scores, s_tile, s_at + n * N / 4u, S_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      }
    }
    if (!APART) {
      uvec4 v[PIECES];
      [[unroll]] for (uint x = 0; x < PIECES; x++) v[x] = AHEAD ? v_ahead[x] : load_v(tile, x);
      barrier();  // everyone is done with K
      [[unroll]] for (uint x = 0; x < PIECES; x++) keep(V_AT, x, v[x]);
    }
    if (on || EVEN) subgroup_sync();
    vec4 score[QUADS];
    float shrink = 1.0;
    bool moved = false;  // some row's maximum
    if (on) {
      float most = highest;
      [[unroll]] for (uint c = 0; c < QUADS; c++) {
        vec4 x = uintBitsToFloat(s_tile[s_lane + quad0 + c]) * p.scale_log2;
        if (tile.edge) {
          const uvec4 at = uvec4(tile.key + (quad0 + c) * 4u) + uvec4(0u, 1u, 2u, 3u);
          x = mix(x, vec4(kMasked), greaterThanEqual(at, uvec4(min(sees + row + 1u, p.key_end))));
        }
        score[c] = x;
        most = max(most, max(max(x.x, x.y), max(x.z, x.w)));
      }
      [[unroll]] for (uint z = LANES / 2u; z > 0u; z >>= 1) most = max(most, subgroupShuffleXor(most, z));
      shrink = exp2(highest - most);
      moved = subgroupAny(most != highest);  // also for NaN
      highest = most;
      total *= shrink;
      rounded *= shrink;
    }
    if (on || EVEN) subgroup_sync();  // everyone has read the scores that the weights go over
    if (on) {
      [[unroll]] for (uint c = 0; c < QUADS; c += 2u) {
        const vec4 a = exp2(score[c] - highest), b = exp2(score[c + 1u] - highest);
        const uvec4 packed = uvec4(pack(a.xy), pack(a.zw), pack(b.xy), pack(b.zw));
        const vec2 part = (unpack(packed.x) + unpack(packed.y)) + (unpack(packed.z) + unpack(packed.w));
        rounded += part.x + part.y;
        const vec4 both = a + b;
        total += (both.x + both.y) + (both.z + both.w);
        s_tile[s_lane + (quad0 + c) / 2u] = packed;
      }
      store_factor(shrink);
    }
    if (on || EVEN) subgroup_sync();
    if (!APART) barrier();  // V is there
    if (on) {
      if (moved) {
        const ACC factors = load_factor();
        [[unroll]] for (uint d = 0; d < DIM / N; d++) sum[d] *= factors;
      }
      for (uint c = 0; c < KEYS / K; c++) {
        MAT_A weights;
        coopMatLoad(weights, s_tile, s_at + c * K / 8u, S_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint d = 0; d < DIM / N; d++) {
          MAT_B b;
          coopMatLoad(b, kv_tile, V_AT + c * K * KV_STRIDE + d * N / 8u, KV_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
          sum[d] = coopMatMulAdd(weights, b, sum[d]);
        }
      }
    }
    if (!(AHEAD && APART)) advance();
  }

  [[unroll]] for (uint z = LANES / 2u; z > 0u; z >>= 1) {
    total += subgroupShuffleXor(total, z);
    rounded += subgroupShuffleXor(rounded, z);
  }
  const bool none = total == 0.0;  // NaN is something
  const uint own_query = query0 + row, own = head0 + own_head();
  if (lane % LANES == 0u && row < queries && (p.flags & kAttendLse) != 0u)
    lse[p.lse_base + own * p.lse_head + own_query * p.lse_token] =
        none ? uintBitsToFloat(0xff800000u) : (highest + log2(total)) * kLn2;
  subgroup_sync();  // everyone has read the last factors
  store_factor(none ? 0.0 : 1.0 / rounded);
  subgroup_sync();
  const ACC factors = load_factor();
  [[unroll]] for (uint d0 = 0; d0 < DIM / N; d0 += KEYS / N) {
    subgroup_sync();  // everyone has read s_tile
    [[unroll]] for (uint d = 0; d < KEYS / N; d++)
      if (d0 + d < DIM / N) {
        sum[d0 + d] *= factors;
        coopMatStore(sum[d0 + d], s_tile, s_at + d * N / 4u, S_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      }
    subgroup_sync();
    const uint quads = min(KEYS, DIM - d0 * N) / 4u;  // of a row
    for (uint x = lane; x < M * quads; x += SIZE) {
      const uint r = x / quads, c = x % quads, i = own_row0 + r;
      if (i < queries) {
        const vec4 value = uintBitsToFloat(s_tile[s_at + r * S_STRIDE + c]);
        const uint at = p.out_base + own * p.out_head + (query0 + i) * p.out_token;
        store_out(at, d0 * N / 2u + 2u * c, value.xy);
        store_out(at, d0 * N / 2u + 2u * c + 1u, value.zw);
      }
    }
  }

  // Marks: 1 = out of range, 2 = some V is large enough for f16's absolute error not to matter, 4 = some V is not 0.
  uint mark = beyond != 0u ? 1u : 0u;
  if (CONVERTS) mark |= (largest_v >= 0x3a80u ? 2u : 0u) | (largest_v != 0u ? 4u : 0u);  // 0x3a80: 2^-10
  if (mark != 0u) atomicOr(marks, mark);
  barrier();
  if ((marks & 1u) != 0u || (marks & 6u) == 4u) {
    for (uint x = tid; x < HEADS * (ROWS / REDO_ROWS); x += THREADS) {
      const uint tiles = (p.q_rows + REDO_ROWS - 1u) / REDO_ROWS, t = query0 / REDO_ROWS + x / HEADS;
      const uint again = (tiles - 1u - t) * p.heads + head0 + x % HEADS;
      if (t < tiles) atomicOr(redo[p.state_base + again / 32u], 1u << (again % 32u));
    }
  }
}
