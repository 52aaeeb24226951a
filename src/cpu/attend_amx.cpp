#include "attend_amx.h"

#include <hwy/base.h>

#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 13 : __GNUC__ >= 11)
#define SEER_HAVE_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define SEER_HAVE_AMX 0
#endif

namespace seer::cpu {

#if !SEER_HAVE_AMX

bool attend_amx_usable() { return false; }
AttendKernel attend_amx_kernel(const AttendArgs &) { return {}; }

#else

bool attend_amx_usable() {
  unsigned a, b, c, d, sub_a;
  if (!__get_cpuid_count(7, 0, &sub_a, &b, &c, &d)) return false;
  const bool tiles = (d >> 24 & 1) && (d >> 22 & 1);                                      // amx-tile, amx-bf16
  const bool vectors = (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1);  // avx512 f, dq, bw, vl
  if (!tiles || !vectors || sub_a < 1) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;  // avx512_bf16
  // Linux grants tile state on request, to all threads of the process.
  constexpr long kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}

namespace {

constexpr int64_t kTile = 512;  // bf16 of a tile: 16 rows of 32, or of 16 interleaved pairs
// Keys of kept blocks between two updates of the running softmax: each costs a pass over the output tiles.
constexpr int64_t kChunk = 512;
constexpr int64_t kStride = kChunk + 16;  // of scores: 33 cache lines spread the rows over all cache sets

// Tiles are 1 KiB each, so that loading one touches 16 whole neighbouring cache lines.
struct alignas(64) Scratch {
  uint16_t q[kTileRows * kMaxTileDim];  // [row / 16][channel / 32] tiles of [row][channel]
  float scores[kTileRows * kStride];
  uint16_t p[kTileRows * kChunk];      // [row / 16][column / 32] tiles of [row][column]
  float out[kTileRows * kMaxTileDim];  // [row / 16][channel / 16] tiles of [row][channel]
  float row[kMaxTileDim];
  uint16_t keys[16 * kMaxTileDim];
  float max[kTileRows], sum[kTileRows];
  int64_t columns[kTileRows];  // of the chunk's scores that the row sees: always a prefix
};

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A packed block is K, [key / 16][channel / 32] tiles of [channel pair][key][2], then V, [key / 32][channel / 16] tiles
// of [key pair][channel][2], channels padded with zeros to a multiple of 32.
int64_t padded_dim(int64_t dim) { return (dim + 31) / 32 * 32; }

struct Chunk {
  const uint16_t *keys[kChunk / 32], *values[kChunk / 32];
  bool apart[kChunk / 32];       // holds Inf or NaN that some row of the tile must not see
  int64_t count, block, groups;  // groups of 32 channels
};

}  // namespace

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own headers, bug 105593
#endif
HWY_PUSH_ATTRIBUTES("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16")
namespace {

// GCC's tile intrinsics do not tell the compiler that they read and write memory.
#define SEER_MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __m256i narrow(__m512 x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }
inline __mmask16 first_lanes(int64_t n) {
  return n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// 2^x for x <= 0, relative error 2.7e-6: bf16 is a thousand times coarser. 0 for -Inf, NaN for NaN.
inline __m512 exp2_nonpositive(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);  // in this order NaN stays
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(9.5701e-03f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.591786e-02f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4024744e-01f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9312179e-01f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9999928e-01f));
  return _mm512_scalef_ps(p, n);
}

// A row of x, rotated, as `padded` bf16 (zeros after dim).
void load_row(const uint16_t *x, int64_t dim, int64_t padded, const RopeView &rope, int64_t position, bool negate,
              float *row, uint16_t *out) {
  if (!rope.inv_freq) {
    const __m256i flip = _mm256_set1_epi16(negate ? INT16_MIN : 0);
    for (int64_t i = 0; i < padded; i += 16)
      _mm256_store_si256(reinterpret_cast<__m256i *>(out + i),
                         _mm256_xor_si256(_mm256_maskz_loadu_epi16(first_lanes(dim - i), x + i), flip));
    return;
  }
  for (int64_t i = 0; i < padded; i += 16)
    _mm512_store_ps(row + i, widen(_mm256_maskz_loadu_epi16(first_lanes(dim - i), x + i)));
  const int64_t half = rope.half;
  const float *cos = rope.cos + position * half, *sin = rope.sin + position * half;
  for (int64_t i = 0; i < half; i += 16) {
    const __mmask16 m = first_lanes(half - i);
    const __m512 a = _mm512_maskz_loadu_ps(m, row + i), b = _mm512_maskz_loadu_ps(m, row + half + i);
    const __m512 c = _mm512_maskz_loadu_ps(m, cos + i), s = _mm512_maskz_loadu_ps(m, sin + i);
    _mm512_mask_storeu_ps(row + i, m, _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)));
    _mm512_mask_storeu_ps(row + half + i, m, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
  }
  const __m512 sign = _mm512_set1_ps(negate ? -1.0f : 1.0f);
  for (int64_t i = 0; i < padded; i += 16)
    _mm256_store_si256(reinterpret_cast<__m256i *>(out + i), narrow(_mm512_mul_ps(_mm512_load_ps(row + i), sign)));
}

