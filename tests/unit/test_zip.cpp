#include "zip_reader.h"

#include <cstring>

#include "files.h"
#include "pth.h"
#include "zip_build.h"

using namespace seer;
using namespace seer::test;

namespace {

struct Image {  // bytes and a reader of them
  std::string bytes;
  std::shared_ptr<const ByteSource> source = std::make_shared<MemorySource>(bytes_of(bytes), "f");
  explicit Image(std::string b) : bytes(std::move(b)) {}
  explicit Image(const ZipFile &zip) : bytes(zip.build()) {}
  Image(const Image &) = delete;
};

std::string text(const Image &image, const ZipEntry &e) {
  std::string out(e.size, '\0');
  image.source->read(e.offset, out.data(), out.size());
  return out;
}

Status status_of(const ZipFile &zip) {
  const Image image(zip);
  return error_of([&] { ZipReader reader(image.source); }).status();
}

ZipFile two() { return {{{"x/a", "hello"}, {"x/b", std::string(100, 'b')}}}; }

// A .pth of one tensor [2, 3] of f32 0..5 in a storage of 8 elements, with changes.
struct PthImage {
  std::vector<int64_t> shape = {2, 3}, stride = {3, 1};
  int64_t offset = 0, elements = 8;
  std::string key = "0", type = "FloatStorage", byteorder = "little", prefix = "archive";
  std::vector<float> values = {0, 1, 2, 3, 4, 5, 6, 7};
  ZipFile zip() const {
    return {{{prefix + "/data.pkl", pkl::dict({{"a", pkl::tensor(key, elements, offset, shape, stride, type)}})},
             {prefix + "/byteorder", byteorder},
             {prefix + "/data/0", std::string(reinterpret_cast<const char *>(values.data()), values.size() * 4)},
             {prefix + "/version", "3\n"}}};
  }
  std::vector<float> read() const { return read(zip()); }
  std::vector<float> read(const ZipFile &file) const {
    const Image image(file);
    const Pth pth(image.source);
    const PthTensor &t = *pth.find("a");
    int64_t n = 1;
    for (int64_t e : shape) n *= e;
    std::vector<float> out(static_cast<size_t>(n), -1.0f);
    pth.read(t, 0, shape.at(0), out.data());
    return out;
  }
};

}  // namespace

TEST_CASE("zip: stored entries in every form that torch writes") {
  for (const bool zip64_end : {false, true})
    for (const bool descriptor : {false, true})
      for (const bool zip64 : {false, true})
        for (const size_t pad : {size_t{0}, size_t{1}, size_t{63}}) {
          ZipFile zip = two();
          zip.zip64_end = zip64_end;
          for (auto &item : zip.items) {
            item.descriptor = descriptor;
            item.zip64 = zip64;
            if (pad) item.local_extra = "FB" + little(pad, 2) + std::string(pad, 'Z');  // alignment, or none of it
          }
          CAPTURE(zip64_end);
          CAPTURE(descriptor);
          CAPTURE(zip64);
          CAPTURE(pad);
          const Image image(zip);
          const ZipReader reader(image.source);
          REQUIRE(reader.entries().size() == 2);
          CHECK(text(image, *reader.find("x/a")) == "hello");
          CHECK(reader.read_checked(*reader.find("x/b"), 100) == std::string(100, 'b'));
          CHECK(reader.find("x/c") == nullptr);
        }
}

namespace {

// A file of mostly zeros that is too large to be built.
class SparseSource final : public ByteSource {
public:
  SparseSource(std::vector<std::pair<uint64_t, std::string>> parts)
      : ByteSource("sparse", parts.back().first + parts.back().second.size()), parts_(std::move(parts)) {}

private:
  void read_inside(uint64_t offset, void *dst, uint64_t bytes) const override {
    std::memset(dst, 0, bytes);
    for (const auto &[at, text] : parts_)
      for (uint64_t i = 0; i < text.size(); ++i)
        if (at + i >= offset && at + i < offset + bytes) static_cast<char *>(dst)[at + i - offset] = text[i];
  }
  std::vector<std::pair<uint64_t, std::string>> parts_;
};

}  // namespace

