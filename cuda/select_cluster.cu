// select by threshold for Hopper (sm_90a), each logit computed once: for gate vectors of 64 or 128 channels and rows of
// no more columns than a cluster can hold.
//
// The blocks of threads of a cluster share a head's columns, 32 at a time in turn: word w of a row of the mask belongs
// to block w % n. A block splits the vectors of its columns into two bf16 each, once, and keeps them in shared memory.
// Then its two warpgroups walk tiles of 64 block rows, one after the other, so that one's tensor cores run while the
// other looks at its logits, which stay in registers. Every block sends its rows' maxima and sums to all others; each
// then knows the rows' cuts and compares its own columns.
//
// Rows in which something is not finite show by the sum of their exponentials, which is NaN; f32 instructions compute
// them anew.
#include "select_sm90.cuh"

namespace seer::cuda {
namespace {

constexpr int kRows = kSelectClusterRows;
constexpr int kThreads = kSelectClusterThreads;

// Of four bytes in each of four lanes: lane i gets byte i of each.
__device__ __forceinline__ uint32_t transpose_bytes(uint32_t x, int lane) {
  const uint32_t far = __shfl_xor_sync(~0u, x, 2);
  x = __byte_perm(x, far, lane & 2 ? 0x3276 : 0x5410);
  const uint32_t near = __shfl_xor_sync(~0u, x, 1);
  return __byte_perm(x, near, lane & 1 ? 0x3715 : 0x6240);
}

// What the threads of a block have in common, in shared memory: registers are short.
struct Place {
  GateSequence seq;
  uint32_t *mask;      // of the head: row 0
  const float *q, *k;  // of the head: row 0 of the sequence, key block 0
  int before, keys;    // key blocks that the row before the first sees, and the last
  int tile, tiles;     // of kRows block rows
};

// kSteps: of 16 channels.
//
// The order of channels and of a word's columns is ours to choose. Of 16 channels a thread has the four from lane % 4 *
// 4 on, one load, where wgmma has its pairs lane % 4 * 2 and 8 further; of 32 columns the eight from lane % 4 * 8 on, a
// byte of the word, where wgmma has pairs again.
template <int kSteps>
struct Selector {
  static constexpr int kEarly = kSteps / 2;     // steps of the next tile's Q that are split while sums travel
  static constexpr int kQuarters = kSteps * 4;  // float4 of a vector
  static constexpr int kHalf = kSelectClusterWords * 32 * 128;  // bytes of 64 channels of K
  static constexpr int kPart = kHalf * (kSteps > 4 ? 2 : 1);    // high; low follows

  const ScoreParams &p;
  const Place &at;
  int cluster, rank;   // cluster: a power of 2
  int lane, warp;      // warp: of the warpgroup
  float2 *sums;        // of this warpgroup: [2][cluster][kRows], maximum and sum
  uint64_t *barriers;  // of this warpgroup: 2
  float4 *raw;         // Q of the next tile: of this thread, every 128th
  int round = 0;
  unsigned kept = 0, causal_all = 0, fallback = 0;

  // A tile:
  int first, rows, my_row;
  uint32_t q_high[kSteps][4], q_low[kSteps][4];

