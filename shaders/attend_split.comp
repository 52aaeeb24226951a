#version 460
// attend for heads that keep blocks of their own, on cooperative matrices whose layout is known
// (src/vulkan/attend_layout.h). f16, or bf16 where BFLOAT16 is defined, products of M x N x N with f32 sums; the sums
// of P V are of f16 where HALF_SUM is defined.
//
// A workgroup takes ROWS query rows of a head, or of HEADS heads that share a KV head and have no mask. Its subgroups
// stand in a grid of HEADS * ROWS / (TILES * M) by SPLIT: of a tile of KEYS keys a subgroup computes the scores of its
// TILES * M rows and of one part in SPLIT of the keys, then, with the weights that its neighbours put into shared
// memory, one part in SPLIT of the output's channels. So each fragment of K and V that comes from shared memory serves
// TILES products, where all of the rows' output and queries would leave no registers for more than one.
//
// The output of a tile and the scores of the next are computed between the same two barriers, so that neither waits
// for the other; later tiles are on their way in registers meanwhile:
//
//   barrier; V of t and K of t + 1 from registers to shared memory; weights of t
//   barrier; output of t; ask for V of t + 1 and K of t + 2; scores of t + 1
//
// Online softmax on scores that are not scaled yet. A row's maximum is raised, and what the row has summed up so far
// shrunk, only where the weights by the old one are too large: the few of a lane add up to more than limit(). A
// subgroup that sees that puts its rows' maxima on the board for its neighbours, who see other keys of the same rows,
// and all of the workgroup find their weights again.
//
// Which branches are allowed, and what is marked in `redo`: as in attend_flexible.comp.
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
layout(constant_id = 3) const uint SPLIT = 2;   // SPLIT * N divides KEYS and DIM
layout(constant_id = 4) const uint DIM = 128;   // channels, a multiple of N and of 8
layout(constant_id = 5) const uint BLOCK = 64;  // tokens of a block of the mask
layout(constant_id = 6) const uint DTYPE = 2;
layout(constant_id = 7) const bool PAIRED = true;
layout(constant_id = 8) const bool WIDE_OUT = true;  // every row of out begins at a multiple of 16 bytes; all others do
layout(constant_id = 9) const uint SIZE = 32;        // of a subgroup
layout(constant_id = 10) const uint M = 16;
layout(constant_id = 11) const uint N = 16;
layout(constant_id = 12) const uint TILES = 2;
layout(constant_id = 13) const uint SLOTS = 2;
layout(constant_id = 14) const uint SLOT_SHIFT = 2;
layout(constant_id = 15) const uint LANE_BITS = 3;
layout(constant_id = 16) const float SLACK = 8.0;
layout(constant_id = 17) const uint REDO_ROWS = 32;  // rows of an item of attend.comp
layout(constant_id = 18) const uint HEADS = 1;      // divides the GQA group; more than 1 without a mask only
layout(constant_id = 19) const uint TURNS = 1;      // of the loop over keys, 1 or 2; TURNS * KEYS divides BLOCK
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

const uint OWN = TILES * M;          // rows of a subgroup
const uint ALL = HEADS * ROWS;
const uint GROUPS = ALL / OWN;       // THREADS = GROUPS * SPLIT * SIZE
const uint OWN_KEYS = KEYS / SPLIT, OWN_DIM = DIM / SPLIT;
const uint KEY_PARTS = OWN_KEYS / N, DIM_PARTS = DIM / N, OUT_PARTS = OWN_DIM / N;
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
shared uvec4 weight_tile[SPLIT > 1u ? ALL * WEIGHT_STRIDE : 1u];
shared vec4 numbers[M * N / 4u];  // of the elements of an accumulator, row by row
shared float board[SPLIT * ALL];  // maxima that subgroups saw, and sums at the end
shared uint grown_at[GROUPS * SPLIT];  // the last turn in which a subgroup put its maxima on the board
shared uint marks;

#define ACC coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define SUM coopmat<SUM_T, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define MAT_A coopmat<T, gl_ScopeSubgroup, M, N, gl_MatrixUseA>
#define MAT_B coopmat<T, gl_ScopeSubgroup, N, N, gl_MatrixUseB>

SEER_DEFINE_STORE(store_out, store_out_half, out_words)

#include "attend_strips.glsl"

uint beyond = 0u;  // not 0: this thread met a value that a product with 0 does not bear
uint k_base, v_base;
uvec4 k_ahead[PIECES], v_ahead[PIECES];

// Rows beyond the last key are the last key's: their weights are 0.
void ask_k(uint key) {
  [[unroll]] for (uint x = 0; x < PIECES; x++)
    k_ahead[x] = k_wide[k_base + min(key + row_of(x), p.key_end - 1u) * (p.k_token >> 3) + chunk_of(x)];
}

