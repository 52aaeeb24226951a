#version 460
// select by threshold from gate vectors, on VK_KHR_cooperative_matrix whose layout is known (src/vulkan/attend_layout.h):
// logits never leave the registers, and nothing but the mask is written.
//
// An item is ROWS block rows of a head. It goes through the key blocks that they see twice, COLS at a time: first for
// each row's greatest logit and the sum of its weights, then to compare the same logits with the row's cut. They are
// high high + high low + low high of vectors in two f16 each (split.glsl), those of key blocks by score_split.comp, in
// f32. The rows' vectors stay in A matrices. Element e of a lane is in the lane's row slot(e), and lanes that differ in
// LANE_BITS alone share their rows.
//
// Logits of a row and a key block, and sums, are the same whatever the other rows of the item are, so that a prompt in
// chunks is judged as a whole one is. Items with a vector that cannot be taken apart compute logits one by one.
//
// As in attend_flexible.comp, no branch of the loop over key blocks may look divergent to a compiler.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma use_vulkan_memory_model
#include "args.h"
#include "causal.glsl"
#include "item.glsl"
#include "split.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint SIZE = 32;  // of a subgroup
layout(constant_id = 2) const uint M = 16;
layout(constant_id = 3) const uint N = 16;  // divides COLS
layout(constant_id = 4) const uint K = 16;
layout(constant_id = 5) const uint DIM = 128;  // a multiple of K and 8
layout(constant_id = 6) const uint TILES = 1;  // a subgroup has that many times M rows
layout(constant_id = 7) const uint SLOTS = 2;
layout(constant_id = 8) const uint SLOT_SHIFT = 2;
layout(constant_id = 9) const uint LANE_BITS = 3;
layout(constant_id = 10) const uint BUFFERS = 2;  // tiles in shared memory: 2 take one barrier a tile instead of two

layout(push_constant) uniform Push { SelectSplitPush p; };
layout(binding = 0) readonly buffer Q { float q[]; };
layout(binding = 0) readonly buffer Q4 { vec4 q4[]; };
layout(binding = 1) readonly buffer Keys { float k[]; };
layout(binding = 2) readonly buffer SplitK { uvec4 split_k[]; };
layout(binding = 2) readonly buffer PowersK { float powers_k[]; };
layout(binding = 3) buffer Mask { uint mask[]; };
layout(binding = 4) buffer Stats { uint stats[]; };
#include "scores.glsl"
#include "select_stats.glsl"

const uint COLS = kSelectCols;  // a word of the mask
const uint SUBGROUPS = THREADS / SIZE, OWN = TILES * M, ROWS = SUBGROUPS * OWN;
const uint PARTS = DIM / K, COL_PARTS = COLS / N, LENGTH = M * N / SIZE;
const uint CHUNKS = DIM / 8;                // of 16 bytes, of one half of a vector
const uint K_STRIDE = 2 * CHUNKS + 1;       // odd, so that columns lie in distinct banks
const uint Q_STRIDE = CHUNKS | 1;
const uint BUFFER = COLS * K_STRIDE;
const uint LOADS = COLS * 2 * CHUNKS / THREADS;  // of a tile, a thread's
const uint FACTORS = THREADS > COLS ? THREADS : COLS;  // of a tile, COLS of them used: a thread for each, and no branch
const uint FACTOR_LOADS = FACTORS / THREADS;
const uint QUADS = (DIM / 4 + SIZE - 1) / SIZE;  // of a vector, a lane's
const uint AT_ONCE = M % 8 == 0 ? 8 : 1;  // rows whose loads a lane has in flight
const uint Q_AREA = SUBGROUPS * M * Q_STRIDE;

// Logits before the row's factor: those of ordinary vectors are below 2^80.
const float kLowest = -1.0e30, kMasked = -3.0e30;
const float kLog2e = 1.4426950408889634;

shared uvec4 tile[BUFFERS * BUFFER > Q_AREA ? BUFFERS * BUFFER : Q_AREA];
shared vec4 factors[BUFFERS * FACTORS / 4];
shared vec4 numbers[M * N / 4];  // of the elements of an accumulator, row by row
shared float powers_q[ROWS];
shared uint marks;
shared uint totals[2];  // blocks kept, rows that fell back

#define ACC coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define MAT_A coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define MAT_B coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

uint lane() { return gl_SubgroupInvocationID; }
uint thread() { return gl_SubgroupID * SIZE + gl_SubgroupInvocationID; }
uint slot(uint e) { return e >> SLOT_SHIFT & (SLOTS - 1u); }

