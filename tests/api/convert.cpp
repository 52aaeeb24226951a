// Callers of other versions: what the templates of capi/convert.h do with a struct that grew. The public structs have
// only one version so far.
#include "convert.h"

#include "api.h"

namespace {

struct First {
  uint32_t struct_size, a;
};
struct Second {
  uint32_t struct_size, a;
  uint64_t b;
};

}  // namespace

template <>
inline constexpr uint32_t seer::capi::kFirstSize<First> = sizeof(First);
template <>
inline constexpr uint32_t seer::capi::kFirstSize<Second> = sizeof(First);

using namespace seer::capi;

TEST_CASE("an old caller's struct: what it lacks is 0, and what it has not is not written") {
  const First in{sizeof(First), 7};
  const auto read = read_struct(reinterpret_cast<const Second *>(&in), "in");
  CHECK(read.a == 7);
  CHECK(read.b == 0);

  std::vector<unsigned char> old(64, 0xee);  // the rest guards
  std::memcpy(old.data(), &in, sizeof in);
  auto *out = reinterpret_cast<Second *>(old.data());
  prepare_struct(out, "out");
  write_struct(out, Second{0, 9, 10});
  First written;
  std::memcpy(&written, old.data(), sizeof written);
  CHECK(written.struct_size == sizeof(First));
  CHECK(written.a == 9);
  for (size_t i = sizeof(First); i < old.size(); i++) CHECK(old[i] == 0xee);
}

TEST_CASE("a new caller's struct on an old library: read while the rest is 0, its tail cleared on the way out") {
  Second in{sizeof(Second), 7, 0};
  CHECK(read_struct(reinterpret_cast<const First *>(&in), "in").a == 7);
  in.b = uint64_t{1} << 63;
  CHECK_THROWS_WITH_AS(read_struct(reinterpret_cast<const First *>(&in), "in"),
                       "in has 16 bytes, of which this library knows 8, and byte 15 is set: a newer feature",
                       seer::Error);
  std::vector<unsigned char> out(64, 0xee);
  std::memcpy(out.data(), &in, sizeof in.struct_size);
  write_struct(reinterpret_cast<First *>(out.data()), First{0, 5});
  std::memcpy(&in, out.data(), sizeof in);
  CHECK(in.struct_size == sizeof(Second));
  CHECK(in.a == 5);
  CHECK(in.b == 0);
}

TEST_CASE("sizes between versions are refused") {
  Second in{12, 7, 0};
  CHECK_THROWS_AS(read_struct(&in, "in"), seer::Error);
  in.struct_size = 4;
  CHECK_THROWS_AS(read_struct(&in, "in"), seer::Error);
  in.struct_size = 8;
  CHECK(read_struct(&in, "in").a == 7);
}
