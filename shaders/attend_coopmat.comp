#version 460
// attend on VK_KHR_cooperative_matrix: f16, or bf16 where BFLOAT16 is defined, products of M x N x K with f32 sums, for
// drivers that do not say which element of a matrix a lane holds.
//
// A workgroup takes ROWS query rows of a head, or of HEADS heads that share a KV head and have no mask. Its subgroups
// stand in a grid of HEADS * ROWS / (TILES * M) by SPLIT: of a tile of KEYS keys a subgroup computes the scores of its
// TILES * M rows and of one part in SPLIT of the keys, then, with weights from shared memory, one part in SPLIT of the
// output's channels. The output of a tile and the scores of the next are computed between the same two barriers; later
// tiles are on their way in registers meanwhile:
//
//   barrier; V of t and K of t + 1 from registers to shared memory; weights of t
//   barrier; output of t; ask for V of t + 1 and K of t + 2; scores of t + 1
//
// Online softmax on scores that are not scaled yet, element by element, where they are: everything that belongs to a
// row is an accumulator, too, the bias with its maximum, say, and so has it where the scores have the row's elements.
// Which these are tells a matrix of the elements' own numbers, loaded like any other; rows are added up at the end. A
// row's maximum is raised, and what the row has summed up so far shrunk, only where weights by the old one are too
// large. A subgroup that sees that brings its rows' maxima to the board, and all of the workgroup find their weights
// again.
//
// Weights get their 16 bits in accumulators of f16: of bf16 they hold the bits, which asks for the same layout as f32's
// have. Devices that have none, or another layout, take WIDE_WEIGHTS, narrowed on their way through shared memory.
//
// Tensors of bf16 on f16 matrices (DTYPE bf16 without BFLOAT16): exact from 2^-14 to 65504, below that with an error
// under 2^-25. Items that hold more, or whose values are so small that this error shows, are marked in `redo`, and so
// are those with Inf or NaN among values that some of their rows must not see (0 * NaN): attend.comp computes them again.
//
// Which branches are allowed: as in attend_flexible.comp.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_ballot : require
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
layout(constant_id = 1) const uint ROWS = 64;   // divides BLOCK
layout(constant_id = 2) const uint KEYS = 32;   // divides BLOCK
layout(constant_id = 3) const uint HEADS = 1;   // divides the GQA group; more than 1 without a mask only
layout(constant_id = 4) const uint DIM = 128;   // channels, a multiple of SPLIT * N and of K
layout(constant_id = 5) const uint BLOCK = 64;  // tokens of a block of the mask
layout(constant_id = 6) const uint DTYPE = 2;
layout(constant_id = 7) const bool PAIRED = true;
layout(constant_id = 8) const bool WIDE = true;      // every row of q, k and v begins at a multiple of 16 bytes
layout(constant_id = 9) const bool WIDE_OUT = true;  // and every row of out
layout(constant_id = 10) const uint SIZE = 32;       // of a subgroup
layout(constant_id = 11) const uint M = 16;
layout(constant_id = 12) const uint N = 16;
layout(constant_id = 13) const uint K = 16;
layout(constant_id = 14) const uint TILES = 2;
layout(constant_id = 15) const uint SPLIT = 2;
layout(constant_id = 16) const uint TURNS = 2;  // of the loop over keys, 1 or 2; TURNS * KEYS divides BLOCK
layout(constant_id = 17) const float SLACK = 8.0;
layout(constant_id = 18) const uint REDO_ROWS = 32;  // rows of an item of attend.comp
#include "attend_element.glsl"

