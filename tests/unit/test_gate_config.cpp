#include "gate_config.h"

#include <nlohmann/json.hpp>

#include <cmath>

#include "files.h"
#include "rope_config.h"

using namespace seer;
using seer::test::error_of;

namespace {

// config.json of a small model with keys replaced by those of `changes`.
std::string text(const std::string &changes = "{}") {
  auto json = nlohmann::ordered_json::parse(
      R"({"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128})");
  json.update(nlohmann::ordered_json::parse(changes));
  return json.dump();
}
GateConfig parse(const std::string &changes = "{}") { return parse_gate_config(text(changes), "config.json"); }

// Everything that can be told apart, as text.
std::string fingerprint(const GateConfig &c) {
  char rest[300];
  std::snprintf(rest, sizeof rest, "%d %d %d %d %d %d %u %u %d | %d %lld %a %a %lld %d %d | %s %s | ", c.layers,
                c.q_heads, c.kv_heads, c.head_dim, c.gate_dim, c.block_size, c.q_pool, c.k_pool, c.force_double,
                int(c.select.method), static_cast<long long>(c.select.last_dense_rows), c.select.threshold,
                c.select.ratio, static_cast<long long>(c.select.token_budget), c.select.keep_diagonal,
                c.select.keep_first, c.base_model.c_str(), c.model_type.c_str());
  const auto rope = [](const RopeConfig &r) {
    std::string out = std::to_string(int(r.kind)) + (r.truncate ? " t" : " f");
    for (const double x :
         {r.theta, r.factor, r.partial_rotary_factor, r.low_freq_factor, r.high_freq_factor, r.attention_factor,
          r.beta_fast, r.beta_slow, r.mscale, r.mscale_all_dim, r.attention_scaling, double(r.max_position_embeddings),
          double(r.original_max_position_embeddings)}) {
      char number[40];
      std::snprintf(number, sizeof number, " %a", x);
      out += number;
    }
    for (const auto &list :
         {r.short_factor, r.long_factor, std::vector<double>(r.inv_freq.begin(), r.inv_freq.end())}) {
      out += " /";
      for (const double x : list) out.append(" ").append(std::to_string(x));
    }
    return out;
  };
  return rest + rope(c.rope) + " | " + rope(c.gate_rope);
}

}  // namespace

TEST_CASE("gate_config: upstream's defaults for missing keys") {
  const GateConfig c = parse();
  CHECK(c.gate_dim == 128);
  CHECK(c.block_size == 64);
  CHECK(c.q_pool == pool_avg);
  CHECK(c.k_pool == (pool_max | pool_min | pool_avg));
  CHECK_FALSE(c.force_double);
  CHECK(c.single());
  CHECK(c.k_weight_heads() == 4);
  CHECK(c.select.method == SelectMethod::threshold);
  CHECK(c.select.threshold == 0.0);
  CHECK(c.select.ratio == 1.0);
  CHECK(c.select.last_dense_rows == 2);
  CHECK(c.rope.kind == RopeKind::standard);
  CHECK(c.rope.theta == 10000.0);
}

TEST_CASE("gate_config: keys of the model that may be missing or null") {
  CHECK(parse(R"({"num_key_value_heads": null})").kv_heads == 4);
  CHECK(parse(R"({"head_dim": null, "hidden_size": 512})").head_dim == 128);
  CHECK_FAILS(Status::format, "key \"hidden_size\" is missing", parse(R"({"head_dim": null})"));
  CHECK_FAILS(Status::model_mismatch, "hidden_size is 510", parse(R"({"head_dim": null, "hidden_size": 510})"));
  CHECK_FAILS(Status::format, "config.json: \"num_hidden_layers\" is null", parse(R"({"num_hidden_layers": null})"));
}

