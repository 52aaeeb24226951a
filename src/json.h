// JSON from untrusted files: bounded, duplicate keys refused, getters that name the file and the key.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace seer {

struct JsonMember;
// Integers outside int64 are doubles, as Python writes them.
struct Json {
  using Array = std::vector<Json>;
  using Object = std::vector<JsonMember>;  // in the file's order, keys unique
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> value;

  template <class T>
  const T *as() const {
    return std::get_if<T>(&value);
  }
  const char *type_name() const;
};
struct JsonMember {
  std::string key;
  Json value;
};

struct JsonLimits {
  uint64_t max_bytes = 16 << 20;
  int max_depth = 64;             // arrays and objects in one another
  uint64_t max_values = 1 << 20;  // bounds memory: "[[],[],..." needs 3 bytes each
};

// `where` (a file's name) begins every error. Throws format on anything but one whole JSON value within the limits.
Json parse_json(std::string_view text, const std::string &where, const JsonLimits &limits = {});

// An object of a parsed document, which must outlive it. A getter throws format if its key is missing, of another type
// or out of range; the ..._or forms give the default where the key is missing or null, and the default is not checked.
class JsonObject {
public:
  // `path` is the key that led here ("rope_scaling"); empty at the root.
  JsonObject(const Json &json, std::string where, std::string path = {});

  const Json::Object &members() const { return *object_; }
  const std::string &where() const { return where_; }
  const Json *find(std::string_view key) const;  // null: missing
  bool has(std::string_view key) const;          // there and not null

  int64_t integer(std::string_view key, int64_t min, int64_t max) const;
  int64_t integer_or(std::string_view key, int64_t otherwise, int64_t min, int64_t max) const;
  double number(std::string_view key) const;
  double number_or(std::string_view key, double otherwise) const;
  bool boolean_or(std::string_view key, bool otherwise) const;
  std::string string(std::string_view key) const;
  std::string string_or(std::string_view key, std::string otherwise) const;
  std::vector<double> numbers(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key, int64_t min, int64_t max) const;
  std::optional<JsonObject> object(std::string_view key) const;  // missing or null: nullopt
  std::string path_of(std::string_view key) const;               // "rope_scaling.factor", quoted

private:
  const Json &required(std::string_view key) const;
  std::string where_, path_;
  const Json::Object *object_;
};

}  // namespace seer