TEST_CASE("zip: an entry of more than 4 GiB and one behind it") {
  // As torch writes them: only the fields that overflow are in the zip64 extra field.
  const uint64_t large = 5ull << 30, second = 31 + large, directory = second + 31 + 5;
  const auto local = [](const std::string &name) {
    return "PK\3\4" + little(45, 2) + little(8, 2) + little(0, 18) + little(name.size(), 2) + little(0, 2) + name;
  };
  const auto central = [](const std::string &name, uint64_t size, uint64_t offset, const std::string &extra) {
    return "PK\1\2" + little(45, 2) + little(45, 2) + little(8, 2) + little(0, 2) + little(0, 4) + little(0, 4) +
           little(size, 4) + little(size, 4) + little(name.size(), 2) + little(extra.size(), 2) + little(0, 10) +
           little(offset, 4) + name + extra;
  };
  const std::string records =
      central("a", UINT32_MAX, 0, little(1, 2) + little(16, 2) + little(large, 8) + little(large, 8)) +
      central("b", 5, UINT32_MAX, "FB" + little(1, 2) + "Z" + little(1, 2) + little(8, 2) + little(second, 8));
  const std::string end = "PK\6\6" + little(44, 8) + little(0, 12) + little(2, 8) + little(2, 8) +
                          little(records.size(), 8) + little(directory, 8) + "PK\6\7" + little(0, 4) +
                          little(directory + records.size(), 8) + little(1, 4) + "PK\5\6" + little(0, 4) +
                          little(UINT16_MAX, 2) + little(UINT16_MAX, 2) + little(UINT32_MAX, 4) +
                          little(UINT32_MAX, 4) + little(0, 2);
  const auto source = std::make_shared<SparseSource>(std::vector<std::pair<uint64_t, std::string>>{
      {0, local("a")}, {second, local("b") + "hello"}, {directory, records + end}});
  const ZipReader reader(source);
  CHECK(reader.find("a")->offset == 31);
  CHECK(reader.find("a")->size == large);
  CHECK(reader.find("b")->size == 5);
  std::string hello(5, ' ');
  source->read(reader.find("b")->offset, hello.data(), 5);
  CHECK(hello == "hello");
}

TEST_CASE("zip: truncated at every byte") {
  const std::string whole = two().build();
  size_t refused = 0;
  for (size_t n = 0; n < whole.size(); ++n) {
    const Image image(whole.substr(0, n));
    const auto error = error_of([&] { ZipReader reader(image.source); });
    CHECK_MESSAGE((error.status() == Status::format), n);
    refused += error.status() == Status::format;
  }
  CHECK(refused == whole.size());
}

