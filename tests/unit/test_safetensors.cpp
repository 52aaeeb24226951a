#include "safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <numeric>

#include "atomic_file.h"
#include "files.h"

using namespace seer;
using seer::test::bytes_of;
using seer::test::error_of;
using seer::test::TempDir;

namespace {

std::string with_header(const std::string &header, const std::string &data = "") {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[size_t(i)] = static_cast<char>(header.size() >> (8 * i));
  return out + header + data;
}

Safetensors parse(const std::string &file) { return Safetensors::from_memory(bytes_of(file), "f"); }

}  // namespace

TEST_CASE("safetensors: golden file") {
  const auto file = Safetensors::open(SEER_TEST_DATA "/golden/llama-threshold/attn_gate_weights.safetensors");
  REQUIRE(file.tensors().size() == 2);
  const auto &t = file.at("model.layers.1.self_attn.attn_gate.mask_linear_k.weight");
  CHECK(t.dtype == DType::bf16);
  CHECK(t.shape == std::vector<int64_t>{4, 384, 128});
  CHECK(t.bytes() == 4 * 384 * 128 * 2);
  CHECK(file.find("model.layers.2") == nullptr);
  CHECK_FAILS(Status::format, "no tensor \"x\"", file.at("x"));
}

TEST_CASE("safetensors: what is written reads back") {
  TempDir dir;
  std::vector<float> f(6);
  std::iota(f.begin(), f.end(), 1.0f);
  const std::vector<uint8_t> u = {1, 2, 3};
  const std::vector<int64_t> i = {-1, 1};
  const std::string path = dir / "t.safetensors";
  write_safetensors(path,
                    {{"u", DType::u8, {3}, u.data()},
                     {"f", DType::f32, {2, 3}, f.data()},
                     {"empty", DType::f16, {0, 4}, nullptr},
                     {"i", DType::i64, {2}, i.data()},
                     {"scalar", DType::f32, {}, f.data()}},
                    {{"format", "pt"}});
  const auto file = Safetensors::open(path);
  CHECK(file.tensors().size() == 5);
  REQUIRE(file.metadata().size() == 1);
  CHECK(file.metadata()[0].second == "pt");
  for (const auto &t : file.tensors()) CHECK_MESSAGE(t.begin % uint64_t(element_size(t.dtype)) == 0, t.name);
  std::vector<float> f2(6);
  file.read(file.at("f"), f2.data());
  CHECK(f == f2);
  float part = 0;
  file.read(file.at("f"), 16, &part, 4);
  CHECK(part == 5.0f);
  CHECK_FAILS(Status::out_of_bounds, "it has 24", file.read(file.at("f"), 24, &part, 4));
  std::vector<uint8_t> u2(3);
  file.read(file.at("u"), u2.data());
  CHECK(u == u2);
  CHECK(file.at("empty").shape == std::vector<int64_t>{0, 4});
  CHECK(file.at("scalar").elements() == 1);

  const std::string whole = seer::test::get(path);
  const auto memory = parse(whole);
  memory.read(memory.at("f"), f2.data());
  CHECK(f == f2);
  CHECK(dir.count() == 1);
}

TEST_CASE("safetensors: the writer refuses what it could not read back, and leaves nothing") {
  TempDir dir;
  const float x = 0;
  const std::string path = dir / "t.safetensors";
  CHECK_FAILS(Status::invalid_argument, "\"a\" is taken",
              (write_safetensors(path, {{"a", DType::f32, {}, &x}, {"a", DType::f32, {}, &x}}), 0));
  CHECK_FAILS(Status::invalid_argument, "__metadata__",
              (write_safetensors(path, {{"__metadata__", DType::f32, {}, &x}}), 0));
  CHECK_FAILS(Status::invalid_argument, "dtype b32", (write_safetensors(path, {{"a", DType::b32, {}, &x}}), 0));
  CHECK_FAILS(Status::invalid_argument, "extent -1", (write_safetensors(path, {{"a", DType::f32, {-1}, &x}}), 0));
  CHECK_FAILS(Status::invalid_argument, "no data", (write_safetensors(path, {{"a", DType::f32, {2}, nullptr}}), 0));
  CHECK_FAILS(Status::invalid_argument, "UTF-8", (write_safetensors(path, {{"\xff", DType::f32, {}, &x}}), 0));
  CHECK_FAILS(Status::out_of_bounds, "overflow",
              (write_safetensors(path, {{"a", DType::f32, {1LL << 40, 1LL << 40}, &x}}), 0));
  CHECK_FAILS(Status::io, "cannot be written", (write_safetensors(dir / "no/t.safetensors", {}), 0));
  CHECK(dir.count() == 0);
}

TEST_CASE("safetensors: an interrupted write leaves the old file") {
  TempDir dir;
  const std::string path = dir / "t";
  seer::test::put(path, "old");
  {
    AtomicFile file(path);
    file.write("new and longer");
    CHECK(dir.count() == 2);
  }
  CHECK(dir.count() == 1);
  CHECK(seer::test::get(path) == "old");
  AtomicFile file(path);
  file.write("new");
  file.finish();
  CHECK(seer::test::get(path) == "old");
  file.commit();
  CHECK(seer::test::get(path) == "new");
  CHECK(dir.count() == 1);
}

