#include "json.h"

#include <cmath>

#include "files.h"

using namespace seer;
using seer::test::error_of;

TEST_CASE("json: values, order and types") {
  const Json json =
      parse_json(R"({"b": 1, "a": [1, 2.5, -3], "n": null, "t": true, "s": "x\u00e9", "o": {"k": 7}})", "f");
  const JsonObject o(json, "f");
  REQUIRE(o.members().size() == 6);
  CHECK(o.members()[0].key == "b");
  CHECK(o.integer("b", 0, 10) == 1);
  CHECK(o.number("b") == 1.0);
  CHECK(o.numbers("a") == std::vector<double>{1, 2.5, -3});
  CHECK(o.find("n"));
  CHECK_FALSE(o.has("n"));
  CHECK(o.integer_or("n", 42, 0, 10) == 42);
  CHECK(o.boolean_or("t", false));
  CHECK(o.string("s") == "x\xc3\xa9");
  CHECK(o.object("o")->integer("k", 0, 9) == 7);
  CHECK_FALSE(o.object("n").has_value());
  CHECK_FALSE(o.object("missing").has_value());
}

TEST_CASE("json: getters name file, key, what is there and what is expected") {
  const Json json =
      parse_json(R"({"heads": 70000, "text": "x", "big": 123456789012345678901234567890, "o": {"k": []}})", "c.json");
  const JsonObject o(json, "c.json");
  CHECK_FAILS(Status::format, "c.json: \"heads\" is 70000, expected 1 to 65536", o.integer("heads", 1, 65536));
  CHECK_FAILS(Status::format, "\"text\" is a string", o.integer("text", 0, 1));
  CHECK_FAILS(Status::format, "\"big\" is a number, an integer from 0", o.integer("big", 0, INT64_MAX));
  CHECK_FAILS(Status::format, "key \"none\" is missing", o.number("none"));
  CHECK_FAILS(Status::format, "\"o.k\" is an array, a number", o.object("o")->number("k"));
  CHECK_FAILS(Status::format, "\"heads\" is an integer, an object", o.object("heads"));
  CHECK_FAILS(Status::format, "\"heads\" is an integer, true or false", o.boolean_or("heads", true));
}

TEST_CASE("json: integers at the edges of 64 bits") {
  const Json json = parse_json("[9223372036854775807, -9223372036854775808, 9223372036854775808]", "f");
  const auto &array = *json.as<Json::Array>();
  CHECK(*array[0].as<int64_t>() == INT64_MAX);
  CHECK(*array[1].as<int64_t>() == INT64_MIN);
  CHECK(array[2].as<int64_t>() == nullptr);
}

TEST_CASE("json: duplicate keys at any level are refused") {
  CHECK_FAILS(Status::format, "key \"a\" appears twice", parse_json(R"({"a": 1, "b": 2, "a": 1})", "f"));
  CHECK_FAILS(Status::format, "key \"x\" appears twice", parse_json(R"({"a": [{"x": 1, "x": 2}]})", "f"));
  CHECK_NOTHROW(parse_json(R"({"a": {"x": 1}, "b": {"x": 1}})", "f"));
}

TEST_CASE("json: depth, size and number of values are bounded") {
  CHECK_NOTHROW(parse_json(std::string(64, '[') + std::string(64, ']'), "f"));
  CHECK_FAILS(Status::format, "deeper than 64", parse_json(std::string(65, '[') + std::string(65, ']'), "f"));
  CHECK_FAILS(Status::format, "deeper than 64", parse_json(std::string(1 << 20, '['), "f"));
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "{\"a\":";
  CHECK_FAILS(Status::format, "deeper than 64", parse_json(deep, "f"));
  CHECK_FAILS(Status::format, "at most 16777216", parse_json(std::string((16 << 20) + 1, ' '), "f"));
  std::string many = "[";
  for (int i = 0; i < 1 << 20; ++i) many += "0,";
  CHECK_FAILS(Status::format, "more than 1048576 JSON values", parse_json(many, "f"));
}

TEST_CASE("json: malformed text") {
  for (const char *text :
       {"",   " ",       "{",        "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,}", "[1 2]", "nul",      "01",
        "1e", "\"\\q\"", "\"\xff\"", "{}{}",   "{} x",    "NaN",      "Infinity",   "1e999", "{'a': 1}", "\"\x01\""})
    CHECK_FAILS(Status::format, "f: not JSON at byte", parse_json(text, "f"));
}

TEST_CASE("json: every prefix of a document is refused") {
  const std::string text = R"({"a": [1, {"b": "c"}], "d": null})";
  for (size_t n = 0; n < text.size(); ++n)
    CHECK_MESSAGE(error_of([&] { parse_json(text.substr(0, n), "f"); }).status() == Status::format, n);
}

TEST_CASE("json: messages hold no raw bytes of the file") {
  const auto error = error_of([] { parse_json("{\"\x1b[31m\": 1}", "f"); });
  CHECK(std::string(error.what()).find('\x1b') == std::string::npos);
  const auto key = error_of([] { const Json json = parse_json("{\"k\xc3\xa9\": 1, \"k\xc3\xa9\": 1}", "f"); });
  CHECK(std::string(key.what()).find("k\\xc3\\xa9") != std::string::npos);
}
