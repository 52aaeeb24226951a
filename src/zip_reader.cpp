// Layout: PKWARE's APPNOTE.TXT 6.3, sections 4.3 (records) and 4.5.3 (zip64 extra field).
#include "zip_reader.h"

#include <zlib.h>

#include <algorithm>

#include "status.h"

namespace seer {

namespace {

constexpr uint64_t max_entries = 100'000;
constexpr uint64_t max_directory = 64 << 20;
constexpr size_t max_name = 1024;
constexpr uint64_t wide = 0xffffffff;  // the true value is in the zip64 extra field

// Little-endian fields of a record.
class Record {
public:
  explicit Record(std::string_view bytes) : bytes_(bytes) {}
  bool is(std::string_view signature) const { return bytes_.starts_with(signature); }
  uint64_t u16(size_t at) const { return number(at, 2); }
  uint64_t u32(size_t at) const { return number(at, 4); }
  uint64_t u64(size_t at) const { return number(at, 8); }

private:
  uint64_t number(size_t at, size_t n) const {
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;) v = v << 8 | static_cast<unsigned char>(bytes_[at + i]);
    return v;
  }
  std::string_view bytes_;
};

class Directory {
public:
  explicit Directory(const ByteSource &source) : source_(source) { find(); }

  std::vector<ZipEntry> entries();

private:
  [[noreturn]] void bad(const char *what) const { fail(Status::format, "%s: %s", source_.name().c_str(), what); }
  std::string read(uint64_t at, uint64_t bytes) const {
    std::string out(bytes, '\0');
    source_.read(at, out.data(), bytes);
    return out;
  }
  void find();
  ZipEntry entry(std::string_view &rest) const;
  void read_wide(std::string_view extra, uint64_t &size, uint64_t &packed, uint64_t &header) const;