void ask_v(uint key) {
  [[unroll]] for (uint x = 0; x < PIECES; x++)
    v_ahead[x] = v_wide[v_base + min(key + row_of(x), p.key_end - 1u) * (p.v_token >> 3) + chunk_of(x)];
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
// Of the weights that a lane adds up for a row: beyond it, the row's maximum is raised.
float limit() { return exp2(SLACK - kHeadroom) * float(KEY_PARTS * LENGTH / SLOTS); }

MAT_A q[TILES * DIM_PARTS];
SUM sum[TILES * OUT_PARTS];
ACC s[TILES * KEY_PARTS];
MAT_A weights[TILES * KEY_PARTS];
float highest[TILES * SLOTS];  // of rows, as far as it was taken note of
float total[TILES * SLOTS];    // of this lane's weights
float added[TILES * SLOTS];    // to `total` by the tile
uint group, part;              // where the subgroup stands in the grid
uint own_sees;                 // the last key that the subgroup's first row sees
uint turn = 0u;

void find_scores() {
  [[unroll]] for (uint n = 0; n < TILES * KEY_PARTS; n++) s[n] = ACC(0.0);
  [[unroll]] for (uint d = 0; d < DIM_PARTS; d++)
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++) {
      MAT_B b;
      coopMatLoad(b, kv_tile, part * (OWN_KEYS * STRIDE) + (n * N * STRIDE + d * (N / 8u)), STRIDE,
                  gl_CooperativeMatrixLayoutColumnMajor);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        s[r * KEY_PARTS + n] = coopMatMulAdd(q[r * DIM_PARTS + d], b, s[r * KEY_PARTS + n]);
    }
}

void hide_scores(uint key) {
  ACC number;
  coopMatLoad(number, numbers, 0u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
      [[unroll]] for (uint e = 0; e < LENGTH; e++) {
        const uint i = uint(number[e]);
        const bool hidden = key + part * OWN_KEYS + n * N + i % N > min(own_sees + r * M + i / N, p.key_end - 1u);
        s[r * KEY_PARTS + n][e] = hidden ? kMasked : s[r * KEY_PARTS + n][e];
      }
}

// Whether some lane's weights are too large.
bool find_weights() {
  bool large = false;
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const float bias = -highest[r * SLOTS + z] * p.scale_log2 - kHeadroom;
      float all = 0.0;
      [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
        [[unroll]] for (uint e = 0; e < LENGTH; e++)
          if (slot(e) == z) {
            const float x = exp2(fma(s[r * KEY_PARTS + n][e], p.scale_log2, bias));
            weights[r * KEY_PARTS + n][e] = narrow_weight(x);
            all += x;
          }
      added[r * SLOTS + z] = all;
      const bool too_large = all > limit();
      large = large || too_large;
    }
  return subgroupAny(large);
}

float highest_score(uint r, uint z) {
  float most = highest[r * SLOTS + z];
  [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
    [[unroll]] for (uint e = 0; e < LENGTH; e++)
      if (slot(e) == z) most = max(most, s[r * KEY_PARTS + n][e]);
  return row_max(most);
}

void raise(uint r, float most[SLOTS]) {
  float shrink[SLOTS];
  [[unroll]] for (uint z = 0; z < SLOTS; z++) {
    const uint i = r * SLOTS + z;
    shrink[z] = exp2((highest[i] - most[z]) * p.scale_log2);
    highest[i] = most[z];
    total[i] *= shrink[z];
  }
  [[unroll]] for (uint d = 0; d < OUT_PARTS; d++)
    [[unroll]] for (uint e = 0; e < LENGTH; e++) sum[r * OUT_PARTS + d][e] *= SUM_T(shrink[slot(e)]);
}

void raise_alone() {
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    float most[SLOTS];
    [[unroll]] for (uint z = 0; z < SLOTS; z++) most[z] = highest_score(r, z);
    raise(r, most);
  }
}

// Puts the maxima that this subgroup sees on the board.
void tell_growth() {
  ACC number;
  coopMatLoad(number, numbers, 0u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const float most = highest_score(r, z);
      const uint i = uint(number[z << SLOT_SHIFT]);
      if (i % N == 0u) board[part * ALL + group * OWN + r * M + i / N] = most;
    }
  if (gl_SubgroupInvocationID == 0u) grown_at[group * SPLIT + part] = turn;
}

// Whether any subgroup put something on the board in this turn: all of them get the same answer.
bool growth_told() {
  bool told = false;
  [[unroll]] for (uint x = 0; x < GROUPS * SPLIT; x++) {
    const bool now = grown_at[x] == turn;
    told = told || now;
  }
  return subgroupAny(told);
}

void raise_together() {
  ACC number;
  coopMatLoad(number, numbers, 0u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    float most[SLOTS];
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const uint row = group * OWN + r * M + uint(number[z << SLOT_SHIFT]) / N;
      most[z] = highest[r * SLOTS + z];
      [[unroll]] for (uint x = 0; x < SPLIT; x++) most[z] = max(most[z], board[x * ALL + row]);
    }
    raise(r, most);
  }
}

