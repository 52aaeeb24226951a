#include "pickle.h"

#include "files.h"
#include "zip_build.h"

using namespace seer;
using namespace seer::test;

namespace {

std::vector<PickleTensor> read(const std::string &text) { return read_pickle(bytes_of(text), "f"); }
Status status_of(const std::string &text) {
  return error_of([&] { read(text); }).status();
}
const std::string one = pkl::dict({{"a", pkl::tensor("0", 24, 2, {2, 3}, {3, 1})}});

}  // namespace

TEST_CASE("pickle: a dict of a tensor") {
  const auto tensors = read(one);
  REQUIRE(tensors.size() == 1);
  const PickleTensor &t = tensors[0];
  CHECK(t.name == "a");
  CHECK(t.storage == "0");
  CHECK(std::string(t.type) == "FloatStorage");
  CHECK(t.dtype == DType::f32);
  CHECK(t.element_bytes == 4);
  CHECK(t.storage_elements == 24);
  CHECK(t.offset == 2);
  CHECK(t.shape == std::vector<int64_t>{2, 3});
  CHECK(t.stride == std::vector<int64_t>{3, 1});
}

TEST_CASE("pickle: integers of every width") {
  const auto shape = [](const std::string &ints) {
    const std::string strides = std::string("(K\1K\1K\1K\1K\1t", 12);
    return read(pkl::dict({{"a", pkl::global("torch._utils", "_rebuild_tensor_v2") + "(" + pkl::storage("0", 1) + "K" +
                                     '\0' + "(" + ints + "t" + strides + "\x89NtR"}}))
        .at(0)
        .shape;
  };
  using namespace std::string_literals;
  CHECK(shape("K\xffM\xff\xffJ\xff\xff\xff\x7f\x8a\x03\xff\xff\x7f\x8a\x00"s) ==
        std::vector<int64_t>{255, 65535, INT32_MAX, 0x7fffff, 0});
  CHECK(status_of(pkl::dict({{"a", "\x8a\x09" + std::string(9, 'x')}})) == Status::format);
  // Negative extents: BININT and LONG1 are signed.
  CHECK_FAILS(Status::format, "bad shape", shape("J\xff\xff\xff\xffK\1K\1K\1K\1"s));
  CHECK_FAILS(Status::format, "bad shape", shape("\x8a\x01\x80K\1K\1K\1K\1"s));
}

TEST_CASE("pickle: every other global and opcode is unsafe") {
  const std::pair<const char *, const char *> globals[] = {{"os", "system"},
                                                           {"posix", "system"},
                                                           {"builtins", "eval"},
                                                           {"builtins", "getattr"},
                                                           {"torch", "load"},
                                                           {"torch._utils", "_rebuild_tensor"},
                                                           {"collections", "OrderedDict.x"},
                                                           {"torch.storage", "UntypedStorage"},
                                                           {"torch", "FloatStorage.x"},
                                                           {"", ""},
                                                           {"__builtin__", "exec"}};
  for (const auto &g : globals) {
    CHECK(status_of(pkl::dict({{"a", pkl::global(g.first, g.second)}})) == Status::unsafe_file);
    CHECK(status_of(pkl::dict({{"a", pkl::str(g.first) + pkl::str(g.second) + "\x93"}})) == Status::unsafe_file);
  }
  CHECK_FAILS(Status::unsafe_file, "f: refused: the pickle wants \"os.system\" at byte",
              read(pkl::dict({{"a", pkl::global("os", "system") + pkl::mark + pkl::str("true") + "tR"}})));

  const std::string allowed = "(.JKMNQRXabcehjqrstuG])}\x80\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95";
  size_t refused = 0;
  for (int op = 0; op < 256; ++op) {
    if (allowed.find(static_cast<char>(op)) != std::string::npos) continue;
    CHECK_MESSAGE(status_of(pkl::head + "}" + static_cast<char>(op) + std::string(16, '\0')) == Status::unsafe_file,
                  op);
    ++refused;
  }
  CHECK(refused == 256 - allowed.size());
}