layout(push_constant, std430) uniform Push { AttendPush p; };
layout(std430, binding = 0) readonly buffer Q { uint q_words[]; };
layout(std430, binding = 1) readonly buffer Keys { uint k_words[]; };
layout(std430, binding = 2) readonly buffer V { uint v_words[]; };
layout(std430, binding = 0) readonly buffer Q4 { uvec4 q_wide[]; };
layout(std430, binding = 1) readonly buffer Keys4 { uvec4 k_wide[]; };
layout(std430, binding = 2) readonly buffer V4 { uvec4 v_wide[]; };
layout(std430, binding = 3) buffer Out { uint out_words[]; };
layout(std430, binding = 3) writeonly buffer Out4 { uvec4 out_wide[]; };
layout(std430, binding = 4) writeonly buffer Lse { float lse[]; };
layout(std430, binding = 5) readonly buffer Mask { uint mask_words[]; };
layout(std430, binding = 6) buffer Redo { uint redo[]; };  // a bit for each item of attend.comp

// Of scores before they are scaled; kFlexibleScale in attend_tile.h keeps their products in range.
const float kLowest = -1.0e30, kMasked = -3.0e30;
const float kLn2 = 0.69314718055994531;

const uint OWN = TILES * M;          // rows of a subgroup
const uint ALL = HEADS * ROWS;
const uint GROUPS = ALL / OWN;       // THREADS = GROUPS * SPLIT * SIZE
const uint SUBGROUPS = GROUPS * SPLIT;
const uint OWN_KEYS = KEYS / SPLIT, OWN_DIM = DIM / SPLIT;
const uint KEY_PARTS = OWN_KEYS / N, OUT_PARTS = OWN_DIM / N;  // accumulators
const uint DIM_PARTS = DIM / K, WEIGHT_PARTS = KEYS / K;       // A matrices
const uint CHUNKS = DIM / 8u;        // of a row, 16 bytes each
const uint PIECES = (KEYS * CHUNKS + THREADS - 1u) / THREADS;  // of a tile, a thread's
const bool FULL = PIECES * THREADS == KEYS * CHUNKS;
const bool EVEN = THREADS % CHUNKS == 0u;
const uint STRIP = TURNS * KEYS;  // what the walk and the loop take at once
const uint STRIPS = BLOCK / STRIP;

// Rows of shared memory in units of 16 bytes, an odd number, so that columns lie in distinct banks.
const uint STRIDE = CHUNKS | 1u;
const uint V_AT = KEYS * STRIDE;   // from K to V
const uint CAPACITY = 2u * KEYS;   // rows
const uint ROW_PIECES = (CAPACITY * CHUNKS + THREADS - 1u) / THREADS;
const bool ROWS_FULL = ROW_PIECES * THREADS == CAPACITY * CHUNKS;
const uint WEIGHT_STRIDE = KEYS / 8u | 1u;

// attend_tile.cpp computes the same number of bytes.
shared uvec4 kv_tile[CAPACITY * STRIDE];
shared uvec4 weight_tile[ALL * WEIGHT_STRIDE];
#ifdef WIDE_WEIGHTS
const uint WIDE_STRIDE = OWN_KEYS / 4u | 1u;
shared vec4 wide_tile[SUBGROUPS * OWN * WIDE_STRIDE];
#endif
shared vec4 numbers[M * N / 4u];  // of the elements of an accumulator, row by row
shared uint board[ALL];           // rows' maxima, ordered()
shared float sums[SPLIT * ALL];   // of rows' weights, then the inverse of what they come to
shared uint grown;                // the last turn in which a subgroup put maxima on the board
shared uint marks;

#define ACC coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define NARROW coopmat<float16_t, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
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

#include "attend_strips.glsl"

uint k_base, v_base;
uvec4 k_ahead[PIECES], v_ahead[PIECES];

// Rows beyond the last key are the last key's: their weights are 0.
void ask_k(uint key) {
  [[unroll]] for (uint x = 0; x < PIECES; x++)
    k_ahead[x] = k_chunk(k_base + min(key + row_of(x), p.key_end - 1u) * p.k_token, chunk_of(x));
}