TEST_CASE("safetensors: a commit that fails leaves nothing behind") {
  TempDir dir;
  std::filesystem::create_directory(dir / "target");
  seer::test::put(dir / "target/x", "");
  CHECK_FAILS(Status::io, "rename", (write_safetensors(dir / "target", {}), 0));
  CHECK(dir.count() == 1);
}

TEST_CASE("safetensors: files that are not regular files") {
  TempDir dir;
  CHECK_FAILS(Status::io, "cannot be opened", Safetensors::open(dir / "none"));
  CHECK_FAILS(Status::io, "not a regular file", Safetensors::open(dir.str()));
#if !defined(_WIN32)
  CHECK_FAILS(Status::io, "/dev/zero: not a regular file", Safetensors::open("/dev/zero"));
  REQUIRE(mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK_FAILS(Status::io, "not a regular file", Safetensors::open(dir / "fifo"));
#endif
  seer::test::put(dir / "large", std::string(100, 'x'));
  CHECK_FAILS(Status::format, "100 bytes, at most 99", Safetensors::open(dir / "large", 99));
}

TEST_CASE("safetensors: truncated at every byte") {
  const float x[4] = {};
  TempDir dir;
  write_safetensors(dir / "t", {{"a", DType::f32, {2}, x}, {"b", DType::f32, {2}, x}});
  const std::string whole = seer::test::get(dir / "t");
  CHECK_NOTHROW(parse(whole));
  for (size_t n = 0; n < whole.size(); ++n)
    CHECK_MESSAGE(error_of([&] { parse(whole.substr(0, n)); }).status() == Status::format, n);
  CHECK_FAILS(Status::format, "1 bytes follow the last tensor", parse(whole + "x"));
}

TEST_CASE("safetensors: lying header lengths") {
  CHECK_FAILS(Status::format, "a header of 18446744073709551615", parse(std::string(8, '\xff') + "{}"));
  CHECK_FAILS(Status::format, "a header of 3 bytes, at most 2", parse(std::string("\3\0\0\0\0\0\0\0{}", 10)));
  CHECK_FAILS(Status::format, "does not start with '{'", parse(with_header("")));
  CHECK_FAILS(Status::format, "does not start with '{'", parse(with_header(" {}")));
  CHECK_FAILS(Status::format, "at most 100000000", parse(with_header(std::string(100'000'001, ' '))));
  CHECK_NOTHROW(parse(with_header("{}   ")));
}

TEST_CASE("safetensors: lying entries") {
  const std::string data(8, 'd');
  const auto one = [&](const std::string &entry) { return with_header("{\"a\":" + entry + "}", data); };
  CHECK_NOTHROW(parse(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})")));
  CHECK_NOTHROW(parse(one(R"({"dtype":"F99_NEW","shape":[3],"data_offsets":[0,8]})")));
  CHECK_NOTHROW(parse(one(R"({"dtype":"BOOL","shape":[8],"data_offsets":[0,8]})")));

  const struct {
    const char *entry, *text;
  } bad[] = {
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,9]})", "not a range inside the 8 bytes"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "not a range"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", "an integer from 0"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", "not a range"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,4,8]})", "not a range"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616]})", "an integer from 0"},
      {R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", "an integer from 0"},
      {R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "an integer from 0"},
      {R"({"dtype":"F32","shape":"2","data_offsets":[0,8]})", "an array of integers"},
      {R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", "need 12"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", "overflows"},
      {R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]})", "need 18446744073709551615"},
      {R"({"dtype":"F4","shape":[15],"data_offsets":[0,8]})", "hold 8 bytes"},
      {R"({"dtype":4,"shape":[2],"data_offsets":[0,8]})", "a string is expected"},
      {R"({"shape":[2],"data_offsets":[0,8]})", "key \"a.dtype\" is missing"},
      {R"({"dtype":"F32","data_offsets":[0,8]})", "key \"a.shape\" is missing"},
      {R"({"dtype":"F32","shape":[2]})", "key \"a.data_offsets\" is missing"},
      {R"([])", "an object is expected"},
      {R"({"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]})", "appears twice"},
      {R"({"dtype":"F16","shape":[2],"data_offsets":[0,4]})", "4 bytes follow the last"},
      {R"({"dtype":"F16","shape":[2],"data_offsets":[4,8]})", "leaving a gap"},
  };
  for (const auto &b : bad) CHECK_FAILS(Status::format, b.text, parse(one(b.entry)));

  const auto two = [&](const char *a, const char *b, const char *second = "b") {
    return with_header(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + a + R"(},")" + second +
                           R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                       data);
  };
  CHECK_NOTHROW(parse(two("[4,8]", "[0,4]")));
  CHECK_FAILS(Status::format, "key \"a\" appears twice", parse(two("[0,4]", "[4,8]", "a")));
  CHECK_FAILS(Status::format, "overlapping", parse(two("[0,4]", "[0,4]")));
  CHECK_FAILS(Status::format, "overlapping", parse(two("[0,4]", "[3,7]")));

  CHECK_FAILS(Status::format, "__metadata__", parse(with_header(R"({"__metadata__":{"k":1}})")));
  CHECK_FAILS(Status::format, "__metadata__", parse(with_header(R"({"__metadata__":[]})")));
}