TEST_CASE("pickle: calls with anything but the exact arguments are refused") {
  const std::string ordered = pkl::global("collections", "OrderedDict"),
                    rebuild = pkl::global("torch._utils", "_rebuild_tensor_v2"),
                    parameter = pkl::global("torch._utils", "_rebuild_parameter"), t = pkl::tensor("0", 1, 0, {1}, {1});
  const auto with = [](const std::string &value) { return status_of(pkl::dict({{"a", value}})); };
  CHECK(with(parameter + t + "\x89}\x87R") == Status::ok);
  CHECK(with(parameter + t + "\x89\x86R") == Status::unsafe_file);
  CHECK(with(parameter + "K\1\x89}\x87R") == Status::unsafe_file);
  CHECK(with(ordered + ")R") == Status::ok);
  CHECK(with(ordered + pkl::str("x") + "\x85R") == Status::unsafe_file);
  CHECK(with(rebuild + ")R") == Status::unsafe_file);
  CHECK(with(pkl::global("torch", "FloatStorage") + ")R") == Status::unsafe_file);
  CHECK(with(pkl::str("x") + ")R") == Status::unsafe_file);
  CHECK(with(ordered + "]R") == Status::unsafe_file);
  // BUILD only drops the state of an OrderedDict.
  CHECK(with(ordered + ")R}b") == Status::ok);
  CHECK(with("}}b") == Status::unsafe_file);
  CHECK(with("]}b") == Status::unsafe_file);
  CHECK(with(t + "}b") == Status::unsafe_file);
}

TEST_CASE("pickle: truncated at every byte, and longer than it says") {
  for (size_t n = 0; n < one.size(); ++n) CHECK_MESSAGE(status_of(one.substr(0, n)) == Status::format, n);
  CHECK_FAILS(Status::format, "bytes after STOP", read(one + "."));
  CHECK_FAILS(Status::format, "truncated", read(pkl::head + "X\xff\xff\xff\xff" + "a."));
  CHECK_FAILS(Status::format, "a frame that is truncated", read("\x80\x04\x95" + std::string(8, '\xff') + "}."));
  CHECK_FAILS(Status::format, "name that is truncated", read(pkl::head + "c" + std::string(300, 'a') + "\nb\n."));
}

TEST_CASE("pickle: protocols") {
  for (int p = 0; p < 8; ++p)
    CHECK((status_of(std::string("\x80") + static_cast<char>(p) + "}.") == Status::ok) == (p >= 2 && p <= 5));
  CHECK(status_of("}.") == Status::format);
  CHECK_FAILS(Status::format, "a second PROTO", read(pkl::head + "\x80\x02}."));
}

TEST_CASE("pickle: stack and mark misuse") {
  for (const std::string text :
       {"", "0", "K\1", "a", "s", "u", "t", "e", "R", "Q", "b", "q", "\x94", "\x85", "\x86", "\x87", "\x93"})
    CHECK_MESSAGE(status_of(pkl::head + text + ".") != Status::ok, text);
  CHECK_FAILS(Status::format, "stack underflow", read(pkl::head + "(\x85."));  // not across a mark
  CHECK_FAILS(Status::format, "stack underflow", read(pkl::head + "K\1(q" + '\0' + "."));
  CHECK_FAILS(Status::format, "no mark", read(pkl::head + "}u."));
  CHECK_FAILS(Status::format, "a key without a value", read(pkl::head + "}(" + pkl::str("a") + "u."));
  CHECK_FAILS(Status::format, "values left", read(pkl::head + "}}."));
  CHECK_FAILS(Status::format, "values left", read(pkl::head + "(}."));
  CHECK_FAILS(Status::format, "not a list", read(pkl::head + "}K\1a."));
  CHECK_FAILS(Status::format, "not a dict", read(pkl::head + "]" + pkl::str("a") + "K\1s."));
  CHECK_FAILS(Status::format, "is not a dict", read(pkl::head + "]."));
  CHECK_FAILS(Status::format, "not a string", read(pkl::head + "}K\1K\2s."));
  CHECK_FAILS(Status::format, "not a string", read(pkl::head + "K\1K\2\x93."));
  CHECK_FAILS(Status::format, "empty memo slot", read(pkl::head + "h" + '\7' + "."));
  CHECK_FAILS(Status::format, "empty memo slot", read(pkl::head + "}q\5h\4."));
}