  // K of `words` words of this block's columns.
  __device__ __forceinline__ void load_k(char *to, int words, int keys) const {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));  // volatile: addresses are not to be kept from call to call
    const int quarter = thread % kQuarters, of_32 = thread / kQuarters;
    constexpr int kAtOnce = kThreads / kQuarters, kLoads = 32 / kAtOnce;  // vectors, and how often for a word
    constexpr int kBatch = 8 / kLoads;                                    // words
    const int step = quarter / 4, pair = quarter % 4;
    char *const place = to + step / 4 * kHalf + pair * 4;
    const bool odd = thread & 16;  // which half warps store first: other banks than the others
    for (int from = 0; from < words; from += kBatch) {
      float4 v[kBatch][kLoads];
#pragma unroll
      for (int w = 0; w < kBatch; ++w)
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int n = of_32 + i * kAtOnce;  // as wgmma has it; its place in the word:
          const int bit = n / 2 % 4 * 8 + n / 8 * 2 + n % 2;
          const int column = min(((from + w) * cluster + rank) * 32 + bit, keys - 1);  // beyond is not looked at
          if (from + w < words)
            v[w][i] = __ldg(reinterpret_cast<const float4 *>(at.k + int64_t{column} * (p.k_heads * p.dim)) + quarter);
        }
#pragma unroll
      for (int w = 0; w < kBatch; ++w)
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          if (from + w >= words) break;
          const int n = of_32 + i * kAtOnce;
          uint32_t high[2], low[2];
          split(v[w][i].x, v[w][i].y, high[0], low[0]);
          split(v[w][i].z, v[w][i].w, high[1], low[1]);
          char *const row = place + ((from + w) * 32 + n) * 128;
          const int chunk = step % 4 * 2;
          char *const one = row + ((chunk + odd) ^ (n & 7)) * 16, *const other = row + ((chunk + !odd) ^ (n & 7)) * 16;
          *reinterpret_cast<uint32_t *>(one) = odd ? high[1] : high[0];
          *reinterpret_cast<uint32_t *>(other) = odd ? high[0] : high[1];
          *reinterpret_cast<uint32_t *>(one + kPart) = odd ? low[1] : low[0];
          *reinterpret_cast<uint32_t *>(other + kPart) = odd ? low[0] : low[1];
        }
    }
  }

  __device__ __forceinline__ void load_q(int row) const {  // of the tile from `row` on; split_q waits for it
    const int last = at.seq.first_row + at.seq.rows - 1;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const float *from = at.q + int64_t{min(row + my_row + side * 8, last)} * (p.q_heads * p.dim) + lane % 4 * 4;
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        copy_async(smem_address(raw + (side * kSteps + step) * 128), from + step * 16);
    }
  }
  template <int kFrom, int kTo>  // steps
  __device__ __forceinline__ void split_q() {
    copy_wait_all();
#pragma unroll
    for (int side = 0; side < 2; ++side)
#pragma unroll
      for (int step = kFrom; step < kTo; ++step) {
        const float4 v = raw[(side * kSteps + step) * 128];
        split(v.x, v.y, q_high[step][side], q_low[step][side]);
        split(v.z, v.w, q_high[step][2 + side], q_low[step][2 + side]);
      }
  }
  __device__ __forceinline__ int causal_of(int row) const { return min(at.before + row + 1, at.keys); }
  __device__ __forceinline__ uint32_t *words_of(int row) const {  // of the tile
    return at.mask + (first + row) * p.mask_row;
  }

  // From `from` on, words of rows that keep everything, else nothing: rows in turn among the cluster.
  __device__ __forceinline__ void fill(int from, bool dense) {
#pragma unroll 1
    for (int row = warp * 16 + rank; row < min(warp * 16 + 16, rows); row += cluster) {
      uint32_t *const to = words_of(row);
      const int causal = dense ? causal_of(first + row) : 0;
#pragma unroll 1
      for (int word = from + lane; word < p.words; word += 32) {
        const int left = causal - word * 32;
        to[word] = left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
      }
      if (lane == 0) kept += causal, causal_all += causal;
    }
  }

  // Logits of the four words from kWord on; of fewer columns wgmma would wait for Q.
  template <int kWord>
  __device__ __forceinline__ void multiply(float (&x)[64]) const {
    extern __shared__ __align__(1024) char shared[];
    const uint64_t base = sm90::descriptor(smem_address(shared) + kWord * 32 * 128, 16, 1024);
    sm90::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int at = step / 4 * kHalf + step % 4 * 32;
      sm90::wgmma_abt(__nv_bfloat16{}, x, q_low[step], sm90::advance(base, at), step != 0);
      sm90::wgmma_abt(__nv_bfloat16{}, x, q_high[step], sm90::advance(base, at + kPart), 1);
      sm90::wgmma_abt(__nv_bfloat16{}, x, q_high[step], sm90::advance(base, at), 1);
    }
    sm90::wgmma_commit();
    sm90::wgmma_wait<0>();
    sm90::hold(x);
  }

  // The tile's rows of this block's first `words` words.
  __device__ __forceinline__ void take(int words, bool more) {
    constexpr int kFours = kSelectClusterWords / 4;  // of words; of those behind the last no row sees anything
    const float scale = p.scale * kLog2e;
    float x[kFours][64];
    const int seen = (causal_of(first + rows - 1) + 31) / 32;
    multiply<0>(x[0]);
    if (words > 4) {
      multiply<4>(x[1]);
    } else {  // or registers would hold it from tile to tile
#pragma unroll
      for (int i = 0; i < 64; ++i) x[1][i] = 0.f;
    }

    int causal[2];
#pragma unroll
    for (int side = 0; side < 2; ++side)
      causal[side] = my_row + side * 8 < rows ? causal_of(first + my_row + side * 8) : 0;
    const int inside = causal_of(first) / 32;  // words that all rows see
    float most[2] = {kLowest, kLowest}, sum[2] = {};
#pragma unroll
    for (int four = 0; four < kFours; ++four) {
      if (four * 4 >= words) break;
      if ((four * 4 + 3) * cluster + rank >= inside) {
#pragma unroll
        for (int side = 0; side < 2; ++side)
#pragma unroll
          for (int w = 0; w < 4; ++w) {
            const int limit = causal[side] - ((four * 4 + w) * cluster + rank) * 32 - lane % 4 * 8;
#pragma unroll
            for (int i = 0; i < 8; ++i)
              if (i >= limit) x[four][w * 16 + i / 2 * 4 + side * 2 + i % 2] = -INFINITY;
          }
      }
      float top[2][4];
#pragma unroll
      for (int n = 0; n < 16; ++n)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const float pair = fmaxf(x[four][n * 4 + side * 2], x[four][n * 4 + side * 2 + 1]);
          top[side][n % 4] = n < 4 ? pair : fmaxf(top[side][n % 4], pair);
        }
#pragma unroll
      for (int side = 0; side < 2; ++side)
        most[side] = fmaxf(most[side], fmaxf(fmaxf(top[side][0], top[side][1]), fmaxf(top[side][2], top[side][3])));
    }
    float base[2];
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      most[side] = fmaxf(most[side], __shfl_xor_sync(~0u, most[side], 1));
      most[side] = fmaxf(most[side], __shfl_xor_sync(~0u, most[side], 2));
      base[side] = most[side] > kLowest ? -most[side] * scale : 0.f;  // of nothing: not what rounding leaves of it
    }