void ask_v(uint key) {
  [[unroll]] for (uint x = 0; x < PIECES; x++)
    v_ahead[x] = v_chunk(v_base + min(key + row_of(x), p.key_end - 1u) * p.v_token, chunk_of(x));
}

void keep(uint piece, uint at, uvec4 w) {
  if (FULL || row_of(piece) < KEYS) kv_tile[at + row_of(piece) * STRIDE + chunk_of(piece)] = w;
}

// Not 0 if any of the 16-bit values is Inf or NaN: their exponent is all ones, and the only one that 1 carries out of.
uint specials(uvec4 w) {
  const uint exponents = DTYPE == kF16 ? 0x7c007c00u : 0x7f807f80u, one = DTYPE == kF16 ? 0x04000400u : 0x00800080u;
  const uvec4 carried = (w & exponents) + one;
  return (carried.x | carried.y | carried.z | carried.w) & 0x80008000u;
}

// Of one of a lane's weights, over a subgroup's keys: beyond it, maxima are raised.
float limit() { return exp2(SLACK) * float(KEY_PARTS); }

MAT_A q[TILES * DIM_PARTS];
ACC sum[TILES * OUT_PARTS];
ACC s[TILES * KEY_PARTS];
ACC bias[TILES];   // minus the maximum of the element's row as far as it was taken note of, scaled
ACC total[TILES];  // of weights, element by element
ACC added[TILES];  // to `total` by the tile
uint group, part;  // where the subgroup stands in the grid
uint own_sees;     // the last key that the subgroup's first row sees
uint turn = 0u;

void find_scores() {
  [[unroll]] for (uint n = 0; n < TILES * KEY_PARTS; n++) s[n] = ACC(0.0);
  [[unroll]] for (uint d = 0; d < DIM_PARTS; d++)
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++) {
      MAT_B b;
      coopMatLoad(b, kv_tile, part * (OWN_KEYS * STRIDE) + (n * N * STRIDE + d * (K / 8u)), STRIDE,
                  gl_CooperativeMatrixLayoutColumnMajor);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        s[r * KEY_PARTS + n] = coopMatMulAdd(q[r * DIM_PARTS + d], b, s[r * KEY_PARTS + n]);
    }
}

ACC load_numbers() {
  ACC number;
  coopMatLoad(number, numbers, 0u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
  return number;
}

void hide_scores(uint key) {
  const ACC number = load_numbers();
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
      [[unroll]] for (uint e = 0; e < number.length(); e++) {
        const uint i = uint(number[e]);
        const bool hidden = key + part * OWN_KEYS + n * N + i % N > min(own_sees + r * M + i / N, p.key_end - 1u);
        s[r * KEY_PARTS + n][e] = hidden ? kMasked : s[r * KEY_PARTS + n][e];
      }
}

uint weight_at(uint r, uint column) { return group * (OWN * WEIGHT_STRIDE) + (r * M * WEIGHT_STRIDE + column / 8u); }

void subgroup_sync() {
  controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared, gl_SemanticsAcquireRelease);
}

#ifdef BFLOAT16
uint pack_weights(vec2 x) {
  const uvec2 u = floatBitsToUint(x) + 0x8000u;
  return u.x >> 16 | (u.y & 0xffff0000u);
}
#else
uint pack_weights(vec2 x) { return packFloat2x16(f16vec2(x)); }
#endif

