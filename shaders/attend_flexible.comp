#version 460
// attend on cooperative matrices whose layout is known (src/vulkan/attend_layout.h): the softmax stays in registers.
// f16, or bf16 where BFLOAT16 is defined, products of M x N x N with f32 sums; the sums of P V are of f16 where HALF_SUM
// is defined.
//
// A workgroup takes ROWS query rows of HEADS heads that share a KV head; each of its subgroups TILES times M of those
// rows. Keys come in tiles of KEYS through shared memory, for the blocks that any of the heads keeps; a subgroup whose
// head does not keep the block, or whose rows all lie before it, only helps to load. Q stays in A matrices and the
// output in accumulators all the time, and scores become weights where they are: element e of a lane is in the lane's
// row slot(e), of accumulators and of A matrices alike, and lanes that differ in LANE_BITS alone share their rows.
//
// Online softmax on scores that are not scaled yet. A row's maximum is raised, and what the row has summed up so far
// shrunk, only where it grew by more than SLACK (in powers of 2): weights are at most 2^SLACK, and their sum knows.
//
// Compilers take a branch for divergent unless they can prove that it is not, and NVIDIA's then computes every subgroup
// operation behind it by a slow dance over the lanes that are there: 5 times slower in all. So there is no branch in the
// loop over keys that lanes of a subgroup could take differently, and what depends on the subgroup's number goes
// through subgroupBroadcastFirst() before anything branches on it.
//
// Items with Inf or NaN among values that some of their rows must not see (0 * NaN), bf16 items whose scores all lie
// below kLowest, and those with sums beyond f16 where HALF_SUM is defined, are marked in `redo`: attend.comp computes
// them again.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#ifdef BFLOAT16
#extension GL_EXT_bfloat16 : require
#define T bfloat16_t
#else
#define T float16_t
#endif
#ifdef HALF_SUM
#define SUM_T float16_t
#else
#define SUM_T float
#endif
#pragma use_vulkan_memory_model
#include "attend_args.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint ROWS = 64;   // divides BLOCK
layout(constant_id = 2) const uint KEYS = 32;   // divides BLOCK
layout(constant_id = 3) const uint HEADS = 1;   // divides the GQA group
layout(constant_id = 4) const uint DIM = 128;   // channels, a multiple of N and of 8
layout(constant_id = 5) const uint BLOCK = 64;  // tokens of a block of the mask
layout(constant_id = 6) const uint DTYPE = 2;
layout(constant_id = 7) const bool PAIRED = true;
layout(constant_id = 8) const bool WIDE_OUT = true;  // every row of out begins at a multiple of 16 bytes; all others do
layout(constant_id = 9) const uint SIZE = 32;        // of a subgroup
layout(constant_id = 10) const uint M = 16;
layout(constant_id = 11) const uint N = 16;
layout(constant_id = 12) const uint TILES = 1;
layout(constant_id = 13) const uint STEP = 32;    // keys of a turn of the softmax, divides KEYS
layout(constant_id = 14) const bool AHEAD = true;  // load the next tile into registers while this one is used
layout(constant_id = 15) const uint SLOTS = 2;
layout(constant_id = 16) const uint SLOT_SHIFT = 2;
layout(constant_id = 17) const uint LANE_BITS = 3;
layout(constant_id = 18) const float SLACK = 8.0;
layout(constant_id = 19) const uint REDO_ROWS = 32;  // rows of an item of attend.comp
layout(constant_id = 20) const bool UNION = false;   // the heads of an item do not all keep the same blocks
#include "attend_element.glsl"