TEST_CASE("pickle: duplicate keys, at the root and below") {
  CHECK_FAILS(Status::format, "key \"a\" appears twice", read(pkl::dict({{"a", "N"}, {"b", "N"}, {"a", "N"}})));
  CHECK_FAILS(Status::format, "key \"x\" appears twice",
              read(pkl::dict({{"a", "}(" + pkl::str("x") + "N" + pkl::str("x") + "Nu"}})));
}

TEST_CASE("pickle: bad storages and views") {
  const auto with = [](const std::string &value) { return error_of([&] { read(pkl::dict({{"a", value}})); }); };
  const std::string fs = pkl::global("torch", "FloatStorage");
  CHECK(with(pkl::mark + pkl::str("storage") + fs + pkl::str("0") + pkl::str("cpu") + pkl::num(-1) + "tQ").status() ==
        Status::format);
  CHECK(with(pkl::mark + pkl::str("module") + fs + pkl::str("0") + pkl::str("cpu") + pkl::num(1) + "tQ").status() ==
        Status::format);
  CHECK(with(pkl::mark + pkl::str("storage") + pkl::str("os") + pkl::str("0") + pkl::str("cpu") + pkl::num(1) + "tQ")
            .status() == Status::format);
  CHECK(with(pkl::mark + pkl::str("storage") + pkl::global("collections", "OrderedDict") + pkl::str("0") +
             pkl::str("cpu") + pkl::num(1) + "tQ")
            .status() == Status::format);
  CHECK(with(pkl::mark + pkl::str("storage") + fs + "tQ").status() == Status::format);
  CHECK(with(pkl::str("0") + "Q").status() == Status::format);
  CHECK(with(pkl::tensor("0", 1, -1, {1}, {1})).status() == Status::format);
  CHECK(with(pkl::tensor("0", 1, 0, {1, 1}, {1})).status() == Status::format);
  CHECK(with(pkl::tensor("0", 1, 0, {-1}, {1})).status() == Status::format);
  CHECK(with(pkl::tensor("0", 1, 0, {1}, {-1})).status() == Status::format);
  CHECK(with(pkl::tensor("0", 1, 0, std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1))).status() ==
        Status::format);
  CHECK(with(pkl::tensor("0", 1, 0, {}, {})).status() == Status::ok);
}

TEST_CASE("pickle: cyclic and deep values are harmless") {
  // a list in itself, a dict in itself, a tuple nested 90000 deep
  CHECK(status_of(pkl::head + "}(" + pkl::str("a") + "]q" + '\0' + "h" + '\0' + "au.") == Status::ok);
  CHECK(status_of(pkl::head + "}q" + '\0' + pkl::str("a") + "h" + '\0' + "s.") == Status::ok);
  std::string deep = ")";
  for (int i = 0; i < 90'000; ++i) deep += "\x85";
  CHECK(status_of(pkl::dict({{"a", deep}})) == Status::ok);
}

TEST_CASE("pickle: bombs end at the limits") {
  CHECK_FAILS(Status::format, "too deep", read(pkl::head + std::string(200'000, '(') + "."));
  CHECK_FAILS(Status::format, "too deep", read(pkl::head + std::string(200'000, 'N') + "."));
  std::string ops = pkl::head + "]";
  for (int i = 0; i < 2'100'000; ++i) ops += "Na";
  CHECK_FAILS(Status::format, "too many opcodes", read(ops + "."));
  std::string objects = pkl::head + "]";
  for (int i = 0; i < 1'000'001; ++i) objects += "]a";
  CHECK_FAILS(Status::format, "too many objects", read(objects + "."));
  CHECK_FAILS(Status::format, "memo slot beyond", read(pkl::head + "}r\xff\xff\xff\xff."));
  // doubling by memo ("billion laughs") stays a graph of a few values
  std::string laughs = pkl::head + "}" + pkl::str("a") + "()q" + '\1';
  for (int i = 0; i < 60; ++i) laughs += "h\1h\1\x86q\1";
  CHECK(status_of(laughs + "ts.") == Status::ok);
  PickleLimits small;
  small.max_memo = 1000;
  std::string puts = pkl::head + "}";
  for (uint64_t i = 0; i <= 1000; ++i) puts.append("r").append(little(i, 4));
  CHECK_FAILS(Status::format, "memo slot beyond", read_pickle(bytes_of(puts + "."), "f", small));
  small.max_bytes = 10;
  CHECK_FAILS(Status::format, "at most 10", read_pickle(bytes_of(one), "f", small));
}