bool pack_block(const AttendArgs &args, const Sequence &seq, int64_t kv_head, int64_t j, std::byte *packed) {
  const int64_t dim = args.q.dim, padded = padded_dim(dim), block = args.block, begin = j * block;
  const int64_t count = smaller(block, seq.k_len - begin);
  auto *k = reinterpret_cast<uint16_t *>(packed);
  uint16_t *v = k + block * padded;
  alignas(64) uint16_t keys[16 * kMaxTileDim];
  alignas(64) float row[kMaxTileDim];

  const __m512i row_index = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                               _mm512_set1_epi32(int(padded / 2)));
  for (int64_t g = 0; g < block / 16; g++) {
    for (int64_t i = 0; i < 16; i++) {
      const int64_t key = g * 16 + i;
      if (key < count)
        load_row(args.k.at<const uint16_t>(seq.batch, seq.k_begin + begin + key, kv_head), dim, padded, args.k_rope,
                 begin + key, false, row, keys + i * padded);
      else
        std::memset(keys + i * padded, 0, static_cast<size_t>(padded) * sizeof(uint16_t));
    }
    // Transposed, a channel pair being one element.
    uint16_t *tiles = k + g * (padded / 32) * kTile;
    for (int64_t c = 0; c < padded / 2; c++)
      _mm512_store_si512(tiles + c * 32, _mm512_i32gather_epi32(row_index, keys + c * 2, 4));
  }

  // Interleaves two rows of 32 channels: channels 0 .. 15, then 16 .. 31.
  alignas(64) uint16_t low[32], high[32];
  for (int i = 0; i < 16; i++) {
    low[2 * i] = static_cast<uint16_t>(i);
    low[2 * i + 1] = static_cast<uint16_t>(32 + i);
    high[2 * i] = static_cast<uint16_t>(16 + i);
    high[2 * i + 1] = static_cast<uint16_t>(48 + i);
  }
  const __m512i low_index = _mm512_load_si512(low), high_index = _mm512_load_si512(high);
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __mmask32 bad = 0;
  for (int64_t key = 0; key < block; key += 2) {
    uint16_t *tiles = v + key / 32 * (padded / 16) * kTile + key % 32 / 2 * 32;
    for (int64_t c = 0; c < padded; c += 32) {
      const __mmask32 lanes = dim - c >= 32 ? ~__mmask32{0} : (__mmask32{1} << (dim - c)) - 1;
      __m512i x[2];
      for (int i = 0; i < 2; i++) {
        x[i] = _mm512_setzero_si512();
        if (key + i < count)
          x[i] = _mm512_maskz_loadu_epi16(
              lanes, args.v.at<const uint16_t>(seq.batch, seq.k_begin + begin + key + i, kv_head) + c);
        bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(x[i], exponent), exponent);
      }
      _mm512_store_si512(tiles + c / 16 * kTile, _mm512_permutex2var_epi16(x[0], low_index, x[1]));
      _mm512_store_si512(tiles + (c / 16 + 1) * kTile, _mm512_permutex2var_epi16(x[0], high_index, x[1]));
    }
  }
  return bad == 0;
}