uint weight_at(uint r, uint n) { return group * (OWN * WEIGHT_STRIDE) + (r * M * WEIGHT_STRIDE + n * (N / 8u)); }

void tell_weights() {
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++)
      coopMatStore(weights[r * KEY_PARTS + n], weight_tile, part * (OWN_KEYS / 8u) + weight_at(r, n), WEIGHT_STRIDE,
                   gl_CooperativeMatrixLayoutRowMajor);
}

// V of this subgroup's own keys, as far as one row of matrices goes. It is asked for as soon as it is there, so that the
// question whether a maximum grew is answered meanwhile.
MAT_B first_v[OUT_PARTS];

void ask_first_v() {
  [[unroll]] for (uint d = 0; d < OUT_PARTS; d++)
    coopMatLoad(first_v[d], kv_tile, part * (OWN_KEYS * STRIDE + OWN_DIM / 8u) + (V_AT + d * (N / 8u)), STRIDE,
                gl_CooperativeMatrixLayoutRowMajor);
}

void add_output() {
  [[unroll]] for (uint turned = 0; turned < SPLIT; turned++) {
    const uint x = turned == 0u ? part : (part + turned) % SPLIT;
    const uint v_at = x * (OWN_KEYS * STRIDE) + part * (OWN_DIM / 8u), w_at = x * (OWN_KEYS / 8u);
    [[unroll]] for (uint n = 0; n < KEY_PARTS; n++) {
      MAT_A w[TILES];
      [[unroll]] for (uint r = 0; r < TILES; r++) {
        if (turned == 0u)
          w[r] = weights[r * KEY_PARTS + n];
        else
          coopMatLoad(w[r], weight_tile, w_at + weight_at(r, n), WEIGHT_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      }
      [[unroll]] for (uint d = 0; d < OUT_PARTS; d++) {
        MAT_B b;
        if (turned == 0u && n == 0u)
          b = first_v[d];
        else
          coopMatLoad(b, kv_tile, v_at + (V_AT + n * N * STRIDE + d * (N / 8u)), STRIDE,
                      gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint r = 0; r < TILES; r++)
          sum[r * OUT_PARTS + d] = coopMatMulAdd(w[r], b, sum[r * OUT_PARTS + d]);
      }
    }
  }
}

// A turn as described above: asks for V at v_key and for K at k_key, and finds the scores of the tile at s_key. Where
// no row may see less than all keys, of this tile and that one, nothing is on the edge.
void take_turn(bool edge, uint v_key, uint k_key, uint s_key) {
  barrier();
  [[unroll]] for (uint x = 0; x < PIECES; x++) {
    if (edge) beyond |= specials(v_ahead[x]);
    keep(x, V_AT, v_ahead[x]);
  }
  [[unroll]] for (uint x = 0; x < PIECES; x++) keep(x, 0u, k_ahead[x]);
  const bool grows = find_weights();
  if (SPLIT > 1u) {
    tell_weights();
    if (grows) tell_growth();
    barrier();
    ask_first_v();
    if (growth_told()) {
      raise_together();
      find_weights();
      tell_weights();
      barrier();
    }
    turn++;
  } else {
    if (grows) {
      raise_alone();
      find_weights();
    }
    barrier();
    ask_first_v();
  }
  [[unroll]] for (uint i = 0; i < TILES * SLOTS; i++) total[i] += added[i];
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
  k_base = (p.k_base + kv_head * p.k_head) >> 3;
  v_base = (p.v_base + kv_head * p.v_head) >> 3;
  mask_at = p.mask_base + head0 * p.mask_head + query0 / BLOCK * p.mask_row;
  last_block = (end - 1u) / BLOCK;
  begin_walk();

  // Q, as many rows at a time as shared memory holds. Rows that do not exist are the last one's.
  uint now, next, after;
  [[dont_unroll]] for (uint first = 0; first < ALL; first += CAPACITY) {
    uvec4 words[ROW_PIECES];
    [[unroll]] for (uint x = 0; x < ROW_PIECES; x++) {
      const uint r = first + row_of(x), h = min(r / ROWS, HEADS - 1u), i = query0 + min(r % ROWS, queries - 1u);
      words[x] = q_wide[((p.q_base + (head0 + h) * p.q_head + i * p.q_token) >> 3) + chunk_of(x)];
    }
    if (first == 0u) {
      now = next_strip(end);
      ask_k(now == kNone ? 0u : now);
    }
    [[unroll]] for (uint x = 0; x < ROW_PIECES; x++)
      if (ROWS_FULL || row_of(x) < CAPACITY) kv_tile[row_of(x) * STRIDE + chunk_of(x)] = words[x];
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint own = group * OWN + r * M;
      if (own >= first && own < first + CAPACITY)
        [[unroll]] for (uint d = 0; d < DIM_PARTS; d++)
          coopMatLoad(q[r * DIM_PARTS + d], kv_tile, (own - first) * STRIDE + d * (N / 8u), STRIDE,
                      gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
  }
  if (tid == 0u) marks = 0u;
  for (uint x = tid; x < M * N / 4u; x += THREADS) numbers[x] = vec4(4u * x) + vec4(0.0, 1.0, 2.0, 3.0);
  for (uint x = tid; x < SPLIT * ALL; x += THREADS) board[x] = kLowest;
  if (tid < GROUPS * SPLIT) grown_at[tid] = ~0u;
  [[unroll]] for (uint d = 0; d < TILES * OUT_PARTS; d++) sum[d] = SUM(0.0);
  [[unroll]] for (uint z = 0; z < TILES * SLOTS; z++) {
    highest[z] = kLowest;
    total[z] = 0.0;
  }

  const bool asked = now != kNone;
  if (asked) {
    [[unroll]] for (uint x = 0; x < PIECES; x++) keep(x, 0u, k_ahead[x]);
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

  barrier();  // everyone is done with the board
  ACC number;
  coopMatLoad(number, numbers, 0u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
  [[unroll]] for (uint i = 0; i < TILES * SLOTS; i++) total[i] = row_sum(total[i]);
  if (SPLIT > 1u) {
    [[unroll]] for (uint r = 0; r < TILES; r++)
      [[unroll]] for (uint z = 0; z < SLOTS; z++) {
        const uint i = uint(number[z << SLOT_SHIFT]);
        if (i % N == 0u) board[part * ALL + group * OWN + r * M + i / N] = total[r * SLOTS + z];
      }
    barrier();
  }
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    float inverse[SLOTS];
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const uint i = uint(number[z << SLOT_SHIFT]), place = group * OWN + r * M + i / N, row = place % ROWS;
      float all = total[r * SLOTS + z];
      if (SPLIT > 1u) {
        all = 0.0;
        [[unroll]] for (uint x = 0; x < SPLIT; x++) all += board[x * ALL + place];
      }
      const bool none = all == 0.0;  // NaN is something
      inverse[z] = none ? 0.0 : 1.0 / all;
      if (DTYPE == kBf16 && none && asked) beyond = 1u;
      if (part == 0u && i % N == 0u && row < queries && (p.flags & kAttendLse) != 0u)
        lse[p.lse_base + (head0 + place / ROWS) * p.lse_head + (query0 + row) * p.lse_token] =
            none ? uintBitsToFloat(0xff800000u) : (highest[r * SLOTS + z] * p.scale_log2 + kHeadroom + log2(all)) * kLn2;
    }
    [[unroll]] for (uint d = 0; d < OUT_PARTS; d++)
      [[unroll]] for (uint e = 0; e < LENGTH; e++) {
#ifdef HALF_SUM
        const bool held = abs(float(sum[r * OUT_PARTS + d][e])) <= 65504.0;
        beyond |= held ? 0u : 1u;
#endif
        sum[r * OUT_PARTS + d][e] *= SUM_T(inverse[slot(e)]);
      }
  }

  // The output, as many rows at a time as shared memory holds.
  [[dont_unroll]] for (uint first = 0; first < ALL; first += CAPACITY) {
    barrier();
    [[unroll]] for (uint r = 0; r < TILES; r++) {
      const uint mine = group * OWN + r * M;
      if (mine >= first && mine < first + CAPACITY)
        [[unroll]] for (uint d = 0; d < OUT_PARTS; d++) {
          MAT_A rounded;
          [[unroll]] for (uint e = 0; e < LENGTH; e++) rounded[e] = narrow_output(float(sum[r * OUT_PARTS + d][e]));
          coopMatStore(rounded, kv_tile, (mine - first) * STRIDE + part * (OWN_DIM / 8u) + d * (N / 8u), STRIDE,
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