float row_max(float x) {
  [[unroll]] for (uint bit = 1; bit < SIZE; bit <<= 1)
    if ((LANE_BITS & bit) != 0) x = max(x, subgroupShuffleXor(x, bit));
  return x;
}
float row_sum(float x) {
  [[unroll]] for (uint bit = 1; bit < SIZE; bit <<= 1)
    if ((LANE_BITS & bit) != 0) x += subgroupShuffleXor(x, bit);
  return x;
}
uint row_or(uint x) {
  [[unroll]] for (uint bit = 1; bit < SIZE; bit <<= 1)
    if ((LANE_BITS & bit) != 0) x |= subgroupShuffleXor(x, bit);
  return x;
}

struct Item {
  uint head, k_head;
  uint row0, rows;  // in the call's windows
  uint causal;      // key blocks that its last row sees
};

uint own_row0;  // the subgroup's first row, of the item
uint beyond = 0;  // not 0: this thread met a vector that was not taken apart

uint causal_of(uint row) { return causal_blocks(p.row + row, p.q_len, p.offset, p.block); }
uint mask_at(Item item, uint row) { return p.mask_skip / 4 + (item.head - p.head) * p.mask_head + row * p.mask_row; }

// ---- The rows' vectors ----------------------------------------------------------------------------------------------

MAT_A high[TILES * PARTS], low[TILES * PARTS];

// Rows that are not there are the item's last row once more, so that they do what it does.
uint existing(Item item, uint row) { return min(row, item.rows - 1); }