// scores[0 .. 31][0 .. 31] of 32 query rows and 32 keys.
HWY_NOINLINE void score_tiles(const uint16_t *q, const uint16_t *keys, int64_t groups, float *scores) {
  SEER_MEMORY_BARRIER();
  constexpr int64_t kBytes = kStride * int64_t{sizeof(float)};
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t g = 0; g < groups; g++) {
    _tile_loadd(6, keys + g * kTile, 64);
    _tile_loadd(4, q + g * kTile, 64);
    _tile_loadd(7, keys + (groups + g) * kTile, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, q + (groups + g) * kTile, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, scores, kBytes);
  _tile_stored(1, scores + 16, kBytes);
  _tile_stored(2, scores + 16 * kStride, kBytes);
  _tile_stored(3, scores + 16 * kStride + 16, kBytes);
  SEER_MEMORY_BARRIER();
}

// Adds p v of 32 rows, 32 channels (those of tile `channel_tile` and the next) and the chunk's first `columns` columns
// to out, or sets out if `first`.
HWY_NOINLINE void value_tiles(const uint16_t *p, const Chunk &chunk, int64_t channel_tile, int64_t columns, bool first,
                              float *out) {
  SEER_MEMORY_BARRIER();
  const int64_t row_tiles = 2 * chunk.groups;  // tiles of out between 16 rows and the next 16
  float *below = out + row_tiles * 256;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, out, 64);
    _tile_loadd(1, out + 256, 64);
    _tile_loadd(2, below, 64);
    _tile_loadd(3, below + 256, 64);
  }
  for (int64_t b = 0, begin = 0; begin < columns; b++, begin += chunk.block) {
    if (chunk.apart[b]) continue;
    const uint16_t *v = chunk.values[b] + channel_tile * kTile;
    const int64_t end = smaller(begin + chunk.block, columns);
    for (int64_t c = begin; c < end; c += 32, v += row_tiles * kTile) {
      const uint16_t *tile = p + c / 32 * kTile;
      _tile_loadd(6, v, 64);
      _tile_loadd(4, tile, 64);
      _tile_loadd(7, v + kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, tile + kChunk / 32 * kTile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, 64);
  _tile_stored(1, out + 256, 64);
  _tile_stored(2, below, 64);
  _tile_stored(3, below + 256, 64);
  SEER_MEMORY_BARRIER();
}

// Turns the first n scores of a row into probabilities 2^(scale * score - max) in its tiles of p, zeros up to
// `columns`; updates the row's running maximum and sum and returns the factor for what was summed before.
inline float softmax_row(const float *scores, uint16_t *p, int64_t n, int64_t columns, float scale, float &max,
                         float &sum) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  __m512 max0 = _mm512_set1_ps(-kInf), max1 = max0;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    max0 = _mm512_max_ps(max0, _mm512_load_ps(scores + i));
    max1 = _mm512_max_ps(max1, _mm512_load_ps(scores + i + 16));
  }
  const __mmask16 tail0 = first_lanes(n - i), tail1 = first_lanes(n - i - 16);
  if (i < n) {
    max0 = _mm512_mask_max_ps(max0, tail0, max0, _mm512_load_ps(scores + i));
    max1 = _mm512_mask_max_ps(max1, tail1, max1, _mm512_load_ps(scores + i + 16));
  }
  const float chunk_max = _mm512_reduce_max_ps(_mm512_max_ps(max0, max1)) * scale;
  const float top = max > chunk_max ? max : chunk_max;
  const float base = top == -kInf ? 0.0f : top;  // nothing seen yet: any finite base gives zeros
  const float rescale = max == top ? 1.0f : std::exp2(max - base);
  max = top;

  const __m512 b = _mm512_set1_ps(base), f = _mm512_set1_ps(scale);
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
  for (i = 0; i + 32 <= n; i += 32) {
    const __m512 p0 = exp2_nonpositive(_mm512_fmsub_ps(_mm512_load_ps(scores + i), f, b));
    const __m512 p1 = exp2_nonpositive(_mm512_fmsub_ps(_mm512_load_ps(scores + i + 16), f, b));
    _mm512_store_si512(p + i / 32 * kTile, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(p1, p0)));
    sum0 = _mm512_add_ps(sum0, p0);
    sum1 = _mm512_add_ps(sum1, p1);
  }
  if (i < n) {
    const __m512 p0 = _mm512_maskz_mov_ps(tail0, exp2_nonpositive(_mm512_fmsub_ps(_mm512_load_ps(scores + i), f, b)));
    const __m512 p1 =
        _mm512_maskz_mov_ps(tail1, exp2_nonpositive(_mm512_fmsub_ps(_mm512_load_ps(scores + i + 16), f, b)));
    _mm512_store_si512(p + i / 32 * kTile, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(p1, p0)));
    sum0 = _mm512_add_ps(sum0, p0);
    sum1 = _mm512_add_ps(sum1, p1);
    i += 32;
  }
  for (; i < columns; i += 32) _mm512_store_si512(p + i / 32 * kTile, _mm512_setzero_si512());
  sum = sum * rescale + _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
  return rescale;
}

