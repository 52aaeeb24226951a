#version 450
// attend, scalar tier: f32 arithmetic on 16-bit or 32-bit tensors, nothing beyond Vulkan 1.1.
//
// A workgroup takes ROWS query rows of one head. Its threads form a grid of THREADS / COLUMNS by COLUMNS: a thread
// holds ROWS_OF scores rows by KEYS_OF columns and the same rows of the output by PAIRS_OF pairs of channels. Keys
// come in tiles of KEYS through shared memory, first K, then V over it. Softmax is computed online in base 2; its
// running maximum begins at kLowest and masked scores are kMasked, both finite and in this order, so that rows which
// have seen nothing yet give weights of exactly 0.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attend_args.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint ROWS = 32;     // divides BLOCK
layout(constant_id = 2) const uint KEYS = 32;     // divides BLOCK
layout(constant_id = 3) const uint COLUMNS = 8;   // divides THREADS, KEYS
layout(constant_id = 4) const uint DIM = 128;     // channels
layout(constant_id = 5) const uint BLOCK = 64;    // tokens of a block of the mask
layout(constant_id = 6) const uint DTYPE = 2;
layout(constant_id = 7) const bool PAIRED = true;
#include "attend_element.glsl"

layout(push_constant, std430) uniform Push { AttendPush p; };
layout(std430, binding = 0) readonly buffer Q { uint q_words[]; };
layout(std430, binding = 1) readonly buffer K { uint k_words[]; };
layout(std430, binding = 2) readonly buffer V { uint v_words[]; };
layout(std430, binding = 3) buffer Out { uint out_words[]; };
layout(std430, binding = 4) writeonly buffer Lse { float lse[]; };
layout(std430, binding = 5) readonly buffer Mask { uint mask_words[]; };
layout(std430, binding = 6) buffer State { uint state[]; };

const float kLowest = -1.0e38, kMasked = -3.0e38;
const float kLn2 = 0.69314718055994531;

const uint ROWS_OF = ROWS * COLUMNS / THREADS;
const uint KEYS_OF = KEYS / COLUMNS;
const uint PAIRS_OF = ((DIM + 1u) / 2u + COLUMNS - 1u) / COLUMNS;
const uint PAIRS = PAIRS_OF * COLUMNS;  // of a row in shared memory, zero beyond DIM
// Words of a row in shared memory, odd so that a column of keys lies in distinct banks.
const uint STRIDE = PAIRS * (DTYPE == kF32 ? 2u : 1u) + 1u;
const uint WEIGHTS_STRIDE = KEYS + 1u;

// attend.cpp computes the same number of bytes: keep attend_shared_bytes() there in step.
shared uint q_tile[ROWS * STRIDE];
shared uint kv_tile[KEYS * STRIDE];
shared float weights[ROWS * WEIGHTS_STRIDE];
shared float partial[ROWS * COLUMNS];

SEER_DEFINE_LOAD(load_q, q_words)
SEER_DEFINE_LOAD(load_k, k_words)
SEER_DEFINE_LOAD(load_v, v_words)
SEER_DEFINE_STORE(store_out, store_out_half, out_words)

// Copies `rows` rows, of which the first `present` exist, into a tile of shared memory.
#define STAGE(tile, rows, present, load, base, token)                                              \
  for (uint x = gl_LocalInvocationIndex; x < (rows) * PAIRS; x += THREADS) {                       \
    const uint row = x / PAIRS, c = x % PAIRS;                                                     \
    const uvec2 pair = row < (present) && 2u * c < DIM ? load((base) + row * (token), c) : uvec2(0u); \
    if (DTYPE == kF32) {                                                                           \
      tile[row * STRIDE + 2u * c] = pair.x;                                                        \
      tile[row * STRIDE + 2u * c + 1u] = pair.y;                                                   \
    } else {                                                                                       \
      tile[row * STRIDE + c] = pair.x;                                                             \
    }                                                                                              \
  }

vec2 q_pair(uint row, uint c) {
  if (DTYPE == kF32)
    return vec2(uintBitsToFloat(q_tile[row * STRIDE + 2u * c]), uintBitsToFloat(q_tile[row * STRIDE + 2u * c + 1u]));
  return widen(q_tile[row * STRIDE + c]);
}

vec2 kv_pair(uint row, uint c) {
  if (DTYPE == kF32)
    return vec2(uintBitsToFloat(kv_tile[row * STRIDE + 2u * c]), uintBitsToFloat(kv_tile[row * STRIDE + 2u * c + 1u]));
  return widen(kv_tile[row * STRIDE + c]);
}

// What a thread carries from tile to tile.
vec2 sum[ROWS_OF][PAIRS_OF];  // of weight * value
float highest[ROWS_OF];       // score, base 2
float total[ROWS_OF];         // of weights; of this thread's keys only