#pragma unroll
    for (int four = 0; four < kFours; ++four) {
      if (four * 4 >= words) break;
      float add[2][4] = {};
#pragma unroll
      for (int n = 0; n < 16; ++n)
#pragma unroll
        for (int side = 0; side < 2; ++side)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            add[side][n % 2 * 2 + i] += exp2_approx(fmaf(x[four][n * 4 + side * 2 + i], scale, base[side]));
#pragma unroll
      for (int side = 0; side < 2; ++side) sum[side] += (add[side][0] + add[side][1]) + (add[side][2] + add[side][3]);
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      sum[side] += __shfl_xor_sync(~0u, sum[side], 1);
      sum[side] += __shfl_xor_sync(~0u, sum[side], 2);
    }
    if (cluster > 1)
      meet(most, sum, scale, seen, more);
    else
      fill(seen, false);

    // The rows' cuts, of logits as wgmma leaves them.
    float cut[2];
    const float per_log2 = 1.f / scale;
#pragma unroll
    for (int side = 0; side < 2; ++side)
      cut[side] = fmaxf(fmaf(sm90::log2_approx(sum[side]) + p.threshold, per_log2, most[side]), -3.4e38f);
    uint32_t bits[kFours][2] = {};  // of four words a byte each
#pragma unroll
    for (int four = 0; four < kFours; ++four) {
      if (four * 4 >= words) break;
#pragma unroll
      for (int n = 15; n >= 0; --n)
#pragma unroll
        for (int i = 1; i >= 0; --i)
#pragma unroll
          for (int side = 0; side < 2; ++side)  // the sign of the difference: whether x > cut
            bits[four][side] =
                __funnelshift_l(__float_as_uint(cut[side] - x[four][n * 4 + side * 2 + i]), bits[four][side], 1);
    }
    uint32_t strange = 0;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int row = my_row + side * 8;
      const bool dense = first + row >= at.seq.dense_row, odd = sum[side] != sum[side] && !dense;
      const bool empty = !dense && !(most[side] > cut[side]) && p.flags == 0;
      strange |= (__ballot_sync(~0u, odd && row < rows) & 0x11111111u) << side;