TEST_CASE("zip: lies are refused") {
  CHECK(status_of(two()) == Status::ok);
  const auto with = [](auto &&change) {
    ZipFile zip = two();
    change(zip);
    return status_of(zip);
  };
  CHECK(with([](ZipFile &z) { z.items[1].name = "x/a"; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.items[1].offset = 0; }) == Status::format);
  CHECK(with([](ZipFile &z) {
          z.items[1].size = 1 << 20;
          z.items[1].descriptor = true;
        }) == Status::format);
  CHECK(with([](ZipFile &z) {
          z.items[1].size = UINT64_MAX;
          z.items[1].zip64 = z.items[1].descriptor = true;
        }) == Status::format);
  CHECK(with([](ZipFile &z) {
          z.items[1].offset = UINT64_MAX - 8;
          z.items[1].zip64 = true;
        }) == Status::format);
  CHECK(with([](ZipFile &z) {
          z.items[0].size = 60;
          z.items[0].descriptor = true;
        }) == Status::format);  // into x/b
  CHECK(with([](ZipFile &z) { z.items[0].method = 8; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.items[0].flags = 1; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.items[0].local_name = "x/A"; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.items[0].local_name = "x/aa"; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.items[0].central_extra = little(1, 2) + little(24, 2) + "short"; }) == Status::format);
  CHECK(with([](ZipFile &z) {
          z.items[0].central_extra = little(1, 2) + little(0, 2), z.items[0].offset = UINT32_MAX;
        }) == Status::format);
  CHECK(with([](ZipFile &z) { z.tail = "x"; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.end64_offset = UINT64_MAX; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.end64_offset = 0; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.directory_size = UINT64_MAX; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.directory_size = 10; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.count = 1; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.items[0].name = std::string(2000, 'n'); }) == Status::format);
  CHECK(with([](ZipFile &z) { z.count = 3; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.count = 100'001; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.count = UINT64_MAX; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.directory_offset = 1 << 30; }) == Status::format);
  CHECK(with([](ZipFile &z) { z.directory_offset = UINT64_MAX; }) == Status::format);
}

TEST_CASE("zip: entries whose bytes were changed") {
  ZipFile zip = two();
  zip.items[0].crc = 1;
  const Image image(zip);
  const ZipReader reader(image.source);
  CHECK_FAILS(Status::format, "CRC-32 3610a686, expected 00000001", reader.read_checked(*reader.find("x/a"), 100));
  CHECK_FAILS(Status::format, "5 bytes, at most 4", reader.read_checked(*reader.find("x/a"), 4));
}

TEST_CASE("pth: views of a storage") {
  PthImage p;
  CHECK(p.read() == std::vector<float>{0, 1, 2, 3, 4, 5});
  p.offset = 2;
  CHECK(p.read() == std::vector<float>{2, 3, 4, 5, 6, 7});
  p = {};
  p.shape = {2, 2}, p.stride = {1, 4}, p.offset = 1;  // transposed
  CHECK(p.read() == std::vector<float>{1, 5, 2, 6});
  p = {};
  p.shape = {4}, p.stride = {2};
  CHECK(p.read() == std::vector<float>{0, 2, 4, 6});
  p = {};
  p.shape = {2, 1, 3}, p.stride = {4, 99, 1};  // the stride of a single element says nothing
  CHECK(p.read() == std::vector<float>{0, 1, 2, 4, 5, 6});
  p = {};
  p.shape = {0, 3};
  CHECK(p.read().empty());
}

TEST_CASE("pth: a range of the first dimension") {
  PthImage p;
  p.shape = {3, 2}, p.stride = {1, 3};
  const Image image(p.zip());
  const Pth pth(image.source);
  float out[2] = {};
  pth.read(*pth.find("a"), 1, 1, out);
  CHECK(out[0] == 1);
  CHECK(out[1] == 4);
  CHECK_FAILS(Status::out_of_bounds, "it has 3", pth.read(*pth.find("a"), 2, 2, out));
  CHECK_FAILS(Status::out_of_bounds, "it has 3", pth.read(*pth.find("a"), -1, 1, out));
}

TEST_CASE("pth: views that lie") {
  const auto with = [](auto &&change) {
    PthImage p;
    change(p);
    return error_of([&] { p.read(); });
  };
  const auto format = [&](const char *what, auto &&change) {
    const Error error = with(change);
    CHECK_MESSAGE(error.status() == Status::format, error.what());
    CHECK_MESSAGE(std::string(error.what()).find(what) != std::string::npos, error.what());
  };
  format("beyond its storage", [](PthImage &p) { p.offset = 3; });
  format("beyond its storage", [](PthImage &p) { p.stride = {6, 1}; });
  format("beyond its storage", [](PthImage &p) { p.offset = INT64_MAX; });
  format("beyond its storage", [](PthImage &p) { p.shape = {INT64_MAX, INT64_MAX}; });
  format("beyond its storage", [](PthImage &p) { p.shape = {2}, p.stride = {INT64_MAX}; });
  format("beyond its storage", [](PthImage &p) { p.shape = {3, 3}, p.stride = {INT64_MAX / 2, INT64_MAX / 2}; });
  format("repeats elements", [](PthImage &p) { p.shape = {1LL << 40}, p.stride = {0}; });
  format("repeats elements", [](PthImage &p) { p.shape = {1LL << 40, 1LL << 40}, p.stride = {0, 0}; });
  format("said to hold 9 elements of 4 bytes, it has 32", [](PthImage &p) { p.elements = 9; });
  format("said to hold", [](PthImage &p) { p.elements = 1LL << 62; });
  format("said to hold", [](PthImage &p) { p.type = "HalfStorage"; });
  format("storage \"1\" of \"a\" is missing", [](PthImage &p) { p.key = "1"; });
  format("storage \"../version\" of \"a\" is missing", [](PthImage &p) { p.key = "../version"; });
  format("byte order \"big\"", [](PthImage &p) { p.byteorder = "big"; });
}

TEST_CASE("pth: the container") {
  const PthImage p;
  {
    ZipFile zip = p.zip();
    zip.items[0].crc = 1;
    CHECK_FAILS(Status::format, "CRC-32", p.read(zip));
  }
  {
    ZipFile zip = p.zip();
    zip.items.push_back({"other/data.pkl", "x"});
    CHECK_FAILS(Status::format, "one data.pkl is expected", p.read(zip));
  }
  {
    ZipFile zip = p.zip();
    zip.items.erase(zip.items.begin());
    CHECK_FAILS(Status::format, "no data.pkl", p.read(zip));
  }
  {
    ZipFile zip = p.zip();
    zip.items.erase(zip.items.begin() + 1);  // older torch writes no byteorder
    CHECK(p.read(zip).size() == 6);
  }
  const Image old(std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15));
  CHECK_FAILS(Status::format, "re-save", Pth(old.source));
  const Image html("<!DOCTYPE html>");
  CHECK_FAILS(Status::format, "not a zip file", Pth(html.source));
}

TEST_CASE("pth: long runs of a strided view are read in place") {
  PthImage p;
  p.values.assign(3 * 10'000, 0.0f);
  for (size_t i = 0; i < p.values.size(); ++i) p.values[i] = float(i);
  p.elements = int64_t(p.values.size());
  p.shape = {2, 5'000}, p.stride = {20'000, 1}, p.offset = 3;
  const auto out = p.read();
  CHECK(out.front() == 3);
  CHECK(out[4'999] == 5'002);
  CHECK(out[5'000] == 20'003);
  CHECK(out.back() == 25'002);
}
