#include "json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "file.h"
#include "status.h"

namespace seer {

namespace {

// Builds the tree while nlohmann's parser, which does not recurse, reads; so limits hold before memory is spent.
class Builder {
public:
  Builder(const std::string &where, const JsonLimits &limits) : where_(where), limits_(limits) {}

  bool null() { return add(Json{nullptr}); }
  bool boolean(bool v) { return add(Json{v}); }
  bool number_integer(int64_t v) { return add(Json{v}); }
  bool number_unsigned(uint64_t v) {
    if (v <= uint64_t{INT64_MAX}) return add(Json{static_cast<int64_t>(v)});
    return add(Json{static_cast<double>(v)});
  }
  bool number_float(double v, const std::string &) { return add(Json{v}); }
  bool string(std::string &v) { return add(Json{std::move(v)}); }
  bool binary(nlohmann::json::binary_t &) { return false; }
  bool start_object(size_t) { return open(Json{Json::Object{}}); }
  bool start_array(size_t) { return open(Json{Json::Array{}}); }
  bool key(std::string &k) {
    std::get<Json::Object>(open_.back()->value).push_back({std::move(k), Json{nullptr}});
    return true;
  }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool end_object() {
    const auto &object = std::get<Json::Object>(open_.back()->value);
    std::vector<const std::string *> keys;
    keys.reserve(object.size());
    for (const auto &member : object) keys.push_back(&member.key);
    std::sort(keys.begin(), keys.end(), [](auto *a, auto *b) { return *a < *b; });
    const auto twice = std::adjacent_find(keys.begin(), keys.end(), [](auto *a, auto *b) { return *a == *b; });
    SEER_REQUIRE(twice == keys.end(), Status::format, "%s: key %s appears twice in an object", where_.c_str(),
                 quote(**twice).c_str());
    open_.pop_back();
    return true;
  }
  bool parse_error(size_t position, const std::string &, const nlohmann::json::exception &error) {
    // nlohmann's text repeats the position and may hold raw bytes of the file.
    const std::string text = error.what();
    const size_t dash = text.find(" - ");
    fail(Status::format, "%s: not JSON at byte %zu: %s", where_.c_str(), position,
         quote(dash == std::string::npos ? text : text.substr(dash + 3)).c_str());
  }

  Json root{nullptr};

private:
  Json *place(Json &&value) {
    SEER_REQUIRE(++count_ <= limits_.max_values, Status::format, "%s: more than %llu JSON values", where_.c_str(),
                 static_cast<unsigned long long>(limits_.max_values));
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    if (auto *array = std::get_if<Json::Array>(&open_.back()->value)) return &array->emplace_back(std::move(value));
    auto &member = std::get<Json::Object>(open_.back()->value).back();
    member.value = std::move(value);
    return &member.value;
  }
  bool add(Json &&value) {
    place(std::move(value));
    return true;
  }
  // The open containers stay where they are: only the innermost one grows.
  bool open(Json &&container) {
    SEER_REQUIRE(static_cast<int>(open_.size()) < limits_.max_depth, Status::format, "%s: JSON deeper than %d levels",
                 where_.c_str(), limits_.max_depth);
    open_.push_back(place(std::move(container)));
    return true;
  }