#pragma unroll
      for (int four = 0; four < kFours; ++four) {
        uint32_t mine = transpose_bytes(bits[four][side], lane);
        const int index = four * 4 + lane % 4, word = index * cluster + rank, left = causal[side] - word * 32;
        if (index >= words || row >= rows || odd) continue;
        if (dense) mine = ~0u;
        if (word == 0 && (p.flags & kSelectFirst)) mine |= 1u;
        if (left >= 1 && left <= 32 && ((p.flags & kSelectDiagonal) || empty)) {
          mine |= 1u << (left - 1);
          fallback += empty;
        }
        mine &= left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
        kept += __popc(mine);
        words_of(row)[word] = mine;
      }
    }
    if (rank == 0 && lane % 4 == 0) causal_all += causal[0] + causal[1];

      // Rows l / 4 and 8 on, bits l and l + 1.
#pragma unroll 1
    for (; strange != 0; strange &= strange - 1) {
      const int bit = __ffs(strange) - 1, row = warp * 16 + bit / 4 + bit % 4 * 8;
      if (row % cluster != rank) continue;
      const float *q = at.q + int64_t{first + row} * (p.q_heads * p.dim);
      bool nothing;
      unsigned count = 0;
      select_odd_row(p, q, at.k, p.k_heads * p.dim, causal_of(first + row), words_of(row), seen, nothing, count);
      if (lane == 0) kept += count, fallback += nothing;
    }
  }

  // Rows' maxima and sums of all blocks of the cluster; the same bits in each.
  __device__ __forceinline__ void meet(float (&most)[2], float (&sum)[2], float scale, int seen, bool more) {
    const int buffer = round % 2;
    float2 *const all = sums + buffer * cluster * kRows;
    uint64_t *const barrier = barriers + buffer;
    if (warp == 0 && lane == 0) sm90::barrier_expect(barrier, cluster * kRows * sizeof(float2));
    const int side = lane % 2, mine = lane % 4 / 2, row = my_row + side * 8;
    const float my_most = side ? most[1] : most[0], my_sum = side ? sum[1] : sum[0];
#pragma unroll 1
    for (int to = mine; to < cluster; to += 2)
      sm90::send(sm90::address_in(smem_address(all + rank * kRows + row), to),
                 sm90::address_in(smem_address(barrier), to), my_most, my_sum);
    fill(seen, false);  // while it travels
    if (more) split_q<0, kEarly>();
    sm90::barrier_wait_cluster(barrier, round / 2 % 2);
    ++round;
    float top = kLowest, total = 0.f;
#pragma unroll 1
    for (int from = mine; from < cluster; from += 2) top = fmaxf(top, all[from * kRows + row].x);
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
#pragma unroll 1
    for (int from = mine; from < cluster; from += 2) {
      const float2 other = all[from * kRows + row];
      total += other.y * exp2_approx((other.x - top) * scale);
    }
    total += __shfl_xor_sync(~0u, total, 2);
    const float next_top = __shfl_xor_sync(~0u, top, 1), next_total = __shfl_xor_sync(~0u, total, 1);
    most[0] = side ? next_top : top, most[1] = side ? top : next_top;
    sum[0] = side ? next_total : total, sum[1] = side ? total : next_total;
  }
};