layout(push_constant, std430) uniform Push { AttendPush p; };
layout(std430, binding = 0) readonly buffer Q { uvec4 q_wide[]; };
layout(std430, binding = 1) readonly buffer Keys { uvec4 k_wide[]; };
layout(std430, binding = 2) readonly buffer V { uvec4 v_wide[]; };
layout(std430, binding = 3) buffer Out { uint out_words[]; };
layout(std430, binding = 3) writeonly buffer Out4 { uvec4 out_wide[]; };
layout(std430, binding = 4) writeonly buffer Lse { float lse[]; };
layout(std430, binding = 5) readonly buffer Mask { uint mask_words[]; };
layout(std430, binding = 6) buffer Redo { uint redo[]; };  // a bit for each item of attend.comp

// Of scores before they are scaled; kFlexibleScale in attend_tile.h keeps their products in range.
const float kLowest = -1.0e30, kMasked = -3.0e30;
const float kLn2 = 0.69314718055994531;
// Weights are smaller by so many powers of 2, so that many of them add up to no more than f16 holds.
#ifdef HALF_SUM
const float kHeadroom = 6.0;
#else
const float kHeadroom = 0.0;
#endif

const uint SUBGROUPS = THREADS / SIZE;
const uint OWN = TILES * M;          // rows of a subgroup
const uint PER_HEAD = ROWS / OWN;    // subgroups; THREADS = HEADS * PER_HEAD * SIZE
const uint CHUNKS = DIM / 8u;        // of a row, 16 bytes each
const uint PIECES = (KEYS * CHUNKS + THREADS - 1u) / THREADS;  // of a tile, a thread's
const bool FULL = PIECES * THREADS == KEYS * CHUNKS;
const uint KEY_PARTS = STEP / N, DIM_PARTS = DIM / N;

// Rows of shared memory in units of 16 bytes, an odd number, so that columns lie in distinct banks.
const uint STRIDE = CHUNKS | 1u;
const uint V_AT = KEYS * STRIDE;   // from K to V
const uint CAPACITY = 2u * KEYS;     // rows

// attend_tile.cpp computes the same number of bytes.
shared uvec4 kv_tile[CAPACITY * STRIDE];
shared vec4 numbers[M * N / 4u];  // of the elements of an accumulator, row by row
shared uint marks;

#define ACC coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define SUM coopmat<SUM_T, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define MAT_A coopmat<T, gl_ScopeSubgroup, M, N, gl_MatrixUseA>
#define MAT_B coopmat<T, gl_ScopeSubgroup, N, N, gl_MatrixUseB>

SEER_DEFINE_STORE(store_out, store_out_half, out_words)

uint own_subgroup;
uint own_head() { return own_subgroup / PER_HEAD; }
#include "attend_walk.glsl"

uint thread() { return gl_SubgroupID * SIZE + gl_SubgroupInvocationID; }

uvec4 load_k(Tile t, uint piece) {
  const uint x = piece * THREADS + thread(), row = x / CHUNKS;
  const bool there = row < t.present;
  const uvec4 w = k_wide[((t.k_at + (there ? row * p.k_token : 0u)) >> 3) + x % CHUNKS];
  return there ? w : uvec4(0u);
}

uvec4 load_v(Tile t, uint piece) {
  const uint x = piece * THREADS + thread(), row = x / CHUNKS;
  const bool there = row < t.present;
  const uvec4 w = v_wide[((t.v_at + (there ? row * p.v_token : 0u)) >> 3) + x % CHUNKS];
  return there ? w : uvec4(0u);
}

uint beyond = 0u;  // not 0: this thread met a value that a product with 0 does not bear
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

void keep(uint piece, uint at, uvec4 w) {
  const uint i = piece * THREADS + thread();
  if (FULL || i < KEYS * CHUNKS) kv_tile[at + i / CHUNKS * STRIDE + i % CHUNKS] = w;
}

// Puts the tile into shared memory.
void keep_tile(Tile t, bool edge) {
  [[unroll]] for (uint x = 0; x < PIECES; x++) {
    const uvec4 k = AHEAD ? k_ahead[x] : load_k(t, x), v = AHEAD ? v_ahead[x] : load_v(t, x);
    if (edge) beyond |= specials(v);
    keep(x, 0u, k);
    keep(x, V_AT, v);
  }
}