float widen_one(uint16_t x) { return to_f32(bf16{x}); }

// The blocks that value_tiles left out: each row, with the columns it sees alone.
void values_apart(const Chunk &chunk, int64_t rows, int64_t dim, Scratch &s) {
  for (int64_t b = 0; b < chunk.count; b++) {
    if (!chunk.apart[b]) continue;
    for (int64_t r = 0; r < rows; r++) {
      const int64_t seen = smaller(s.columns[r] - b * chunk.block, chunk.block);
      for (int64_t key = 0; key < seen; key++) {
        const int64_t column = b * chunk.block + key;
        const float p = widen_one(s.p[(r / 16 * (kChunk / 32) + column / 32) * kTile + r % 16 * 32 + column % 32]);
        for (int64_t c = 0; c < dim; c++) {
          const uint16_t *tile = chunk.values[b] + (key / 32 * 2 * chunk.groups + c / 16) * kTile;
          float &out = s.out[(r / 16 * 2 * chunk.groups + c / 16) * 256 + r % 16 * 16 + c % 16];
          out += p * widen_one(tile[key % 32 / 2 * 32 + c % 16 * 2 + key % 2]);
        }
      }
    }
  }
}

// One chunk: kept blocks first .. first + count - 1 of the tile.
void attend_chunk(const AttendTile &tile, int64_t first, int64_t count, float scale, Scratch &s) {
  const int64_t block = tile.args->block, padded = padded_dim(tile.args->q.dim), groups = padded / 32;
  Chunk chunk;
  chunk.count = count;
  chunk.block = block;
  chunk.groups = groups;
  for (int64_t b = 0; b < count; b++) {
    const int64_t j = tile.kept[first + b];
    chunk.keys[b] = reinterpret_cast<const uint16_t *>(tile.packed) + 2 * j * block * padded;
    chunk.values[b] = chunk.keys[b] + block * padded;
    chunk.apart[b] = !tile.finite[j] && tile.keys_seen(0) < (j + 1) * block;
  }
  const int64_t strips = (tile.rows + 31) / 32;
  for (int64_t r = 0; r < strips * 32; r++) {
    int64_t columns = 0;
    if (r < tile.rows)
      for (int64_t b = 0; b < count; b++) {
        const int64_t seen = tile.keys_seen(r) - tile.kept[first + b] * block;
        columns += seen <= 0 ? 0 : smaller(seen, block);
      }
    s.columns[r] = columns;
  }
  // Columns of a strip of 32 rows: those of its last real row, in whole tiles.
  int64_t strip_columns[kTileRows / 32];
  for (int64_t strip = 0; strip < strips; strip++)
    strip_columns[strip] = (s.columns[smaller(strip * 32 + 32, tile.rows) - 1] + 31) / 32 * 32;

  for (int64_t b = 0; b < count; b++)
    for (int64_t c = 0; c < block; c += 32)
      for (int64_t strip = 0; strip < strips; strip++)
        if (b * block + c < strip_columns[strip])
          score_tiles(s.q + strip * 2 * groups * kTile, chunk.keys[b] + c / 16 * groups * kTile, groups,
                      s.scores + strip * 32 * kStride + b * block + c);

  for (int64_t r = 0; r < strips * 32; r++) {
    const float rescale = softmax_row(s.scores + r * kStride, s.p + r / 16 * (kChunk / 32) * kTile + r % 16 * 32,
                                      s.columns[r], strip_columns[r / 32], scale, s.max[r], s.sum[r]);
    if (rescale == 1.0f || first == 0) continue;
    float *out = s.out + r / 16 * 2 * groups * 256 + r % 16 * 16;
    for (int64_t c = 0; c < 2 * groups; c++)
      _mm512_store_ps(out + c * 256, _mm512_mul_ps(_mm512_load_ps(out + c * 256), _mm512_set1_ps(rescale)));
  }

  for (int64_t g = 0; g < groups; g++)
    for (int64_t strip = 0; strip < strips; strip++)
      if (strip_columns[strip] > 0 || first == 0)
        value_tiles(s.p + strip * 2 * (kChunk / 32) * kTile, chunk, 2 * g, strip_columns[strip], first == 0,
                    s.out + (strip * 4 * groups + 2 * g) * 256);
  values_apart(chunk, tile.rows, tile.args->q.dim, s);
}

