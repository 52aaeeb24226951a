// Zip files and pickles built byte by byte, so that tests can make what no sane writer does.
#pragma once
#include <zlib.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace seer::test {

inline std::string little(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(i < 8 ? value >> (8 * i) : 0);
  return out;
}

struct ZipItem {
  std::string name, data;
  std::optional<uint32_t> crc = {};  // default: the right one
  std::string local_extra = {}, central_extra = {};
  std::optional<std::string> local_name = {};
  uint16_t flags = 0, method = 0;
  bool descriptor = false;                         // as torch: flag bit 3, sizes and CRC behind the data
  bool zip64 = false;                              // sizes and offset in a central zip64 extra field
  std::optional<uint64_t> size = {}, offset = {};  // lies of the central directory
};

struct ZipFile {
  std::vector<ZipItem> items;
  bool zip64_end = true;  // as torch always writes
  std::optional<uint64_t> count = {}, directory_offset = {}, directory_size = {}, end64_offset = {};
  std::string tail = {};  // after the end

  std::string build() const {
    std::string out, directory;
    for (const ZipItem &item : items) {
      const uint64_t at = out.size();
      const std::string local_name = item.local_name.value_or(item.name);
      const auto crc = item.crc.value_or(static_cast<uint32_t>(
          crc32(0, reinterpret_cast<const Bytef *>(item.data.data()), static_cast<uInt>(item.data.size()))));
      const uint16_t flags = static_cast<uint16_t>(item.flags | (item.descriptor ? 8 : 0));
      const uint64_t local = item.descriptor ? 0 : item.data.size();
      out += "PK\3\4" + little(45, 2) + little(flags, 2) + little(item.method, 2) + little(0, 4) +
             little(item.descriptor ? 0 : crc, 4) + little(local, 4) + little(local, 4) + little(local_name.size(), 2) +
             little(item.local_extra.size(), 2) + local_name + item.local_extra + item.data;
      if (item.descriptor)
        out += "PK\7\10" + little(crc, 4) + little(item.data.size(), 4) + little(item.data.size(), 4);

      const uint64_t size = item.size.value_or(item.data.size()), offset = item.offset.value_or(at);
      const std::string extra =
          item.zip64 ? little(1, 2) + little(24, 2) + little(size, 8) + little(size, 8) + little(offset, 8)
                     : item.central_extra;
      directory += "PK\1\2" + little(45, 2) + little(45, 2) + little(flags, 2) + little(item.method, 2) + little(0, 4) +
                   little(crc, 4) + little(item.zip64 ? UINT32_MAX : size, 4) +
                   little(item.zip64 ? UINT32_MAX : size, 4) + little(item.name.size(), 2) + little(extra.size(), 2) +
                   little(0, 2) + little(0, 2) + little(0, 2) + little(0, 4) +
                   little(item.zip64 ? UINT32_MAX : offset, 4) + item.name + extra;
    }
    const uint64_t start = directory_offset.value_or(out.size()), n = count.value_or(items.size()),
                   bytes = directory_size.value_or(directory.size());
    out += directory;
    const uint64_t end = out.size();
    if (zip64_end)
      out += "PK\6\6" + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 4) + little(0, 4) + little(n, 8) +
             little(n, 8) + little(bytes, 8) + little(start, 8) + "PK\6\7" + little(0, 4) +
             little(end64_offset.value_or(end), 8) + little(1, 4);
    return out + "PK\5\6" + little(0, 4) + little(n & 0xffff, 2) + little(n & 0xffff, 2) + little(bytes, 4) +
           little(start, 4) + little(0, 2) + tail;
  }
};

// The pieces of a pickle of protocol 2.
namespace pkl {
inline const std::string head = "\x80\x02", mark = "(";
inline std::string str(const std::string &s) { return std::string("X").append(little(s.size(), 4)).append(s); }
inline std::string num(int64_t i) { return "\x8a\x08" + little(static_cast<uint64_t>(i), 8); }
inline std::string global(const std::string &module, const std::string &name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<int64_t> &values) {
  std::string out = "(";
  for (int64_t v : values) out += num(v);
  return out + "t";
}
inline std::string storage(const std::string &key, int64_t elements, const std::string &type = "FloatStorage") {
  return mark + str("storage") + global("torch", type) + str(key) + str("cpu") + num(elements) + "tQ";
}
inline std::string tensor(const std::string &key, int64_t elements, int64_t offset, const std::vector<int64_t> &shape,
                          const std::vector<int64_t> &stride, const std::string &type = "FloatStorage") {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage(key, elements, type) + num(offset) +
         tuple(shape) + tuple(stride) + "\x89" + global("collections", "OrderedDict") + ")RtR";
}
// A whole pickle: the dict of these keys and values.
inline std::string dict(const std::vector<std::pair<std::string, std::string>> &items) {
  std::string out = head + "}(";
  for (const auto &[key, value] : items) out += str(key) + value;
  return out + "u.";
}
}  // namespace pkl

}  // namespace seer::test
