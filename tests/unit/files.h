// What the tests of loaders share: a folder that goes away, whole files, errors with their text.
#pragma once
#include <doctest/doctest.h>

#include <cstdint>
#include <fstream>
#include <span>
#include <string>

#include "../support/temp_dir.h"
#include "status.h"

namespace seer::test {

using ::TempDir;

inline void put(const std::string &path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(file.good());
}

inline std::string get(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// The error that f throws; Status::ok with "no error" if it throws none.
template <class F>
Error error_of(F &&f) {
  try {
    f();
  } catch (const Error &error) {
    return error;
  }
  return Error(Status::ok, "no error");
}

}  // namespace seer::test

namespace doctest {
template <>
struct StringMaker<seer::Status> {
  static String convert(seer::Status status) { return seer::status_name(status); }
};
}  // namespace doctest

// f throws Error(status) whose text contains `text`.
#define CHECK_FAILS(expected_, text_, ...)                                                                    \
  do {                                                                                                        \
    const seer::Error caught_ = seer::test::error_of([&] { (void)(__VA_ARGS__); });                           \
    CHECK_MESSAGE(caught_.status() == (expected_), std::string(caught_.what()));                              \
    CHECK_MESSAGE(std::string(caught_.what()).find(text_) != std::string::npos, std::string(caught_.what())); \
  } while (0)