// One half of M vectors of a subgroup at a time goes through shared memory.
void load_rows(Item item) {
  const uint area = gl_SubgroupID * M * Q_STRIDE;
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint part = 0; part < 2; part++) {
      [[dont_unroll]] for (uint i0 = 0; i0 < M; i0 += AT_ONCE) {
        vec4 x[AT_ONCE * QUADS];
        [[unroll]] for (uint i = 0; i < AT_ONCE; i++) {
          const uint row = existing(item, own_row0 + r * M + i0 + i);
          const uint base = p.q_skip / 16 + ((item.row0 + row) * p.q_heads + item.head) * (DIM / 4);
          [[unroll]] for (uint n = 0; n < QUADS; n++) x[i * QUADS + n] = q4[base + (n * SIZE + lane()) % (DIM / 4)];
        }
        [[unroll]] for (uint i = 0; i < AT_ONCE; i++) {
          uint most = 0;
          [[unroll]] for (uint n = 0; n < QUADS; n++) most = max(most, largest_of(x[i * QUADS + n]));
          most = subgroupMax(most);
          const bool fine = splits(most);
          const uint up = fine ? split_exponent(most) : 127;
          [[unroll]] for (uint n = 0; n < QUADS; n++) {
            const vec4 all = fine ? x[i * QUADS + n] * uintBitsToFloat(up << 23) : vec4(0.0), first = split_high(all);
            const uvec2 words = pack_halves(part == 0 ? first : all - first);
            const uint c = (n * SIZE + lane()) % (DIM / 4), at = area + (i0 + i) * Q_STRIDE + c / 2;
            tile[at][2 * (c & 1)] = words.x;
            tile[at][2 * (c & 1) + 1] = words.y;
          }
          powers_q[own_row0 + r * M + i0 + i] = uintBitsToFloat((254 - up) << 23);
          beyond |= fine ? 0 : 1;
        }
      }
      barrier();
      [[unroll]] for (uint d = 0; d < PARTS; d++) {
        if (part == 0)
          coopMatLoad(high[r * PARTS + d], tile, area + d * K / 8, Q_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        else
          coopMatLoad(low[r * PARTS + d], tile, area + d * K / 8, Q_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
      }
      barrier();
    }
}

// ---- Tiles of key blocks --------------------------------------------------------------------------------------------

uvec4 ahead[LOADS];
float factors_ahead[FACTOR_LOADS];

void fetch(Item item, uint col0) {
  const uint base = p.split_skip / 16 + item.k_head * 2 * CHUNKS, stride = p.k_heads * 2 * CHUNKS;
  [[unroll]] for (uint n = 0; n < LOADS; n++) {
    const uint x = n * THREADS + thread(), col = col0 + x / (2 * CHUNKS);
    ahead[n] = split_k[base + min(col, item.causal - 1) * stride + x % (2 * CHUNKS)];
  }
  [[unroll]] for (uint n = 0; n < FACTOR_LOADS; n++)
    factors_ahead[n] =
        powers_k[p.powers + min(col0 + n * THREADS + thread(), item.causal - 1) * p.k_heads + item.k_head];
}

void keep(uint side) {
  [[unroll]] for (uint n = 0; n < LOADS; n++) {
    const uint x = n * THREADS + thread();
    tile[side * BUFFER + x / (2 * CHUNKS) * K_STRIDE + x % (2 * CHUNKS)] = ahead[n];
  }
  [[unroll]] for (uint n = 0; n < FACTOR_LOADS; n++) {
    const uint x = side * FACTORS + n * THREADS + thread();
    factors[x / 4][x % 4] = factors_ahead[n];
    beyond |= is_valid(floatBitsToUint(factors_ahead[n])) ? 0 : 1;
  }
}

ACC s[TILES * COL_PARTS];

// Logits of a tile, before the rows' factors.
void multiply(uint side) {
  const uint at = side * BUFFER;
  [[unroll]] for (uint i = 0; i < TILES * COL_PARTS; i++) s[i] = ACC(0.0);
  [[unroll]] for (uint d = 0; d < PARTS; d++)
    [[unroll]] for (uint n = 0; n < COL_PARTS; n++) {
      MAT_B b;
      coopMatLoad(b, tile, at + n * N * K_STRIDE + CHUNKS + d * K / 8, K_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        s[r * COL_PARTS + n] = coopMatMulAdd(high[r * PARTS + d], b, s[r * COL_PARTS + n]);
      coopMatLoad(b, tile, at + n * N * K_STRIDE + d * K / 8, K_STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        s[r * COL_PARTS + n] = coopMatMulAdd(low[r * PARTS + d], b, s[r * COL_PARTS + n]);
      [[unroll]] for (uint r = 0; r < TILES; r++)
        s[r * COL_PARTS + n] = coopMatMulAdd(high[r * PARTS + d], b, s[r * COL_PARTS + n]);
    }
  [[unroll]] for (uint n = 0; n < COL_PARTS; n++) {
    ACC factor;  // of each column, a power of 2
    coopMatLoad(factor, factors, (side * FACTORS + n * N) / 4, 0u, gl_CooperativeMatrixLayoutRowMajor);
    [[unroll]] for (uint r = 0; r < TILES; r++)
      [[unroll]] for (uint e = 0; e < LENGTH; e++) s[r * COL_PARTS + n][e] *= factor[e];
  }
}

// ---- What a lane knows of its rows ----------------------------------------------------------------------------------

uint row_of[TILES * SLOTS];     // of the item; it may not be there
uint mask_of[TILES * SLOTS];    // where its mask begins
uint causal[TILES * SLOTS];     // key blocks that the row sees
float unit[TILES * SLOTS];      // of a logit here, in powers of e
float top[TILES * SLOTS];       // the greatest logit of this lane, later the row's cut
float total[TILES * SLOTS];     // of this lane's weights, later of the row
uint kept[TILES * SLOTS];
uint col_of[LENGTH];            // of an element, in its matrix

void begin_rows(Item item) {
  ACC number;
  coopMatLoad(number, numbers, 0u, N / 4, gl_CooperativeMatrixLayoutRowMajor);
  [[unroll]] for (uint e = 0; e < LENGTH; e++) col_of[e] = uint(number[e]) % N;
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const uint i = r * SLOTS + z, row = own_row0 + r * M + uint(number[z << SLOT_SHIFT]) / N;
      row_of[i] = row;
      mask_of[i] = mask_at(item, item.row0 + existing(item, row));
      causal[i] = causal_of(item.row0 + existing(item, row));
      unit[i] = powers_q[row] * p.scale * kLog2e;
      top[i] = kLowest;
      total[i] = 0.0;
      kept[i] = 0;
    }
}

// Weights are 2 to the differences of logits times `unit`: equal logits weigh the same, the greatest 1.
void add_weights(uint col0, bool edge) {
  if (edge)
    [[unroll]] for (uint r = 0; r < TILES; r++)
      [[unroll]] for (uint n = 0; n < COL_PARTS; n++)
        [[unroll]] for (uint e = 0; e < LENGTH; e++) {
          const bool hidden = col0 + n * N + col_of[e] >= causal[r * SLOTS + slot(e)];
          s[r * COL_PARTS + n][e] = hidden ? kMasked : s[r * COL_PARTS + n][e];
        }
  [[unroll]] for (uint r = 0; r < TILES; r++)
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const uint i = r * SLOTS + z;
      float most = top[i];
      [[unroll]] for (uint n = 0; n < COL_PARTS; n++)
        [[unroll]] for (uint e = 0; e < LENGTH; e++)
          if (slot(e) == z) most = max(most, s[r * COL_PARTS + n][e]);
      total[i] *= exp2((top[i] - most) * unit[i]);
      top[i] = most;
      float part = 0.0;
      [[unroll]] for (uint n = 0; n < COL_PARTS; n++)
        [[unroll]] for (uint e = 0; e < LENGTH; e++)
          if (slot(e) == z) part += exp2((s[r * COL_PARTS + n][e] - most) * unit[i]);
      total[i] += part;
    }
}

// The least weight whose probability is above the threshold, near the product of threshold and sum.
float least_weight(float sum) {
  const uint near = floatBitsToUint(max(p.threshold * sum, 1.18e-38));
  uint least = near + 4;
  [[dont_unroll]] for (uint down = 1; down <= 8; down++) {
    const float w = uintBitsToFloat(near + 4 - down);
    least = divided(w, sum) > p.threshold ? near + 4 - down : least;
  }
  return uintBitsToFloat(least);
}

// Turns tops and totals of lanes into cuts of rows.
void find_cuts() {
  [[unroll]] for (uint i = 0; i < TILES * SLOTS; i++) {
    const float most = row_max(top[i]);
    const float sum = row_sum(total[i] * exp2((top[i] - most) * unit[i]));
    const float w = least_weight(sum);
    float cut = min(most, most + log2(w) / unit[i]);
    cut = w > 1.0 ? -kMasked : cut;  // none
    top[i] = p.threshold < 0.0 ? kLowest : cut;
  }
}

// All lanes of a row write its words, the same ones: a branch would be dearer.
void write_words(uint word) {
  [[unroll]] for (uint r = 0; r < TILES; r++) {
    uint bits[SLOTS];
    [[unroll]] for (uint z = 0; z < SLOTS; z++) bits[z] = 0;
    [[unroll]] for (uint n = 0; n < COL_PARTS; n++)
      [[unroll]] for (uint e = 0; e < LENGTH; e++)
        bits[slot(e)] |= s[r * COL_PARTS + n][e] >= top[r * SLOTS + slot(e)] ? 1u << (n * N + col_of[e]) : 0u;
    [[unroll]] for (uint z = 0; z < SLOTS; z++) {
      const uint i = r * SLOTS + z, seen = causal[i], here = COLS * word;
      uint b = row_or(bits[z]);
      b &= seen >= here + COLS ? 0xffffffffu : (1u << (max(seen, here) - here)) - 1;
      b |= word == 0 && (p.flags & kSelectKeepFirst) != 0 ? 1 : 0;
      b |= word == (seen - 1) / COLS && (p.flags & kSelectKeepDiagonal) != 0 ? 1u << ((seen - 1) % COLS) : 0;
      mask[mask_of[i] + word] = b;
      kept[i] += uint(bitCount(b));
    }
  }
}

// ---- Vectors that were not taken apart ------------------------------------------------------------------------------

uint logit(Item item, uint row, uint col) {
  const uint q_base = p.q_skip / 4 + (row * p.q_heads + item.head) * DIM;
  const uint k_base = p.k_skip / 4 + (col * p.k_heads + item.k_head) * DIM;
  float dot = 0.0;
  [[dont_unroll]] for (uint d = 0; d < DIM; d++) dot = fma(q[q_base + d], k[k_base + d], dot);
  return floatBitsToUint(dot * p.scale);
}

// A row by a subgroup, by the rules of scores.glsl.
void select_slowly(Item item, uint tiles) {
  [[dont_unroll]] for (uint i = 0; i < OWN; i++) {
    if (own_row0 + i >= item.rows) break;
    const uint row = item.row0 + own_row0 + i, seen = causal_of(row), words = (seen + 31) / 32;
    Softmax of_row = Softmax(-3.402823466e38, 0.0);
    [[dont_unroll]] for (uint j = lane(); j < seen; j += SIZE) {
      const uint x = logit(item, row, j);
      if (is_valid(x)) of_row.top = max(of_row.top, uintBitsToFloat(x));
    }
    of_row.top = subgroupMax(of_row.top);
    [[dont_unroll]] for (uint j = lane(); j < seen; j += SIZE) of_row.sum += weight(of_row, logit(item, row, j));
    of_row.sum = subgroupAdd(of_row.sum);
    uint count = 0;
    [[dont_unroll]] for (uint w = lane(); w < tiles; w += SIZE) {
      uint bits = w == 0 && (p.flags & kSelectKeepFirst) != 0 ? 1 : 0;
      [[dont_unroll]] for (uint j = 32 * w; j < min(32 * w + 32, seen); j++)
        if (probability(of_row, logit(item, row, j)) > p.threshold ||
            (j == seen - 1 && (p.flags & kSelectKeepDiagonal) != 0))
          bits |= 1u << (j % 32);
      mask[mask_at(item, row) + w] = bits;
      count += uint(bitCount(bits));
    }
    count = subgroupAdd(count);
    // By the lane that wrote the last word.
    if (count == 0 && lane() == (words - 1) % SIZE) mask[mask_at(item, row) + words - 1] = 1u << ((seen - 1) % 32);
    if (lane() == 0) {
      atomicAdd(totals[0], max(count, 1));
      atomicAdd(totals[1], count == 0 ? 1 : 0);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

void main() {
  uint index;
  if (!find_item(p.first, p.count, index)) return;
  Item item;
  item.head = p.head + index % p.heads;
  item.k_head = item.head * p.k_heads / p.q_heads;
  item.row0 = (p.row_tiles - 1 - index / p.heads) * ROWS;  // long rows first
  item.rows = min(ROWS, p.rows - item.row0);
  item.causal = causal_of(item.row0 + item.rows - 1);
  own_row0 = subgroupBroadcastFirst(gl_SubgroupID) * OWN;
  const uint own_end = causal_of(item.row0 + existing(item, own_row0 + OWN - 1));  // seen by any of the subgroup's rows
  const uint own_all = causal_of(item.row0 + existing(item, own_row0));            // by each of them

  if (thread() == 0) marks = totals[0] = totals[1] = 0;
  for (uint x = thread(); x < M * N / 4; x += THREADS) numbers[x] = vec4(4 * x) + vec4(0.0, 1.0, 2.0, 3.0);
  const uint tiles = (item.causal + COLS - 1) / COLS;
  fetch(item, 0);
  load_rows(item);
  begin_rows(item);
  keep(0);
  if (tiles > 1) fetch(item, COLS);
  barrier();
  bool slow = false;
  for (uint t = 0; t < 2 * tiles; t++) {
    const bool second = t >= tiles;
    if (t == tiles) {
      slow = subgroupAny(marks != 0);
      if (slow) break;
      find_cuts();
    }
    const uint col0 = (second ? t - tiles : t) * COLS;
    if (col0 < own_end) {
      multiply(t % BUFFERS);
      if (!second)
        add_weights(col0, col0 + COLS > own_all);
      else
        write_words(col0 / COLS);
    } else if (second) {
      [[unroll]] for (uint i = 0; i < TILES * SLOTS; i++) mask[mask_of[i] + col0 / COLS] = 0;
    }
    if (BUFFERS == 1) barrier();
    if (t + 1 < 2 * tiles) keep((t + 1) % BUFFERS);
    if (t + 2 < 2 * tiles) fetch(item, (t + 2 < tiles ? t + 2 : t + 2 - tiles) * COLS);
    if (t + 1 == tiles) atomicOr(marks, beyond);
    barrier();
  }

  if (slow) {
    select_slowly(item, tiles);
  } else {
    uint count = 0, fallen = 0;
    [[unroll]] for (uint i = 0; i < TILES * SLOTS; i++) {
      const uint last = causal[i] - 1;
      if (kept[i] == 0) mask[mask_of[i] + last / COLS] = 1u << (last % COLS);  // by all who wrote the word before
      if ((lane() & LANE_BITS) == 0 && row_of[i] < item.rows) {
        count += max(kept[i], 1);
        fallen += kept[i] == 0 ? 1 : 0;
      }
    }
    count = subgroupAdd(count);
    fallen = subgroupAdd(fallen);
    if (lane() == 0) {
      atomicAdd(totals[0], count);
      atomicAdd(totals[1], fallen);
    }
  }
  // Words behind those of the tiles.
  const uint rest = p.words > tiles ? p.words - tiles : 0;
  for (uint x = thread(); x < rest * item.rows; x += THREADS)
    mask[mask_at(item, item.row0 + x / rest) + tiles + x % rest] = 0;
  barrier();
  if (thread() == 0 && (p.flags & kSelectCount) != 0) add_row_stats(totals[0], totals[1], index == 0);
}
