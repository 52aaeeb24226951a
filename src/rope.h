// Rotary position embedding: inverse frequencies of every kind of scaling, and tables of cosines and sines.
//
// Formulas: transformers' modeling_rope_utils (default, linear, dynamic, llama3, yarn, longrope), whose values the
// golden cases carry. Half-rotation layout: element d pairs with d + dim/2.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace seer {

enum class RopeKind { none, standard, linear, dynamic, llama3, yarn, longrope, inv_freq };

// The rope keys of a config.json. Optional numbers that are absent are NaN (0 for counts).
struct RopeConfig {
  RopeKind kind = RopeKind::standard;
  double theta = 10000.0;
  double factor = 1.0;  // NaN (yarn, longrope): max_position_embeddings / original_max_position_embeddings
  double partial_rotary_factor = 1.0;  // only 1 is supported
  int64_t max_position_embeddings = 0;
  int64_t original_max_position_embeddings = 0;          // 0: max_position_embeddings
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double attention_factor = NAN_;                        // yarn, longrope: absent = from factor
  double beta_fast = 32.0, beta_slow = 1.0, mscale = NAN_, mscale_all_dim = NAN_;  // yarn
  bool truncate = true;                                                            // yarn
  std::vector<double> short_factor, long_factor;                                   // longrope, dim / 2 values each
  std::vector<float> inv_freq;                                                     // kind inv_freq
  double attention_scaling = 1.0;                                                  // kind inv_freq

  static constexpr double NAN_ = __builtin_nan("");
};

struct RopeFreqs {
  std::vector<float> inv_freq;     // dim / 2
  double attention_scaling = 1.0;  // on cos and sin
  bool operator==(const RopeFreqs &) const = default;
};

// The frequencies that transformers would use for vectors of `dim` channels in a sequence of `seq_len` tokens (only
// dynamic and longrope depend on it). Throws on impossible parameters, naming them.
RopeFreqs rope_freqs(const RopeConfig &config, int64_t dim, int64_t seq_len);
// Whether rope_freqs depends on seq_len.
bool rope_depends_on_length(const RopeConfig &config);

// cos and sin of position * inv_freq, times attention_scaling; angles in double, tables in f32, [positions][half].
struct RopeTables {
  int64_t positions = 0, half = 0;
  int64_t step = 1;  // row i is position i * step
  std::vector<float> cos, sin;
};
// Tables are shared between calls and grow as positions do. Thread-safe.
class RopeTableCache {
public:
  // Rows 0 .. positions - 1 at positions 0, step, 2 step, ...
  std::shared_ptr<const RopeTables> get(const RopeFreqs &freqs, int64_t positions, int64_t step);

private:
  struct Entry {
    RopeFreqs freqs;
    std::shared_ptr<const RopeTables> tables;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_;  // most recently used first, a handful
};

}  // namespace seer