void attend_tile(const AttendTile &tile, std::byte *scratch) {
  const AttendArgs &args = *tile.args;
  const Sequence &seq = *tile.sequence;
  const int64_t dim = args.q.dim, padded = padded_dim(dim), groups = padded / 32;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Scratch &s = *reinterpret_cast<Scratch *>(scratch);

  // Scores are wanted in units of log2 e. The factor must be positive for its product with the largest score to be the
  // largest product.
  const auto scale = static_cast<float>(std::fabs(args.scale) * 1.4426950408889634);
  for (int64_t r = 0; r < (tile.rows + 31) / 32 * 32; r++) {
    s.max[r] = -kInf;
    s.sum[r] = 0;
    if (r < tile.rows)
      load_row(args.q.at<const uint16_t>(seq.batch, seq.q_begin + tile.row + r, tile.head), dim, padded, args.q_rope,
               seq.offset() + tile.row + r, args.scale < 0, s.row, s.keys);
    else
      std::memset(s.keys, 0, static_cast<size_t>(padded) * sizeof(uint16_t));
    for (int64_t g = 0; g < groups; g++)
      _mm512_store_si512(s.q + (r / 16 * groups + g) * kTile + r % 16 * 32, _mm512_load_si512(s.keys + g * 32));
  }

  const TileConfig config;
  _tile_loadconfig(&config);
  const int64_t per_chunk = kChunk / args.block;
  for (int64_t first = 0; first < tile.kept_count; first += per_chunk)
    attend_chunk(tile, first, smaller(per_chunk, tile.kept_count - first), scale, s);
  _tile_release();

  for (int64_t r = 0; r < tile.rows; r++) {
    const int64_t token = seq.q_begin + tile.row + r;
    const bool nothing = s.sum[r] == 0;
    uint16_t *to = args.out.at<uint16_t>(seq.batch, token, tile.head);
    const float *from = s.out + r / 16 * 2 * groups * 256 + r % 16 * 16;
    const __m512 inverse = _mm512_set1_ps(1.0f / s.sum[r]);
    for (int64_t c = 0; c < dim; c += 16) {
      const __m512 x = nothing ? _mm512_setzero_ps() : _mm512_mul_ps(_mm512_load_ps(from + c / 16 * 256), inverse);
      _mm256_mask_storeu_epi16(to + c, first_lanes(dim - c), narrow(x));
    }
    if (args.lse.data)
      *args.lse.at(seq.batch, tile.head, token) =
          nothing ? -kInf : static_cast<float>((double{s.max[r]} + std::log2(double{s.sum[r]})) * 0.6931471805599453);
  }
}

}  // namespace
HWY_POP_ATTRIBUTES

AttendKernel attend_amx_kernel(const AttendArgs &args) {
  AttendKernel k;
  k.block_bytes = static_cast<size_t>(2 * args.block * padded_dim(args.q.dim)) * sizeof(uint16_t);
  k.scratch_bytes = (sizeof(Scratch) + 63) / 64 * 64;
  k.pack = pack_block;
  k.tile = attend_tile;
  return k;
}

#endif

}  // namespace seer::cpu