uint slot(uint e) { return e >> SLOT_SHIFT & (SLOTS - 1u); }

float row_max(float x) {
  [[unroll]] for (uint bit = 1u; bit < SIZE; bit <<= 1)
    if ((LANE_BITS & bit) != 0u) x = max(x, subgroupShuffleXor(x, bit));
  return x;
}

float row_sum(float x) {
  [[unroll]] for (uint bit = 1u; bit < SIZE; bit <<= 1)
    if ((LANE_BITS & bit) != 0u) x += subgroupShuffleXor(x, bit);
  return x;
}

#ifdef BFLOAT16
// bfloat16_t(x) rounds as the driver likes: NVIDIA's cuts off what bf16 does not hold. So x becomes what it does hold.
T narrow_weight(float x) { return T(uintBitsToFloat((floatBitsToUint(x) + 0x8000u) & 0xffff0000u)); }  // x >= 0
T narrow_output(float x) { return T(uintBitsToFloat(f32_to_bf16(x) << 16)); }
#else
#define narrow_weight T
#define narrow_output T
#endif

const uint LENGTH = M * N / SIZE;  // elements of a lane

MAT_A q[TILES * DIM_PARTS];
SUM sum[TILES * DIM_PARTS];
float highest[TILES * SLOTS];  // of rows, as far as it was taken note of
float total[TILES * SLOTS];    // of this lane's weights
uint own_sees;                 // the last key that the subgroup's first row sees
bool asked = false;            // whether some row saw some key