// Puts the weights of the scores where the neighbours find them. Returns whether some lane's are too large.
bool tell_weights() {
  bool large = false;
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    added[r] = ACC(0.0);
    const ACC b = bias[r];
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++) {
      ACC weights;
      [[unroll]] for (uint e = 0; e < weights.length(); e++) {
        const float x = exp2(fma(s[r * KEY_PARTS + n][e], p.scale_log2, b[e]));
        weights[e] = x;
        added[r][e] += x;
      }
      const uint at = part * (OWN_KEYS / 8u) + weight_at(r, n * N);
#ifdef WIDE_WEIGHTS
      coopMatStore(weights, wide_tile, gl_SubgroupID * (OWN * WIDE_STRIDE) + r * M * WIDE_STRIDE + n * (N / 4u), WIDE_STRIDE,
                   gl_CooperativeMatrixLayoutRowMajor);
#elif defined(BFLOAT16)
      NARROW narrow;
      [[unroll]] for (uint e = 0; e < weights.length(); e++)
        narrow[e] = unpackFloat2x16((floatBitsToUint(weights[e]) + 0x8000u) >> 16).x;
      coopMatStore(narrow, weight_tile, at, WEIGHT_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
#else
      coopMatStore(NARROW(weights), weight_tile, at, WEIGHT_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
#endif
    }
    [[unroll]] for (uint e = 0; e < added[r].length(); e++) {
      const bool too_large = added[r][e] > limit();
      large = large || too_large;
    }
  }
#ifdef WIDE_WEIGHTS
  subgroup_sync();
  [[unroll]] for (uint x = gl_SubgroupInvocationID; x < OWN * (OWN_KEYS / 8u); x += SIZE) {
    const uint row = x / (OWN_KEYS / 8u), c = x % (OWN_KEYS / 8u);
    const uint from = gl_SubgroupID * (OWN * WIDE_STRIDE) + row * WIDE_STRIDE + 2u * c;
    const vec4 low = wide_tile[from], high = wide_tile[from + 1u];
    weight_tile[(group * OWN + row) * WEIGHT_STRIDE + part * (OWN_KEYS / 8u) + c] =
        uvec4(pack_weights(low.xy), pack_weights(low.zw), pack_weights(high.xy), pack_weights(high.zw));
  }
#endif
  return subgroupAny(large);
}

// In the order of floats.
uint ordered(float x) {
  const uint u = floatBitsToUint(x);
  return (u & 0x80000000u) != 0u ? ~u : u | 0x80000000u;
}
float unordered(uint u) { return uintBitsToFloat((u & 0x80000000u) != 0u ? u & 0x7fffffffu : ~u); }

// Puts the maxima that this subgroup sees on the board.
void tell_growth() {
  const ACC number = load_numbers();
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint e = 0; e < number.length(); e++) {
      float most = s[r * KEY_PARTS][e];
      [[unroll]] for (uint n = 1; n < KEY_PARTS; n++) most = max(most, s[r * KEY_PARTS + n][e]);
      atomicMax(board[group * OWN + r * M + uint(number[e]) / N], ordered(most));
    }
  if (gl_SubgroupInvocationID == 0u) grown = turn;
}

void raise_together() {
  const ACC number = load_numbers();
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    ACC shrink;
    [[unroll]] for (uint e = 0; e < number.length(); e++) {
      const float most = unordered(board[group * OWN + r * M + uint(number[e]) / N]);
      const float now = min(bias[r][e], -most * p.scale_log2);
      shrink[e] = exp2(now - bias[r][e]);
      bias[r][e] = now;
    }
    total[r] *= shrink;
    [[unroll]] for (uint d = 0; d < OUT_PARTS; d++) sum[r * OUT_PARTS + d] *= shrink;
  }
}

