#include "gate_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "file.h"
#include "json.h"
#include "rope_config.h"
#include "status.h"

namespace seer {

namespace {

constexpr int32_t max_count = 1 << 16;  // of layers, heads, channels: far above any model, far below overflow

constexpr const char *pool_names[] = {"", "max", "min", "maxmin", "avg", "maxavg", "minavg", "maxminavg"};

struct MethodName {
  const char *name;
  SelectMethod method;
};
constexpr MethodName methods[] = {{"threshold", SelectMethod::threshold},
                                  {"nz_ratio", SelectMethod::ratio},
                                  {"token_budget", SelectMethod::budget},
                                  {"all", SelectMethod::all}};

SelectRule parse_select(const JsonObject &config) {
  SelectRule rule;
  const std::string name = config.string_or("seerattn_sparsity_method", "threshold");
  rule.method = SelectMethod::model;
  for (const auto &m : methods)
    if (name == m.name) rule.method = m.method;
  SEER_REQUIRE(rule.method != SelectMethod::model, Status::model_mismatch,
               "%s: seerattn_sparsity_method is %s, expected threshold, nz_ratio or token_budget",
               config.where().c_str(), quote(name).c_str());
  rule.threshold = config.number_or("seerattn_threshold", 0.0);
  rule.ratio = config.number_or("seerattn_nz_ratio", 1.0);
  rule.token_budget = config.integer_or("seerattn_token_budget", 0, 0, INT64_MAX);
  const bool dense = config.boolean_or("seerattn_last_block_dense", true);
  // Upstream's flag makes the last two rows dense.
  rule.last_dense_rows = config.integer_or("seerattn_last_dense_rows", dense ? 2 : 0, 0, INT32_MAX);
  rule.keep_diagonal = config.boolean_or("seerattn_keep_diagonal", false);
  rule.keep_first = config.boolean_or("seerattn_keep_first", false);
  return rule;
}

void require_count(const char *key, int64_t value) {
  SEER_REQUIRE(value >= 1 && value <= max_count, Status::model_mismatch, "%s is %lld, expected 1 to %d", key,
               static_cast<long long>(value), max_count);
}

}  // namespace

std::string gate_type_name(uint32_t q_pool, uint32_t k_pool) {
  SEER_REQUIRE(q_pool >= 1 && q_pool <= 7 && k_pool >= 1 && k_pool <= 7, Status::invalid_argument,
               "poolings %u and %u, expected 1 to 7: a sum of 1 (max), 2 (min) and 4 (avg)", q_pool, k_pool);
  return std::string("Q") + pool_names[q_pool] + "_K" + pool_names[k_pool];
}

void parse_gate_type(const std::string &name, uint32_t &q_pool, uint32_t &k_pool) {
  for (uint32_t q = 1; q <= 7; ++q)
    for (uint32_t k = 1; k <= 7; ++k)
      if (name == gate_type_name(q, k)) {
        q_pool = q;
        k_pool = k;
        return;
      }
  fail(Status::model_mismatch, "gate type %s, expected Q..._K... with poolings in the order max, min, avg: %s",
       quote(name).c_str(), "Qavg_Kmaxminavg");
}

void GateConfig::validate() const {
  require_count("num_hidden_layers", layers);
  require_count("num_attention_heads", q_heads);
  require_count("num_key_value_heads", kv_heads);
  SEER_REQUIRE(q_heads % kv_heads == 0, Status::model_mismatch,
               "num_attention_heads is %d, expected a multiple of num_key_value_heads %d", q_heads, kv_heads);
  require_count("head_dim", head_dim);
  SEER_REQUIRE(head_dim % 2 == 0, Status::model_mismatch, "head_dim is %d, expected an even number", head_dim);
  require_count("gate_hidden_size", gate_dim);
  SEER_REQUIRE(gate_dim % 2 == 0, Status::model_mismatch, "gate_hidden_size is %d, expected an even number", gate_dim);
  SEER_REQUIRE(block_size == 32 || block_size == 64 || block_size == 128, Status::model_mismatch,
               "gate_block_size is %d, expected 32, 64 or 128", block_size);
  SEER_REQUIRE(q_pool >= 1 && q_pool <= 7 && k_pool >= 1 && k_pool <= 7, Status::model_mismatch,
               "poolings of Q and K are %u and %u, expected 1 to 7: a sum of 1 (max), 2 (min) and 4 (avg)", q_pool,
               k_pool);
  SEER_REQUIRE(select.last_dense_rows >= 0, Status::model_mismatch, "last_dense_rows is %lld, expected 0 or more",
               static_cast<long long>(select.last_dense_rows));
  // Only the value that the method reads: upstream leaves the others at whatever they were.
  switch (select.method) {
    case SelectMethod::threshold:
      SEER_REQUIRE(select.threshold >= 0 && select.threshold <= 1, Status::model_mismatch,
                   "threshold is %g, expected 0 to 1", select.threshold);
      return;
    case SelectMethod::ratio:
      SEER_REQUIRE(select.ratio > 0 && select.ratio <= 1, Status::model_mismatch,
                   "nz_ratio is %g, expected more than 0 and at most 1", select.ratio);
      return;
    case SelectMethod::budget:
      SEER_REQUIRE(select.token_budget >= 1, Status::model_mismatch, "token_budget is %lld, expected 1 or more",
                   static_cast<long long>(select.token_budget));
      return;
    case SelectMethod::all: return;
    case SelectMethod::model: break;
  }
  fail(Status::model_mismatch, "the selection method is %d, expected threshold, ratio, budget or all",
       static_cast<int>(select.method));
}

GateConfig parse_gate_config(std::string_view text, const std::string &where) {
  const Json json = parse_json(text, where);
  const JsonObject config(json, where);
  GateConfig c;
  const auto count = [&](const char *key) {
    return static_cast<int32_t>(config.integer(key, INT32_MIN, INT32_MAX));  // validate() knows the limits
  };
  const auto count_or = [&](const char *key, int32_t otherwise) { return config.has(key) ? count(key) : otherwise; };
  c.layers = count("num_hidden_layers");
  c.q_heads = count("num_attention_heads");
  c.kv_heads = count_or("num_key_value_heads", c.q_heads);
  if (config.has("head_dim")) {
    c.head_dim = count("head_dim");
  } else {
    const int64_t hidden = config.integer("hidden_size", 1, INT32_MAX);
    SEER_REQUIRE(c.q_heads > 0 && hidden % c.q_heads == 0, Status::model_mismatch,
                 "%s: hidden_size is %lld, expected a multiple of num_attention_heads %d, for there is no head_dim",
                 where.c_str(), static_cast<long long>(hidden), c.q_heads);
    c.head_dim = static_cast<int32_t>(hidden / c.q_heads);
  }
  c.gate_dim = count_or("seerattn_gate_hidden_size", 128);
  c.block_size = count_or("seerattn_gate_block_size", 64);
  c.force_double = config.boolean_or("seerattn_gate_force_double", false);
  c.select = parse_select(config);
  c.rope = parse_rope_config(config);
  const auto gate_rope = config.object("seerattn_gate_rope");
  c.gate_rope = gate_rope ? parse_rope_config(*gate_rope) : c.rope;
  c.base_model = config.string_or("base_model", "");
  c.model_type = config.string_or("model_type", "");
  try {
    parse_gate_type(config.string_or("seerattn_gate_type", "Qavg_Kmaxminavg"), c.q_pool, c.k_pool);
    c.validate();
  } catch (const Error &error) {
    throw Error(error.status(), where + ": " + error.what());
  }
  return c;
}

std::string gate_config_json(const GateConfig &c, std::string_view existing, const std::string &where) {
  c.validate();
  auto config = nlohmann::ordered_json::object();
  if (!existing.empty()) {
    // Read first by our own bounded parser: what it accepts, the other one can take whole.
    const Json checked = parse_json(existing, where);
    [[maybe_unused]] const JsonObject object(checked, where);
    config = nlohmann::ordered_json::parse(existing);
    for (const char *key :
         {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "base_model",
          "max_position_embeddings", "original_max_position_embeddings", "model_type", "seerattn_last_dense_rows",
          "seerattn_keep_diagonal", "seerattn_keep_first", "seerattn_gate_rope", "seerattn_token_budget"})
      config.erase(key);
  }
  if (!c.model_type.empty()) config["model_type"] = c.model_type;
  if (!c.base_model.empty()) config["base_model"] = c.base_model;
  config["num_hidden_layers"] = c.layers;
  config["num_attention_heads"] = c.q_heads;
  config["num_key_value_heads"] = c.kv_heads;
  config["head_dim"] = c.head_dim;
  const auto rope = rope_config_json(c.rope), gate_rope = rope_config_json(c.gate_rope);
  config.update(rope);
  config["seerattn_gate_type"] = gate_type_name(c.q_pool, c.k_pool);
  config["seerattn_gate_block_size"] = c.block_size;
  config["seerattn_gate_hidden_size"] = c.gate_dim;
  config["seerattn_gate_force_double"] = c.force_double;
  if (gate_rope != rope) config["seerattn_gate_rope"] = gate_rope;
  for (const auto &m : methods)
    if (m.method == c.select.method) config["seerattn_sparsity_method"] = m.name;
  SEER_REQUIRE(std::isfinite(c.select.threshold) && std::isfinite(c.select.ratio), Status::invalid_argument,
               "threshold is %g and nz_ratio %g, expected finite numbers", c.select.threshold, c.select.ratio);
  config["seerattn_threshold"] = c.select.threshold;
  config["seerattn_nz_ratio"] = c.select.ratio;
  if (c.select.token_budget != 0) config["seerattn_token_budget"] = c.select.token_budget;
  config["seerattn_last_block_dense"] = c.select.last_dense_rows > 0;
  if (c.select.last_dense_rows != 0 && c.select.last_dense_rows != 2)
    config["seerattn_last_dense_rows"] = c.select.last_dense_rows;
  if (c.select.keep_diagonal) config["seerattn_keep_diagonal"] = true;
  if (c.select.keep_first) config["seerattn_keep_first"] = true;
  try {
    return config.dump(2) + "\n";
  } catch (const nlohmann::json::exception &) {
    fail(Status::invalid_argument, "base_model or model_type is not UTF-8");
  }
}

}  // namespace seer