// Keys [key, key + KEYS), at `from` in the window, for rows whose first sees keys 0 .. sees. edge: some row must not
// see all of them.
void attend_tile(uint key, uint from, uint k_base, uint v_base, uint sees, bool edge) {
  const uint column = gl_LocalInvocationIndex % COLUMNS;
  const uint row0 = gl_LocalInvocationIndex / COLUMNS * ROWS_OF;
  const uint present = min(p.key_end - key, KEYS);

  barrier();  // everyone is done with the V of the tile before
  STAGE(kv_tile, KEYS, present, load_k, k_base + from * p.k_token, p.k_token)
  barrier();

  float score[ROWS_OF][KEYS_OF];
  [[unroll]] for (uint r = 0; r < ROWS_OF; r++)
    [[unroll]] for (uint c = 0; c < KEYS_OF; c++) score[r][c] = 0.0;
  [[dont_unroll]] for (uint c = 0; c < PAIRS; c++) {
    vec2 q[ROWS_OF];
    [[unroll]] for (uint r = 0; r < ROWS_OF; r++) q[r] = q_pair(row0 + r, c);
    [[unroll]] for (uint j = 0; j < KEYS_OF; j++) {
      const vec2 k = kv_pair(j * COLUMNS + column, c);
      [[unroll]] for (uint r = 0; r < ROWS_OF; r++)
        score[r][j] = fma(q[r].y, k.y, fma(q[r].x, k.x, score[r][j]));
    }
  }

  [[unroll]] for (uint r = 0; r < ROWS_OF; r++) {
    float most = kLowest;
    [[unroll]] for (uint j = 0; j < KEYS_OF; j++) {
      float x = score[r][j] * p.scale_log2;
      if (edge) {
        const uint at = key + j * COLUMNS + column;
        if (at > sees + row0 + r || at >= p.key_end) x = kMasked;
      }
      score[r][j] = x;
      most = max(most, x);
    }
    partial[(row0 + r) * COLUMNS + column] = most;
  }
  barrier();  // also: everyone is done with K

  [[unroll]] for (uint r = 0; r < ROWS_OF; r++) {
    float most = highest[r];
    [[unroll]] for (uint c = 0; c < COLUMNS; c++) most = max(most, partial[(row0 + r) * COLUMNS + c]);
    const float shrink = exp2(highest[r] - most);
    highest[r] = most;
    total[r] *= shrink;
    [[unroll]] for (uint c = 0; c < PAIRS_OF; c++) sum[r][c] *= shrink;
    [[unroll]] for (uint j = 0; j < KEYS_OF; j++) {
      const float weight = exp2(score[r][j] - most);
      total[r] += weight;
      weights[(row0 + r) * WEIGHTS_STRIDE + j * COLUMNS + column] = weight;
    }
  }
  STAGE(kv_tile, KEYS, present, load_v, v_base + from * p.v_token, p.v_token)
  barrier();

  if (edge) {
    // A row's weight of a key that it must not see is 0, but what is there may be Inf or NaN.
    [[dont_unroll]] for (uint j = 0; j < KEYS; j++) {
      [[unroll]] for (uint c = 0; c < PAIRS_OF; c++) {
        const vec2 v = kv_pair(j, c * COLUMNS + column);
        [[unroll]] for (uint r = 0; r < ROWS_OF; r++) {
          const vec2 seen = key + j <= sees + row0 + r ? v : vec2(0.0);
          sum[r][c] = fma(vec2(weights[(row0 + r) * WEIGHTS_STRIDE + j]), seen, sum[r][c]);
        }
      }
    }
  } else {
    [[dont_unroll]] for (uint j = 0; j < KEYS; j++) {
      float weight[ROWS_OF];
      [[unroll]] for (uint r = 0; r < ROWS_OF; r++) weight[r] = weights[(row0 + r) * WEIGHTS_STRIDE + j];
      [[unroll]] for (uint c = 0; c < PAIRS_OF; c++) {
        const vec2 v = kv_pair(j, c * COLUMNS + column);
        [[unroll]] for (uint r = 0; r < ROWS_OF; r++) sum[r][c] = fma(vec2(weight[r]), v, sum[r][c]);
      }
    }
  }
}

// The words of `state` of an item: value i of thread t at (item * kStateOf + i) * THREADS + t.
const uint kStateOf = ROWS_OF * (2u * PAIRS_OF + 2u);

void resume(uint item) {
  uint at = p.state_base + item * kStateOf * THREADS + gl_LocalInvocationIndex;
  [[unroll]] for (uint r = 0; r < ROWS_OF; r++) {
    highest[r] = uintBitsToFloat(state[at]);
    total[r] = uintBitsToFloat(state[at + THREADS]);
    at += 2u * THREADS;
    [[unroll]] for (uint c = 0; c < PAIRS_OF; c++, at += 2u * THREADS)
      sum[r][c] = vec2(uintBitsToFloat(state[at]), uintBitsToFloat(state[at + THREADS]));
  }
}