// Keys [key, key + STEP), which are in shared memory from `at` on.
void attend_step(uint key, uint at, bool edge) {
  ACC s[TILES * KEY_PARTS];
  [[unroll]] for (uint n = 0; n < KEY_PARTS; n++) {
    [[unroll]] for (uint r = 0; r < TILES; r++) s[r * KEY_PARTS + n] = ACC(0.0);
    [[unroll]] for (uint d = 0; d < DIM_PARTS; d++) {
      MAT_B b;
      coopMatLoad(b, kv_tile, at + n * N * STRIDE + d * N / 8u, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        s[r * KEY_PARTS + n] = coopMatMulAdd(q[r * DIM_PARTS + d], b, s[r * KEY_PARTS + n]);
    }
  }
  if (edge) {
    ACC number;
    coopMatLoad(number, numbers, 0u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
    [[unroll]] for (uint r = 0; r < TILES; r++)
      [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
        [[unroll]] for (uint e = 0; e < LENGTH; e++) {
          const uint i = uint(number[e]);
          const bool hidden = key + n * N + i % N > min(own_sees + r * M + i / N, p.key_end - 1u);
          s[r * KEY_PARTS + n][e] = hidden ? kMasked : s[r * KEY_PARTS + n][e];
        }
  }
  // Each lane looks at its own scores only: what they have in common comes up where a maximum is raised.
  float most[TILES * SLOTS];
  bool grows = false;
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    [[unroll]] for (uint z = 0; z < SLOTS; z++) most[r * SLOTS + z] = highest[r * SLOTS + z];
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
      [[unroll]] for (uint e = 0; e < LENGTH; e++)
        most[r * SLOTS + slot(e)] = max(most[r * SLOTS + slot(e)], s[r * KEY_PARTS + n][e]);
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const bool grown = (most[r * SLOTS + z] - highest[r * SLOTS + z]) * p.scale_log2 > SLACK;
      grows = grows || grown;
    }
  }
  if (subgroupAny(grows))
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      float shrink[SLOTS];
      [[unroll]] for (uint z = 0; z < SLOTS; z++) {
        const uint i = r * SLOTS + z;
        most[i] = row_max(most[i]);
        shrink[z] = exp2((highest[i] - most[i]) * p.scale_log2);
        highest[i] = most[i];
        total[i] *= shrink[z];
      }
      [[unroll]] for (uint d = 0; d < DIM_PARTS; d++)
        [[unroll]] for (uint e = 0; e < LENGTH; e++) sum[r * DIM_PARTS + d][e] *= SUM_T(shrink[slot(e)]);
    }
  MAT_A weights[TILES * KEY_PARTS];
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const float bias = -highest[r * SLOTS + z] * p.scale_log2 - kHeadroom;
      float part = 0.0;
      [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
        [[unroll]] for (uint e = 0; e < LENGTH; e++)
          if (slot(e) == z) {
            const float x = exp2(fma(s[r * KEY_PARTS + n][e], p.scale_log2, bias));
            weights[r * KEY_PARTS + n][e] = narrow_weight(x);
            part += x;
          }
      total[r * SLOTS + z] += part;
    }
  [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
    [[unroll]] for (uint d = 0; d < DIM_PARTS; d++) {
      MAT_B b;
      coopMatLoad(b, kv_tile, at + V_AT + n * N * STRIDE + d * N / 8u, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        sum[r * DIM_PARTS + d] = coopMatMulAdd(weights[r * KEY_PARTS + n], b, sum[r * DIM_PARTS + d]);
    }
}

// All of a tile that this subgroup wants. Only of a tile on the edge it may see nothing; of others, all of it.
void attend_tile(Tile tile, bool edge) {
  if (edge) {
    const bool on = (!UNION || tile.kept) && tile.key < own_sees + OWN;
    asked = asked || on;
    if (on)
      [[dont_unroll]] for (uint c = 0; c < KEYS; c += STEP) attend_step(tile.key + c, c * STRIDE, true);
  } else if (!UNION || tile.kept) {
    asked = true;
    [[unroll]] for (uint c = 0; c < KEYS; c += STEP) attend_step(tile.key + c, c * STRIDE, false);
  }
}

// The tiles of the walk from `next` on, up to the first on the edge, or the rest of them.
void attend_tiles(bool edge) {
  [[dont_unroll]] while (next.key != kNone && (edge || !next.edge)) {
    const Tile tile = next;
    barrier();  // everyone is done with the tile before
    keep_tile(tile, edge);
    barrier();
    advance();
    attend_tile(tile, edge);
  }
}

void main() {
  const uint w = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  if (w >= p.count) return;
  const uint item = p.first + w, units = p.heads / HEADS;
  const uint head0 = item % units * HEADS;
  const uint tile_index = p.tiles - 1u - item / units;  // long rows first
  const uint query0 = tile_index * ROWS;
  const uint queries = min(p.q_rows - query0, ROWS);
  const uint tid = thread();
  own_subgroup = subgroupBroadcastFirst(gl_SubgroupID);
  const uint own_row0 = own_subgroup % PER_HEAD * OWN;  // of its head

  // Q, as many rows at a time as shared memory holds.
  [[dont_unroll]] for (uint first = 0; first < HEADS * ROWS; first += CAPACITY) {
    for (uint x = tid; x < CAPACITY * CHUNKS; x += THREADS) {
      const uint r = first + x / CHUNKS, h = r / ROWS, i = query0 + r % ROWS;
      uvec4 words = uvec4(0u);
      if (h < HEADS && i < p.q_rows)
        words = q_wide[((p.q_base + (head0 + h) * p.q_head + i * p.q_token) >> 3) + x % CHUNKS];
      kv_tile[x / CHUNKS * STRIDE + x % CHUNKS] = words;
    }
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint own = own_subgroup * OWN + r * M;
      if (own >= first && own < first + CAPACITY)
        [[unroll]] for (uint d = 0; d < DIM_PARTS; d++)
          coopMatLoad(q[r * DIM_PARTS + d], kv_tile, (own - first) * STRIDE + d * N / 8u, STRIDE,
                      gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
  }
  if (tid == 0u) marks = 0u;
  for (uint x = tid; x < M * N / 4u; x += THREADS) numbers[x] = vec4(4u * x) + vec4(0.0, 1.0, 2.0, 3.0);
  [[unroll]] for (uint d = 0; d < TILES * DIM_PARTS; d++) sum[d] = SUM(0.0);
  [[unroll]] for (uint z = 0; z < TILES * SLOTS; z++) {
    highest[z] = kLowest;
    total[z] = 0.0;
  }

  begin_walk(head0, query0, queries);
  own_sees = walk.sees + own_row0;
  advance();
  attend_tiles(false);
  attend_tiles(true);

  barrier();  // everyone is done with the last tile, and with `numbers` where there was none
  ACC number;
  coopMatLoad(number, numbers, 0u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
  const uint own = head0 + own_head();
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    float inverse[SLOTS];
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const float all = row_sum(total[r * SLOTS + z]);
      const bool none = all == 0.0;  // NaN is something
      inverse[z] = none ? 0.0 : 1.0 / all;
      if (DTYPE == kBf16 && none && asked) beyond = 1u;
      const uint i = uint(number[z << SLOT_SHIFT]), row = own_row0 + r * M + i / N;
      if (i % N == 0u && row < queries && (p.flags & kAttendLse) != 0u)
        lse[p.lse_base + own * p.lse_head + (query0 + row) * p.lse_token] =
            none ? uintBitsToFloat(0xff800000u) : (highest[r * SLOTS + z] * p.scale_log2 + kHeadroom + log2(all)) * kLn2;
    }
    [[unroll]] for (uint d = 0; d < DIM_PARTS; d++)
      [[unroll]] for (uint e = 0; e < LENGTH; e++) {
#ifdef HALF_SUM
        const bool held = abs(float(sum[r * DIM_PARTS + d][e])) <= 65504.0;
        beyond |= held ? 0u : 1u;
#endif
        sum[r * DIM_PARTS + d][e] *= SUM_T(inverse[slot(e)]);
      }
  }

  // The output, as many rows at a time as shared memory holds.
  [[dont_unroll]] for (uint first = 0; first < HEADS * ROWS; first += CAPACITY) {
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint mine = own_subgroup * OWN + r * M;
      if (mine >= first && mine < first + CAPACITY)
        [[unroll]] for (uint d = 0; d < DIM_PARTS; d++) {
          MAT_A rounded;
          [[unroll]] for (uint e = 0; e < LENGTH; e++) rounded[e] = narrow_output(float(sum[r * DIM_PARTS + d][e]));
          coopMatStore(rounded, kv_tile, (mine - first) * STRIDE + d * N / 8u, STRIDE,
                       gl_CooperativeMatrixLayoutRowMajor);
        }
    }
    barrier();
    for (uint x = tid; x < CAPACITY * CHUNKS; x += THREADS) {
      const uint r = first + x / CHUNKS, h = r / ROWS, i = query0 + r % ROWS, c = x % CHUNKS;
      if (h < HEADS && i < p.q_rows) {
        const uvec4 words = kv_tile[x / CHUNKS * STRIDE + c];
        const uint at = p.out_base + (head0 + h) * p.out_head + i * p.out_token;
        if (WIDE_OUT) {
          out_wide[(at >> 3) + c] = words;
        } else {
          [[unroll]] for (uint k = 0; k < 4u; k++) store_out(at, 4u * c + k, widen(words[k]));
        }
      }
    }
  }

  if (beyond != 0u) atomicOr(marks, 1u);
  barrier();
  if (marks != 0u) {
    for (uint x = tid; x < HEADS * (ROWS / REDO_ROWS); x += THREADS) {
      const uint tiles = (p.q_rows + REDO_ROWS - 1u) / REDO_ROWS, t = query0 / REDO_ROWS + x / HEADS;
      const uint again = (tiles - 1u - t) * p.heads + head0 + x % HEADS;
      if (t < tiles) atomicOr(redo[p.state_base + again / 32u], 1u << (again % 32u));
    }
  }
}