TEST_CASE("gate_config: the golden configurations") {
  const auto load = [](const std::string &name) {
    const std::string path = SEER_TEST_DATA "/golden/" + name + "/config.json";
    return parse_gate_config(seer::test::get(path), path);
  };
  const GateConfig llama = load("llama-nz-ratio");
  CHECK(llama.rope.kind == RopeKind::llama3);
  CHECK(llama.rope.factor == 8.0);
  CHECK(llama.rope.theta == 500000.0);
  CHECK(llama.rope.original_max_position_embeddings == 8192);
  CHECK(llama.rope.max_position_embeddings == 131072);
  CHECK(llama.select.method == SelectMethod::ratio);
  CHECK(llama.select.ratio == 0.3);
  CHECK(llama.model_type == "llama");
  const GateConfig yarn = load("qwen-yarn");
  CHECK(yarn.rope.kind == RopeKind::yarn);
  CHECK(std::isnan(yarn.rope.attention_factor));
  CHECK(load("sparse-rows").select.last_dense_rows == 0);
  const GateConfig twice = load("double-gate");
  CHECK_FALSE(twice.single());
  CHECK(twice.q_pool == (pool_max | pool_avg));
  CHECK(twice.k_pool == (pool_max | pool_min));
  CHECK(twice.gate_dim == 64);
}

TEST_CASE("gate_config: the 49 gate types and nothing else") {
  int count = 0;
  for (uint32_t q = 1; q <= 7; ++q)
    for (uint32_t k = 1; k <= 7; ++k, ++count) {
      uint32_t q2 = 0, k2 = 0;
      parse_gate_type(gate_type_name(q, k), q2, k2);
      CHECK(q2 == q);
      CHECK(k2 == k);
    }
  CHECK(count == 49);
  CHECK(gate_type_name(pool_avg, 7) == "Qavg_Kmaxminavg");
  CHECK(gate_type_name(5, 3) == "Qmaxavg_Kmaxmin");
  uint32_t q, k;
  for (const char *name :
       {"", "Q_K", "Qavg_K", "Qavg", "Qavgmax_Kmax", "qavg_kmax", "Qavg_Kmaxx", "Qavg_Kmax\n", "Qsum_Kmax"})
    CHECK_FAILS(Status::model_mismatch, "expected Q..._K...", (parse_gate_type(name, q, k), 0));
  CHECK_FAILS(Status::invalid_argument, "poolings 0 and 8", gate_type_name(0, 8));
}

TEST_CASE("gate_config: values that cannot be") {
  const std::pair<const char *, const char *> bad[] = {
      {R"({"num_hidden_layers": 0})", "num_hidden_layers is 0, expected 1"},
      {R"({"num_attention_heads": -4})", "num_attention_heads is -4"},
      {R"({"num_attention_heads": 100000})", "num_attention_heads is 100000"},
      {R"({"num_key_value_heads": 3})", "expected a multiple of num_key_value_heads 3"},
      {R"({"num_key_value_heads": 0})", "num_key_value_heads is 0"},
      {R"({"head_dim": 127})", "head_dim is 127, expected an even"},
      {R"({"head_dim": 0})", "head_dim is 0"},
      {R"({"seerattn_gate_hidden_size": 63})", "gate_hidden_size is 63"},
      {R"({"seerattn_gate_block_size": 48})", "gate_block_size is 48, expected 32, 64 or 128"},
      {R"({"seerattn_gate_type": "Qavg"})", "gate type \"Qavg\""},
      {R"({"seerattn_sparsity_method": "top_p"})", "seerattn_sparsity_method is \"top_p\""},
      {R"({"seerattn_threshold": 1.5})", "threshold is 1.5"},
      {R"({"seerattn_threshold": -0.1})", "threshold is -0.1"},
      {R"({"seerattn_sparsity_method": "nz_ratio", "seerattn_nz_ratio": 0})", "nz_ratio is 0"},
      {R"({"seerattn_sparsity_method": "token_budget"})", "token_budget is 0"},
  };
  for (const auto &b : bad) CHECK_FAILS(Status::model_mismatch, "config.json: ", parse(b.first));
  for (const auto &b : bad) CHECK_FAILS(Status::model_mismatch, b.second, parse(b.first));
  CHECK_NOTHROW(parse(R"({"seerattn_nz_ratio": 0})"));  // the method does not read it

  const std::pair<const char *, const char *> malformed[] = {
      {R"({"num_hidden_layers": 2.0})", "\"num_hidden_layers\" is a number, an integer"},
      {R"({"num_hidden_layers": 99999999999})", "is 99999999999, expected"},
      {R"({"seerattn_threshold": "0.1"})", "\"seerattn_threshold\" is a string, a number"},
      {R"({"seerattn_gate_type": 7})", "\"seerattn_gate_type\" is an integer, a string"},
      {R"({"seerattn_last_block_dense": 1})", "true or false"},
      {R"({"rope_scaling": "yarn"})", "\"rope_scaling\" is a string, an object"},
      {R"({"rope_scaling": {"rope_type": "yarn", "factor": "4"}})", "\"rope_scaling.factor\" is a string"},
      {R"({"rope_scaling": {"rope_type": "longrope"}})", "key \"rope_scaling.short_factor\" is missing"},
      {R"({"max_position_embeddings": -1})", "\"max_position_embeddings\" is -1"},
  };
  for (const auto &b : malformed) CHECK_FAILS(Status::format, b.second, parse(b.first));
  CHECK_FAILS(Status::format, "the document is an array", parse_gate_config("[]", "c"));
  GateConfig c = parse();
  c.select.threshold = std::nan("");
  CHECK_FAILS(Status::model_mismatch, "threshold is nan", (c.validate(), 0));
  c.select.method = SelectMethod::model;
  CHECK_FAILS(Status::model_mismatch, "selection method is 0", (c.validate(), 0));
}