void suspend(uint item) {
  uint at = p.state_base + item * kStateOf * THREADS + gl_LocalInvocationIndex;
  [[unroll]] for (uint r = 0; r < ROWS_OF; r++) {
    state[at] = floatBitsToUint(highest[r]);
    state[at + THREADS] = floatBitsToUint(total[r]);
    at += 2u * THREADS;
    [[unroll]] for (uint c = 0; c < PAIRS_OF; c++, at += 2u * THREADS) {
      state[at] = floatBitsToUint(sum[r][c].x);
      state[at + THREADS] = floatBitsToUint(sum[r][c].y);
    }
  }
}

void attend_item(uint item) {
  const uint head = item % p.heads, kv_head = head / p.group;
  const uint query0 = (p.tiles - 1u - item / p.heads) * ROWS;  // long rows first
  const uint queries = min(p.q_rows - query0, ROWS);

  STAGE(q_tile, ROWS, queries, load_q, p.q_base + head * p.q_head + query0 * p.q_token, p.q_token)
  if ((p.flags & kAttendResume) != 0u) {
    resume(item);
  } else {
    [[unroll]] for (uint r = 0; r < ROWS_OF; r++) {
      highest[r] = kLowest;
      total[r] = 0.0;
      [[unroll]] for (uint c = 0; c < PAIRS_OF; c++) sum[r][c] = vec2(0.0);
    }
  }

  const uint sees = p.position + query0;                           // the last key that the first row sees
  const uint end = min(sees + queries, p.key_end);                 // keys from here on are seen by no row
  const uint k_base = p.k_base + kv_head * p.k_head, v_base = p.v_base + kv_head * p.v_head;
  const uint mask_at = p.mask_base + head * p.mask_head + query0 / BLOCK * p.mask_row;
  if (end > p.key_begin) {
    const uint first = p.key_begin / BLOCK, last = (end - 1u) / BLOCK;
    [[dont_unroll]] for (uint word = first / 32u; word <= last / 32u; word++) {
      uint bits = (p.flags & kAttendMask) != 0u ? mask_words[mask_at + word] : ~0u;
      if (word == first / 32u) bits &= ~0u << (first % 32u);
      if (word == last / 32u) bits &= ~0u >> (31u - last % 32u);
      [[dont_unroll]] while (bits != 0u) {
        const uint block0 = (word * 32u + uint(findLSB(bits))) * BLOCK;
        bits &= bits - 1u;
        [[dont_unroll]] for (uint key = block0; key < min(block0 + BLOCK, end); key += KEYS)
          attend_tile(key, key - p.key_begin, k_base, v_base, sees, key + KEYS > min(sees + 1u, p.key_end));
      }
    }
  }

  if ((p.flags & kAttendSuspend) != 0u) {
    suspend(item);
    return;
  }
  const uint column = gl_LocalInvocationIndex % COLUMNS;
  const uint row0 = gl_LocalInvocationIndex / COLUMNS * ROWS_OF;
  barrier();  // everyone is done with the maxima of the last tile
  [[unroll]] for (uint r = 0; r < ROWS_OF; r++) partial[(row0 + r) * COLUMNS + column] = total[r];
  barrier();
  [[unroll]] for (uint r = 0; r < ROWS_OF; r++) {
    const uint row = row0 + r;
    if (row >= queries) continue;
    float all = 0.0;
    [[unroll]] for (uint c = 0; c < COLUMNS; c++) all += partial[row * COLUMNS + c];
    const bool none = all == 0.0;  // NaN is something
    // No weight is above 1, so that only a NaN among the scores leaves no finite sum. Drivers may make Inf of exp2(NaN),
    // and of log2(NaN).
    const bool nan = (floatBitsToUint(all) & 0x7f800000u) == 0x7f800000u;
    if (column == 0u && (p.flags & kAttendLse) != 0u)
      lse[p.lse_base + head * p.lse_head + (query0 + row) * p.lse_token] =
          none ? uintBitsToFloat(0xff800000u) : nan ? uintBitsToFloat(0x7fc00000u) : (highest[r] + log2(all)) * kLn2;
    const uint at = p.out_base + head * p.out_head + (query0 + row) * p.out_token;
    [[unroll]] for (uint c = 0; c < PAIRS_OF; c++) {
      const uint pair = c * COLUMNS + column;
      if (2u * pair < DIM) store_out(at, pair, none ? vec2(0.0) : sum[r][c] / all);
    }
  }
}

void main() {
  const uint w = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  if (w >= p.count) return;
  const bool again = (p.flags & kAttendRedo) != 0u;
  const uint item0 = (p.first + w) * (again ? 32u : 1u);
  uint bits = again ? state[p.state_base + p.first + w] : 1u;
  [[dont_unroll]] while (bits != 0u) {
    attend_item(item0 + uint(findLSB(bits)));
    bits &= bits - 1u;
    barrier();  // everyone is done with this item's shared memory
  }
}