void add_output() {
  [[unroll]] for (uint c = 0; c < WEIGHT_PARTS; c++) {
    MAT_A w[TILES];
    [[unroll]] for (uint r = 0; r < TILES; r++)
      coopMatLoad(w[r], weight_tile, weight_at(r, c * K), WEIGHT_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
    [[unroll]] for (uint d = 0; d < OUT_PARTS; d++) {
      MAT_B b;
      coopMatLoad(b, kv_tile, part * (OWN_DIM / 8u) + (V_AT + c * K * STRIDE + d * (N / 8u)), STRIDE,
                  gl_CooperativeMatrixLayoutRowMajor);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        sum[r * OUT_PARTS + d] = coopMatMulAdd(w[r], b, sum[r * OUT_PARTS + d]);
    }
  }
}

// A turn as described above: asks for V at v_key and for K at k_key, and finds the scores of the tile at s_key. Where
// no row may see less than all keys, of this tile and that one, nothing is on the edge.
void take_turn(bool edge, uint v_key, uint k_key, uint s_key) {
  barrier();
  [[unroll]] for (uint x = 0; x < PIECES; x++) {
    if (CONVERTS) measure_v(v_ahead[x]);
    if (!CONVERTS && edge) beyond |= specials(v_ahead[x]);
    keep(x, V_AT, converted(v_ahead[x]));
  }
  [[unroll]] for (uint x = 0; x < PIECES; x++) keep(x, 0u, converted(k_ahead[x]));
  const bool grows = tell_weights();
  if (grows) tell_growth();
  barrier();
  if (subgroupAny(grown == turn)) {
    raise_together();
    tell_weights();
    barrier();
  }
  turn++;
  [[unroll]] for (uint r = 0; r < TILES; r++) total[r] += added[r];
  add_output();
  ask_v(v_key);
  ask_k(k_key);
  find_scores();
  if (edge) hide_scores(s_key);
}

// The turns of the strip `now`, whose first tile's scores are there; `next` and `after` are strips that come after it,
// or any where there is none.
void take_strip(bool edge, uint now, uint next, uint after) {
  if (TURNS == 1u) {
    take_turn(edge, next, after, next);
  } else {
    take_turn(edge, now + KEYS, next, now + KEYS);
    take_turn(edge, next, next + KEYS, next);
  }
}

void main() {
  const uint w = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  if (w >= p.count) return;
  // One KV head after the other, so that caches hold what its rows share; long rows first.
  const uint item = p.first + w, peers = p.group / HEADS, item_of_head = item % (p.tiles * peers);
  const uint head0 = (item / (p.tiles * peers) * peers + item_of_head % peers) * HEADS;
  const uint tile_index = p.tiles - 1u - item_of_head / peers;
  const uint query0 = tile_index * ROWS;
  const uint queries = min(p.q_rows - query0, ROWS);
  const uint tid = thread();
  const uint own_subgroup = subgroupBroadcastFirst(gl_SubgroupID);
  group = own_subgroup / SPLIT;
  part = own_subgroup % SPLIT;
  own_sees = p.position + query0 + group * OWN % ROWS;
  const uint end = min(p.position + query0 + queries, p.key_end);  // keys from here on are seen by no row
  // Strips that begin before it are seen by all rows.
  const uint all_see = min(p.position + query0 + 1u, p.key_end);
  const uint inner_end = all_see < STRIP ? 0u : all_see - STRIP + 1u;
  const uint kv_head = head0 / p.group;
  k_base = p.k_base + kv_head * p.k_head;
  v_base = p.v_base + kv_head * p.v_head;
  mask_at = p.mask_base + head0 * p.mask_head + query0 / BLOCK * p.mask_row;
  last_block = (end - 1u) / BLOCK;
  begin_walk();

  // Q, as many rows at a time as shared memory holds. Rows that do not exist are the last one's.
  uint now, next, after;
  [[dont_unroll]] for (uint first = 0; first < ALL; first += CAPACITY) {
    uvec4 words[ROW_PIECES];
    [[unroll]] for (uint x = 0; x < ROW_PIECES; x++) {
      const uint r = first + row_of(x), h = min(r / ROWS, HEADS - 1u), i = query0 + min(r % ROWS, queries - 1u);
      words[x] = q_chunk(p.q_base + (head0 + h) * p.q_head + i * p.q_token, chunk_of(x));
    }
    if (first == 0u) {
      now = next_strip(end);
      ask_k(now == kNone ? 0u : now);
    }
    [[unroll]] for (uint x = 0; x < ROW_PIECES; x++)
      if (ROWS_FULL || row_of(x) < CAPACITY) kv_tile[row_of(x) * STRIDE + chunk_of(x)] = converted(words[x]);
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint own = group * OWN + r * M;
      if (own >= first && own < first + CAPACITY)
        [[unroll]] for (uint d = 0; d < DIM_PARTS; d++)
          coopMatLoad(q[r * DIM_PARTS + d], kv_tile, (own - first) * STRIDE + d * (K / 8u), STRIDE,
                      gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
  }
  if (tid == 0u) {
    marks = 0u;
    grown = ~0u;
  }
  for (uint x = tid; x < M * N / 4u; x += THREADS) numbers[x] = vec4(4u * x) + vec4(0.0, 1.0, 2.0, 3.0);
  for (uint x = tid; x < ALL; x += THREADS) board[x] = ordered(kLowest);
  [[unroll]] for (uint d = 0; d < TILES * OUT_PARTS; d++) sum[d] = ACC(0.0);
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    bias[r] = ACC(-kLowest * p.scale_log2);
    total[r] = ACC(0.0);
  }

  const bool asked = now != kNone;
  if (asked) {
    [[unroll]] for (uint x = 0; x < PIECES; x++) keep(x, 0u, converted(k_ahead[x]));
    next = next_strip(end);
    after = next_strip(end);
    ask_v(now);
    ask_k(TURNS > 1u ? now + KEYS : next == kNone ? now : next);
  }
  barrier();
  if (asked) {
    find_scores();
    if (now >= inner_end) hide_scores(now);
    [[dont_unroll]] while (next < inner_end) {
      take_strip(false, now, next, after == kNone ? next : after);
      now = next;
      next = after;
      after = next_strip(end);
    }
    [[dont_unroll]] while (now != kNone) {
      take_strip(true, now, next == kNone ? now : next, after == kNone ? now : after);
      now = next;
      next = after;
      after = next_strip(end);
    }
  }

  // Sums of rows: of a matrix of `total` each, as many at a time as shared memory holds.
  const uint MATRIX = M * N / 4u, FIT = CAPACITY * STRIDE / MATRIX, MATRICES = SUBGROUPS * TILES;
  [[dont_unroll]] for (uint first = 0; first < MATRICES; first += FIT) {
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint x = own_subgroup * TILES + r;
      if (x >= first && x < first + FIT)
        coopMatStore(total[r], kv_tile, (x - first) * MATRIX, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
    for (uint x = tid; x < FIT * M; x += THREADS) {
      const uint matrix = first + x / M, subgroup = matrix / TILES;
      float all = 0.0;
      [[unroll]] for (uint c = 0; c < N / 4u; c++) {
        const vec4 four = uintBitsToFloat(kv_tile[x * (N / 4u) + c]);
        all += (four.x + four.y) + (four.z + four.w);
      }
      if (matrix < MATRICES)
        sums[subgroup % SPLIT * ALL + subgroup / SPLIT * OWN + matrix % TILES * M + x % M] = all;
    }
  }
  barrier();
  for (uint x = tid; x < ALL; x += THREADS) {
    float all = 0.0;
    [[unroll]] for (uint c = 0; c < SPLIT; c++) all += sums[c * ALL + x];
    const bool none = all == 0.0;  // NaN is something
    const uint row = x % ROWS;
    if (DTYPE == kBf16 && none && asked) beyond = 1u;
    sums[x] = none ? 0.0 : 1.0 / all;
    if (row < queries && (p.flags & kAttendLse) != 0u)
      lse[p.lse_base + (head0 + x / ROWS) * p.lse_head + (query0 + row) * p.lse_token] =
          none ? uintBitsToFloat(0xff800000u) : (unordered(board[x]) * p.scale_log2 + log2(all)) * kLn2;
  }
  barrier();
  const ACC number = load_numbers();
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    ACC inverse;
    [[unroll]] for (uint e = 0; e < number.length(); e++) inverse[e] = sums[group * OWN + r * M + uint(number[e]) / N];
    [[unroll]] for (uint d = 0; d < OUT_PARTS; d++) sum[r * OUT_PARTS + d] *= inverse;
  }

  // The output, as many matrices of rows at a time as shared memory holds.
#ifndef WIDE_WEIGHTS
  [[dont_unroll]] for (uint first = 0; first < ALL; first += CAPACITY) {
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint mine = group * OWN + r * M;
      if (mine >= first && mine < first + CAPACITY)
        [[unroll]] for (uint d = 0; d < OUT_PARTS; d++) {
#ifdef BFLOAT16
          NARROW narrow;
          [[unroll]] for (uint e = 0; e < narrow.length(); e++)
            narrow[e] = unpackFloat2x16(f32_to_bf16(sum[r * OUT_PARTS + d][e])).x;
#else
          const NARROW narrow = NARROW(sum[r * OUT_PARTS + d]);
#endif
          coopMatStore(narrow, kv_tile, (mine - first) * STRIDE + part * (OWN_DIM / 8u) + d * (N / 8u), STRIDE,
                       gl_CooperativeMatrixLayoutRowMajor);
        }
    }
    barrier();
    [[unroll]] for (uint x = 0; x < ROW_PIECES; x++) {
      const uint r = first + row_of(x), h = r / ROWS, i = query0 + r % ROWS, c = chunk_of(x);
      if ((ROWS_FULL || row_of(x) < CAPACITY) && h < HEADS && i < p.q_rows) {
        const uvec4 words = kv_tile[row_of(x) * STRIDE + c];
        const uint at = p.out_base + (head0 + h) * p.out_head + i * p.out_token;
        if (WIDE_OUT) {
          out_wide[(at >> 3) + c] = words;
        } else {
          [[unroll]] for (uint k = 0; k < 4u; k++) store_out(at, 4u * c + k, widen(words[k]));
        }
      }
    }
  }
#else
  const uint OUT_STRIDE = DIM / 4u | 1u, OUT_ROWS = CAPACITY * STRIDE / OUT_STRIDE / M * M;
  [[dont_unroll]] for (uint first = 0; first < ALL; first += OUT_ROWS) {
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint mine = group * OWN + r * M;
      if (mine >= first && mine < first + OUT_ROWS)
        [[unroll]] for (uint d = 0; d < OUT_PARTS; d++)
          coopMatStore(sum[r * OUT_PARTS + d], kv_tile, (mine - first) * OUT_STRIDE + part * (OWN_DIM / 4u) + d * (N / 4u),
                       OUT_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
    for (uint x = tid; x < OUT_ROWS * CHUNKS; x += THREADS) {
      const uint r = first + x / CHUNKS, h = r / ROWS, i = query0 + r % ROWS, c = x % CHUNKS;
      if (h < HEADS && i < p.q_rows) {
        const vec4 low = uintBitsToFloat(kv_tile[x / CHUNKS * OUT_STRIDE + 2u * c]);
        const vec4 high = uintBitsToFloat(kv_tile[x / CHUNKS * OUT_STRIDE + 2u * c + 1u]);
        const uint at = p.out_base + (head0 + h) * p.out_head + i * p.out_token;
        if (WIDE_OUT) {
          out_wide[(at >> 3) + c] = uvec4(narrow(low.x) | narrow(low.y) << 16, narrow(low.z) | narrow(low.w) << 16,
                                          narrow(high.x) | narrow(high.y) << 16, narrow(high.z) | narrow(high.w) << 16);
        } else {
          store_out(at, 4u * c, low.xy);
          store_out(at, 4u * c + 1u, low.zw);
          store_out(at, 4u * c + 2u, high.xy);
          store_out(at, 4u * c + 3u, high.zw);
        }
      }
    }
  }
#endif

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