  const std::string &where_;
  const JsonLimits &limits_;
  std::vector<Json *> open_;
  uint64_t count_ = 0;
};

}  // namespace

const char *Json::type_name() const {
  constexpr const char *names[] = {"null", "a boolean", "an integer", "a number", "a string", "an array", "an object"};
  return names[value.index()];
}

Json parse_json(std::string_view text, const std::string &where, const JsonLimits &limits) {
  SEER_REQUIRE(text.size() <= limits.max_bytes, Status::format, "%s: %zu bytes of JSON, at most %llu are allowed",
               where.c_str(), text.size(), static_cast<unsigned long long>(limits.max_bytes));
  Builder builder(where, limits);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

JsonObject::JsonObject(const Json &json, std::string where, std::string path)
    : where_(std::move(where)), path_(std::move(path)), object_(json.as<Json::Object>()) {
  SEER_REQUIRE(object_, Status::format, "%s: %s is %s, an object is expected", where_.c_str(),
               path_.empty() ? "the document" : quote(path_).c_str(), json.type_name());
}

const Json *JsonObject::find(std::string_view key) const {
  for (const auto &member : *object_)
    if (member.key == key) return &member.value;
  return nullptr;
}

bool JsonObject::has(std::string_view key) const {
  const Json *json = find(key);
  return json && !json->as<std::nullptr_t>();
}

std::string JsonObject::path_of(std::string_view key) const {
  return quote(path_.empty() ? std::string(key) : path_ + "." + std::string(key));
}

const Json &JsonObject::required(std::string_view key) const {
  const Json *json = find(key);
  SEER_REQUIRE(json, Status::format, "%s: key %s is missing", where_.c_str(), path_of(key).c_str());
  return *json;
}

int64_t JsonObject::integer(std::string_view key, int64_t min, int64_t max) const {
  const Json &json = required(key);
  const auto *v = json.as<int64_t>();
  SEER_REQUIRE(v, Status::format, "%s: %s is %s, an integer from %lld to %lld is expected", where_.c_str(),
               path_of(key).c_str(), json.type_name(), static_cast<long long>(min), static_cast<long long>(max));
  SEER_REQUIRE(*v >= min && *v <= max, Status::format, "%s: %s is %lld, expected %lld to %lld", where_.c_str(),
               path_of(key).c_str(), static_cast<long long>(*v), static_cast<long long>(min),
               static_cast<long long>(max));
  return *v;
}

int64_t JsonObject::integer_or(std::string_view key, int64_t otherwise, int64_t min, int64_t max) const {
  return has(key) ? integer(key, min, max) : otherwise;
}

double JsonObject::number(std::string_view key) const {
  const Json &json = required(key);
  if (const auto *v = json.as<int64_t>()) return static_cast<double>(*v);
  const auto *v = json.as<double>();
  SEER_REQUIRE(v, Status::format, "%s: %s is %s, a number is expected", where_.c_str(), path_of(key).c_str(),
               json.type_name());
  return *v;
}

double JsonObject::number_or(std::string_view key, double otherwise) const {
  return has(key) ? number(key) : otherwise;
}

bool JsonObject::boolean_or(std::string_view key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const Json &json = required(key);
  const auto *v = json.as<bool>();
  SEER_REQUIRE(v, Status::format, "%s: %s is %s, true or false is expected", where_.c_str(), path_of(key).c_str(),
               json.type_name());
  return *v;
}

std::string JsonObject::string(std::string_view key) const {
  const Json &json = required(key);
  const auto *v = json.as<std::string>();
  SEER_REQUIRE(v, Status::format, "%s: %s is %s, a string is expected", where_.c_str(), path_of(key).c_str(),
               json.type_name());
  return *v;
}

std::string JsonObject::string_or(std::string_view key, std::string otherwise) const {
  return has(key) ? string(key) : std::move(otherwise);
}

std::vector<double> JsonObject::numbers(std::string_view key) const {
  const Json &json = required(key);
  const auto *array = json.as<Json::Array>();
  SEER_REQUIRE(array, Status::format, "%s: %s is %s, an array of numbers is expected", where_.c_str(),
               path_of(key).c_str(), json.type_name());
  std::vector<double> out;
  out.reserve(array->size());
  for (const Json &item : *array) {
    const auto *integer = item.as<int64_t>();
    const auto *real = item.as<double>();
    SEER_REQUIRE(integer || real, Status::format, "%s: %s holds %s at %zu, a number is expected", where_.c_str(),
                 path_of(key).c_str(), item.type_name(), out.size());
    out.push_back(integer ? static_cast<double>(*integer) : *real);
  }
  return out;
}

std::vector<int64_t> JsonObject::integers(std::string_view key, int64_t min, int64_t max) const {
  const Json &json = required(key);
  const auto *array = json.as<Json::Array>();
  SEER_REQUIRE(array, Status::format, "%s: %s is %s, an array of integers is expected", where_.c_str(),
               path_of(key).c_str(), json.type_name());
  std::vector<int64_t> out;
  out.reserve(array->size());
  for (const Json &item : *array) {
    const auto *v = item.as<int64_t>();
    SEER_REQUIRE(v && *v >= min && *v <= max, Status::format,
                 "%s: %s holds %s at %zu, an integer from %lld to %lld is expected", where_.c_str(),
                 path_of(key).c_str(), v ? std::to_string(*v).c_str() : item.type_name(), out.size(),
                 static_cast<long long>(min), static_cast<long long>(max));
    out.push_back(*v);
  }
  return out;
}

std::optional<JsonObject> JsonObject::object(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  return JsonObject(required(key), where_, path_.empty() ? std::string(key) : path_ + "." + std::string(key));
}

}  // namespace seer
