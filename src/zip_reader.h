// The directory of a zip file of stored entries, as torch.save writes it.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "file.h"

namespace seer {

struct ZipEntry {
  std::string name;
  uint64_t offset = 0, size = 0;  // of its bytes in the file
  uint32_t crc = 0;
};

// Reads the central directory only. Checked at once: at most 100k entries, none compressed or encrypted, unique names,
// bytes inside the file that overlap neither each other nor another entry's header. Throws io or format.
class ZipReader {
public:
  explicit ZipReader(std::shared_ptr<const ByteSource> source);

  const std::string &name() const { return source_->name(); }
  const std::vector<ZipEntry> &entries() const { return entries_; }  // sorted by name
  const ZipEntry *find(std::string_view name) const;                 // null: no such entry
  // All bytes of an entry, which are checked against its CRC-32. Throws format, also if there are more than max_bytes.
  std::string read_checked(const ZipEntry &entry, uint64_t max_bytes) const;

private:
  std::shared_ptr<const ByteSource> source_;
  std::vector<ZipEntry> entries_;
};

}  // namespace seer