TEST_CASE("rope_config: names and places of the keys") {
  const auto rope = [](const std::string &changes) { return parse(changes).rope; };
  CHECK(rope(R"({"rope_scaling": {"type": "linear", "factor": 2}})").kind == RopeKind::linear);
  CHECK(rope(R"({"rope_scaling": {"type": "old", "rope_type": "dynamic", "factor": 2}})").kind == RopeKind::dynamic);
  CHECK(rope(R"({"rope_scaling": {"rope_type": "default"}})").kind == RopeKind::standard);
  const RopeConfig v5 = rope(R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e6, "factor": 4.0,
      "beta_fast": 16, "mscale": 0.7, "truncate": false, "partial_rotary_factor": 0.5}, "rope_theta": 1.0})");
  CHECK(v5.kind == RopeKind::yarn);
  CHECK(v5.theta == 5e6);
  CHECK(v5.beta_fast == 16);
  CHECK(v5.beta_slow == 1);
  CHECK(v5.mscale == 0.7);
  CHECK(std::isnan(v5.mscale_all_dim));
  CHECK_FALSE(v5.truncate);
  CHECK(v5.partial_rotary_factor == 0.5);
  CHECK(rope(R"({"rope_parameters": {"rope_theta": 7.0}})").theta == 7.0);
  const RopeConfig phi = rope(R"({"original_max_position_embeddings": 4096, "max_position_embeddings": 131072,
      "rope_scaling": {"type": "su", "short_factor": [1, 1.5], "long_factor": [2, 3]}})");
  CHECK(phi.kind == RopeKind::longrope);
  CHECK(phi.original_max_position_embeddings == 4096);
  CHECK(phi.short_factor == std::vector<double>{1, 1.5});
  CHECK(std::isnan(phi.factor));
  CHECK_FAILS(Status::unsupported, "rope type \"mrope\"", rope(R"({"rope_scaling": {"type": "mrope"}})"));
  CHECK_FAILS(Status::unsupported, "\"rope_parameters.full_attention\" is an object",
              rope(R"({"rope_parameters": {"full_attention": {}}})"));
}