  const ByteSource &source_;
  uint64_t begin_ = 0, bytes_ = 0, count_ = 0;
  struct Span {
    uint64_t begin, end;
  };
  mutable std::vector<Span> spans_;  // local header and bytes of each entry
};

void Directory::find() {
  constexpr uint64_t end_bytes = 22, locator_bytes = 20, end64_bytes = 56;
  const uint64_t size = source_.size();
  if (size < end_bytes) bad("not a zip file, or truncated");
  uint64_t end_at = size - end_bytes;
  const std::string end_text = read(end_at, end_bytes);
  const Record end(end_text);
  if (!end.is("PK\5\6") || end.u16(20) != 0) bad("not a zip file, truncated, or with bytes after its end");
  count_ = end.u16(10);
  bytes_ = end.u32(12);
  begin_ = end.u32(16);

  const std::string locator_text = end_at >= locator_bytes ? read(end_at - locator_bytes, locator_bytes) : "";
  if (const Record locator(locator_text); locator.is("PK\6\7")) {
    const uint64_t limit = end_at - locator_bytes;
    end_at = locator.u64(8);
    if (end_at > limit || limit - end_at < end64_bytes) bad("the zip64 end record is not inside the file");
    const std::string end64_text = read(end_at, end64_bytes);
    const Record end64(end64_text);
    if (!end64.is("PK\6\6")) bad("no zip64 end record where there should be one");
    count_ = end64.u64(32);
    bytes_ = end64.u64(40);
    begin_ = end64.u64(48);
  }
  if (count_ > max_entries) bad("more than 100000 zip entries");
  if (bytes_ > max_directory) bad("a zip directory of more than 64 MiB");
  if (begin_ > end_at || bytes_ > end_at - begin_) bad("the zip directory is not inside the file");
}

std::vector<ZipEntry> Directory::entries() {
  const std::string text = read(begin_, bytes_);
  std::string_view rest = text;
  std::vector<ZipEntry> out;
  for (uint64_t i = 0; i < count_; ++i) out.push_back(entry(rest));
  if (!rest.empty()) bad("the zip directory holds more than its entries");
  std::sort(spans_.begin(), spans_.end(), [](const Span &a, const Span &b) { return a.begin < b.begin; });
  for (size_t i = 1; i < spans_.size(); ++i)
    if (spans_[i].begin < spans_[i - 1].end) bad("two zip entries overlap");
  return out;
}

// Takes the first entry off `rest`.
ZipEntry Directory::entry(std::string_view &rest) const {
  constexpr size_t central_bytes = 46, local_bytes = 30;
  const Record central(rest);
  if (rest.size() < central_bytes || !central.is("PK\1\2")) bad("a bad record in the zip directory");
  const size_t name_bytes = central.u16(28), extra_bytes = central.u16(30), comment_bytes = central.u16(32);
  if (rest.size() - central_bytes < name_bytes + extra_bytes + comment_bytes) bad("a bad record in the zip directory");
  if (name_bytes > max_name) bad("a zip entry's name is longer than 1024 bytes");
  if (central.u16(8) & 1) bad("a zip entry is encrypted");
  ZipEntry e;
  e.name = rest.substr(central_bytes, name_bytes);
  e.crc = static_cast<uint32_t>(central.u32(16));
  e.size = central.u32(24);
  uint64_t packed = central.u32(20), header = central.u32(42);
  read_wide(rest.substr(central_bytes + name_bytes, extra_bytes), e.size, packed, header);
  if (central.u16(10) != 0 || packed != e.size) bad("a zip entry is compressed, torch.save stores them");

  if (header > begin_ || begin_ - header < local_bytes) bad("a zip entry is not inside the file");
  const std::string local_text = read(header, local_bytes);
  const Record local(local_text);
  if (!local.is("PK\3\4") || local.u16(26) != name_bytes) bad("a zip entry's local header is bad");
  // The name and extra field in front of the bytes have lengths of their own: torch's alignment is there.
  e.offset = header + local_bytes + local.u16(26) + local.u16(28);
  if (e.offset > begin_ || e.size > begin_ - e.offset) bad("a zip entry is not inside the file");
  if (read(header + local_bytes, name_bytes) != e.name) bad("a zip entry has two names");
  spans_.push_back({header, e.offset + e.size});
  rest.remove_prefix(central_bytes + name_bytes + extra_bytes + comment_bytes);
  return e;
}

// Only the fields that did not fit into 32 bits are there, in this order.
void Directory::read_wide(std::string_view extra, uint64_t &size, uint64_t &packed, uint64_t &header) const {
  while (extra.size() >= 4) {
    const Record field(extra);
    const uint64_t id = field.u16(0), bytes = field.u16(2);
    if (bytes > extra.size() - 4) bad("a zip entry's extra field is bad");
    if (id == 1) {
      size_t at = 4;
      for (uint64_t *value : {&size, &packed, &header}) {
        if (*value != wide) continue;
        if (at + 8 > 4 + bytes) bad("a zip entry's zip64 field is too short");
        *value = field.u64(at);
        at += 8;
      }
      return;
    }
    extra.remove_prefix(4 + bytes);
  }
}

}  // namespace

ZipReader::ZipReader(std::shared_ptr<const ByteSource> source) : source_(std::move(source)) {
  entries_ = Directory(*source_).entries();
  std::sort(entries_.begin(), entries_.end(), [](auto &a, auto &b) { return a.name < b.name; });
  const auto twice =
      std::adjacent_find(entries_.begin(), entries_.end(), [](auto &a, auto &b) { return a.name == b.name; });
  SEER_REQUIRE(twice == entries_.end(), Status::format, "%s: two zip entries are named %s", name().c_str(),
               quote(twice->name).c_str());
}

const ZipEntry *ZipReader::find(std::string_view wanted) const {
  const auto it = std::lower_bound(entries_.begin(), entries_.end(), wanted,
                                   [](const ZipEntry &e, std::string_view n) { return e.name < n; });
  return it != entries_.end() && it->name == wanted ? &*it : nullptr;
}

std::string ZipReader::read_checked(const ZipEntry &entry, uint64_t max_bytes) const {
  SEER_REQUIRE(entry.size <= max_bytes, Status::format, "%s: zip entry %s has %llu bytes, at most %llu are allowed",
               name().c_str(), quote(entry.name).c_str(), static_cast<unsigned long long>(entry.size),
               static_cast<unsigned long long>(max_bytes));
  std::string bytes(entry.size, '\0');
  source_->read(entry.offset, bytes.data(), bytes.size());
  const auto crc = static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef *>(bytes.data()), bytes.size()));
  SEER_REQUIRE(crc == entry.crc, Status::format, "%s: zip entry %s has CRC-32 %08x, expected %08x", name().c_str(),
               quote(entry.name).c_str(), crc, entry.crc);
  return bytes;
}

}  // namespace seer