template <int kSteps>
__device__ __forceinline__ void select(const SelectClusterParams &params) {
  using S = Selector<kSteps>;
  extern __shared__ __align__(1024) char shared[];
  __shared__ Place at;
  __shared__ __align__(8) uint64_t barriers[4];
  __shared__ unsigned counts[3];
  const ScoreParams &p = params.score;
  const int thread = threadIdx.x, group = thread / 128;
  const int cluster = sm90::cluster_size(), rank = sm90::cluster_rank(), shift = __ffs(cluster) - 1;
  if (thread == 0) {
    for (int i = 0; i < 4; ++i) sm90::barrier_init(barriers + i, 1);
    sm90::barrier_init_fence();
  }
  if (thread < 3) counts[thread] = 0;
  __syncthreads();
  sm90::cluster_arrive();

  S s{p, at, cluster, rank};
  s.lane = thread % 32, s.warp = thread / 32 % 4;
  s.my_row = s.warp * 16 + s.lane / 4;
  s.raw = reinterpret_cast<float4 *>(shared + 2 * S::kPart) + group * 2 * kSteps * 128 + thread % 128;
  s.sums = reinterpret_cast<float2 *>(shared + 2 * S::kPart + 2 * kRows * kSteps * 64) + group * 2 * cluster * kRows;
  s.barriers = barriers + group * 2;
  const auto words_of = [&](int causal) {  // of this block
    return ((causal + 31) / 32 + cluster - 1 - rank) >> shift;
  };

  wait_for_previous();
  let_next_start();
  sm90::cluster_wait();
  // A head at a time: its tiles from the last row to the first, in turn among the warpgroups.
  int item = params.start[blockIdx.x >> shift], turn = group;
  const int end = params.start[(blockIdx.x >> shift) + 1];
  while (item < end) {
    __syncthreads();  // nobody needs the head before
    if (thread == 0) {
      at.seq = find_sequence(p.sequence, p.only, p.sequences, item);
      const int tiles = (at.seq.rows + kRows - 1) / kRows, local = item - at.seq.first_item, head = local / tiles;
      at.mask = p.mask + at.seq.mask_at + head * p.mask_head;
      at.q = p.q + (int64_t{at.seq.q_row} * p.q_heads + head) * p.dim;
      at.k = p.k + (int64_t{at.seq.k_row} * p.k_heads + head * p.k_heads / p.q_heads) * p.dim;
      at.before = (at.seq.offset + p.block - 1) / p.block;
      at.keys = (at.seq.offset + at.seq.q_len + p.block - 1) / p.block;
      at.tile = local % tiles;
      at.tiles = min(end - item, tiles - at.tile);
    }
    __syncthreads();
    const int count = at.tiles, last_row = at.seq.first_row + at.seq.rows - 1;
    const auto first_of = [&](int index) { return at.seq.first_row + (at.tile + count - 1 - index) * kRows; };
    if (turn < count) s.load_q(first_of(turn));
    const int seen = s.causal_of(min(first_of(0) + kRows - 1, last_row));
    s.load_k(shared, words_of(seen), seen);
    sm90::fence_async_proxy();
    __syncthreads();
    bool split = false;
    for (; turn < count; turn += 2) {
      s.first = first_of(turn);
      s.rows = min(kRows, last_row + 1 - s.first);
      if (cluster == 1 || !split) s.template split_q<0, S::kEarly>();
      s.template split_q<S::kEarly, kSteps>();
      if (turn + 2 < count) s.load_q(s.first - 2 * kRows);
      if (s.first < at.seq.dense_row)
        s.take(words_of(s.causal_of(s.first + s.rows - 1)), turn + 2 < count);
      else
        s.fill(0, true);
      split = s.first < at.seq.dense_row;
    }
    turn -= count;
    item += count;
  }
  if (p.stats == nullptr) return;
  const unsigned sums[3] = {__reduce_add_sync(~0u, s.kept), __reduce_add_sync(~0u, s.causal_all),
                            __reduce_add_sync(~0u, s.fallback)};
  add_counts(p.stats, counts, thread, s.lane, sums);
}

}  // namespace

#define SEER_SELECT(dim)                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads, 1)                 \
      select_cluster_##dim(const __grid_constant__ SelectClusterParams p) { \
    select<dim / 16>(p);                                                    \
  }
SEER_SELECT(64)
SEER_SELECT(128)

}  // namespace seer::cuda