TEST_CASE("gate_config: what is written is read back equal") {
  const char *ropes[] = {
      "{}",
      R"({"rope_theta": 1e6, "max_position_embeddings": 4096, "partial_rotary_factor": 0.25})",
      R"({"original_max_position_embeddings": 77})",
      R"({"rope_scaling": {"type": "linear", "factor": 2.5}})",
      R"({"rope_scaling": {"type": "dynamic", "factor": 2}, "max_position_embeddings": 2048})",
      R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1.5, "high_freq_factor": 3, "original_max_position_embeddings": 8192}})",
      R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": 1.1, "beta_fast": 31, "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1, "truncate": false, "original_max_position_embeddings": 32768}})",
      R"({"rope_scaling": {"rope_type": "yarn"}})",
      R"({"original_max_position_embeddings": 4096, "rope_scaling": {"type": "su", "short_factor": [1, 1.5], "long_factor": [2, 0.1]}})",
      R"({"rope_scaling": {"rope_type": "inv_freq", "inv_freq": [1, 0.1, 3.4e-5], "attention_scaling": 1.25}})",
      R"({"rope_scaling": {"rope_type": "none"}})",
      R"({"seerattn_gate_rope": {"rope_theta": 3.0, "rope_scaling": {"type": "linear", "factor": 3}}})",
      R"({"rope_scaling": {"type": "linear", "factor": 3}, "seerattn_gate_rope": {}})",
      R"({"seerattn_gate_type": "Qmaxmin_Kmin", "seerattn_gate_block_size": 32, "seerattn_gate_hidden_size": 64, "base_model": "a/b", "model_type": "llama"})",
      R"({"seerattn_gate_force_double": true, "seerattn_sparsity_method": "nz_ratio", "seerattn_nz_ratio": 0.1, "seerattn_threshold": 5e-4})",
      R"({"seerattn_sparsity_method": "token_budget", "seerattn_token_budget": 4096, "seerattn_last_block_dense": false})",
      R"({"seerattn_sparsity_method": "all", "seerattn_last_dense_rows": 5, "seerattn_keep_diagonal": true, "seerattn_keep_first": true})",
  };
  for (const char *changes : ropes) {
    CAPTURE(changes);
    const GateConfig c = parse(changes);
    const std::string written = gate_config_json(c);
    const GateConfig again = parse_gate_config(written, "again");
    CHECK(fingerprint(c) == fingerprint(again));
    // Over another model's file nothing of that model's settings stays, but keys of no concern do.
    const std::string other =
        text(R"({"vocab_size": 5, "rope_scaling": {"type": "linear", "factor": 9}, "rope_theta": 3,
        "seerattn_gate_rope": {}, "seerattn_keep_first": true, "seerattn_token_budget": 9, "base_model": "old",
        "rope_parameters": {"rope_type": "yarn"}, "seerattn_last_dense_rows": 7})");
    const std::string merged = gate_config_json(c, other, "other");
    CHECK(fingerprint(c) == fingerprint(parse_gate_config(merged, "merged")));
    CHECK(nlohmann::json::parse(merged)["vocab_size"] == 5);
  }
  const GateConfig gate = parse(R"({"seerattn_gate_rope": {"rope_theta": 3.0}})");
  CHECK(gate.gate_rope.theta == 3.0);
  CHECK(gate.rope.theta == 10000.0);
}

TEST_CASE("gate_config: what JSON cannot hold is not written") {
  GateConfig c = parse();
  c.rope.theta = INFINITY;
  CHECK_FAILS(Status::invalid_argument, "rope_theta is inf", gate_config_json(c));
  c = parse();
  c.base_model = "\xff";
  CHECK_FAILS(Status::invalid_argument, "not UTF-8", gate_config_json(c));
  c = parse();
  c.select.ratio = INFINITY;
  CHECK_FAILS(Status::invalid_argument, "nz_ratio inf", gate_config_json(c));
  c = parse();
  c.rope.kind = RopeKind::inv_freq;
  c.rope.inv_freq = {1.0f, NAN};
  CHECK_FAILS(Status::invalid_argument, "inv_freq holds nan", gate_config_json(c));
  CHECK_FAILS(Status::format, "old: not JSON", gate_config_json(parse(), "{", "old"));
  CHECK_FAILS(Status::format, "old: the document is an array", gate_config_json(parse(), "[]", "old"));
}
