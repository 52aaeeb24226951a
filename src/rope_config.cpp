#include "rope_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "file.h"
#include "status.h"

namespace seer {

namespace {

constexpr int64_t max_positions = int64_t{1} << 40;

struct KindName {
  const char *name;
  RopeKind kind;
};
// The first name of a kind is the one written; the others are older.
constexpr KindName kinds[] = {
    {"default", RopeKind::standard}, {"linear", RopeKind::linear},     {"dynamic", RopeKind::dynamic},
    {"llama3", RopeKind::llama3},    {"yarn", RopeKind::yarn},         {"longrope", RopeKind::longrope},
    {"su", RopeKind::longrope},      {"inv_freq", RopeKind::inv_freq}, {"none", RopeKind::none},
};

RopeKind parse_kind(const JsonObject &scaling) {
  const std::string name = scaling.string_or("rope_type", scaling.string_or("type", "default"));
  for (const auto &k : kinds)
    if (name == k.name) return k.kind;
  fail(Status::unsupported, "%s: rope type %s, expected default, linear, dynamic, llama3, yarn or longrope",
       scaling.where().c_str(), quote(name).c_str());
}

}  // namespace

RopeConfig parse_rope_config(const JsonObject &config) {
  RopeConfig rope;
  rope.theta = config.number_or("rope_theta", rope.theta);
  rope.partial_rotary_factor = config.number_or("partial_rotary_factor", rope.partial_rotary_factor);
  rope.max_position_embeddings = config.integer_or("max_position_embeddings", 0, 0, max_positions);
  rope.original_max_position_embeddings = config.integer_or("original_max_position_embeddings", 0, 0, max_positions);

  auto scaling = config.object("rope_parameters");
  if (!scaling) scaling = config.object("rope_scaling");
  if (!scaling) return rope;
  for (const JsonMember &member : scaling->members())
    SEER_REQUIRE(!member.value.as<Json::Object>(), Status::unsupported,
                 "%s: %s is an object: rope parameters per layer type are not supported", scaling->where().c_str(),
                 scaling->path_of(member.key).c_str());

  rope.kind = parse_kind(*scaling);
  rope.theta = scaling->number_or("rope_theta", rope.theta);
  rope.partial_rotary_factor = scaling->number_or("partial_rotary_factor", rope.partial_rotary_factor);
  rope.original_max_position_embeddings =
      scaling->integer_or("original_max_position_embeddings", rope.original_max_position_embeddings, 0, max_positions);
  if (rope.kind != RopeKind::standard) rope.factor = scaling->number_or("factor", RopeConfig::NAN_);
  rope.low_freq_factor = scaling->number_or("low_freq_factor", rope.low_freq_factor);
  rope.high_freq_factor = scaling->number_or("high_freq_factor", rope.high_freq_factor);
  rope.attention_factor = scaling->number_or("attention_factor", rope.attention_factor);
  rope.beta_fast = scaling->number_or("beta_fast", rope.beta_fast);
  rope.beta_slow = scaling->number_or("beta_slow", rope.beta_slow);
  rope.mscale = scaling->number_or("mscale", rope.mscale);
  rope.mscale_all_dim = scaling->number_or("mscale_all_dim", rope.mscale_all_dim);
  rope.truncate = scaling->boolean_or("truncate", rope.truncate);
  if (rope.kind == RopeKind::longrope) {
    rope.short_factor = scaling->numbers("short_factor");
    rope.long_factor = scaling->numbers("long_factor");
  }
  if (rope.kind == RopeKind::inv_freq) {
    for (const double f : scaling->numbers("inv_freq")) rope.inv_freq.push_back(static_cast<float>(f));
    rope.attention_scaling = scaling->number("attention_scaling");
  }
  return rope;
}

nlohmann::ordered_json rope_config_json(const RopeConfig &rope) {
  using Object = nlohmann::ordered_json;
  const auto put = [](Object &object, const char *key, double value) {
    SEER_REQUIRE(std::isfinite(value), Status::invalid_argument, "rope: %s is %g, expected a finite number", key,
                 value);
    object[key] = value;
  };
  const RopeConfig defaults;
  const auto put_if_set = [&](Object &object, const char *key, double value, double otherwise) {
    if (!std::isnan(value) && value != otherwise) put(object, key, value);
  };

  Object config = Object::object();
  put(config, "rope_theta", rope.theta);
  put_if_set(config, "partial_rotary_factor", rope.partial_rotary_factor, 1.0);
  if (rope.max_position_embeddings) config["max_position_embeddings"] = rope.max_position_embeddings;
  // Longrope models of transformers 4 have it here, all others in rope_scaling; both are read for every kind.
  if (rope.original_max_position_embeddings && (rope.kind == RopeKind::longrope || rope.kind == RopeKind::standard))
    config["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  if (rope.kind == RopeKind::standard) {
    config["rope_scaling"] = nullptr;
    return config;
  }

  Object &scaling = config["rope_scaling"] = Object::object();
  for (const auto &k : kinds) {
    if (k.kind != rope.kind) continue;
    scaling["rope_type"] = k.name;
    break;
  }
  put_if_set(scaling, "factor", rope.factor, RopeConfig::NAN_);
  if (rope.kind == RopeKind::llama3) {
    put(scaling, "low_freq_factor", rope.low_freq_factor);
    put(scaling, "high_freq_factor", rope.high_freq_factor);
  }
  put_if_set(scaling, "attention_factor", rope.attention_factor, RopeConfig::NAN_);
  put_if_set(scaling, "beta_fast", rope.beta_fast, defaults.beta_fast);
  put_if_set(scaling, "beta_slow", rope.beta_slow, defaults.beta_slow);
  put_if_set(scaling, "mscale", rope.mscale, RopeConfig::NAN_);
  put_if_set(scaling, "mscale_all_dim", rope.mscale_all_dim, RopeConfig::NAN_);
  if (!rope.truncate) scaling["truncate"] = false;
  if (rope.original_max_position_embeddings && rope.kind != RopeKind::longrope)
    scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  const auto put_all = [&](const char *key, const auto &values) {
    Object &array = scaling[key] = Object::array();
    for (const double v : values) {
      SEER_REQUIRE(std::isfinite(v), Status::invalid_argument, "rope: %s holds %g, expected finite numbers", key, v);
      array.push_back(v);
    }
  };
  if (rope.kind == RopeKind::longrope) {
    put_all("short_factor", rope.short_factor);
    put_all("long_factor", rope.long_factor);
  }
  if (rope.kind == RopeKind::inv_freq) {
    put_all("inv_freq", rope.inv_freq);
    put(scaling, "attention_scaling", rope.attention_scaling);
  }
  return config;
}

}  // namespace seer
