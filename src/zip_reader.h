// The directory of a zip file of stored entries, as torch.save writes it (zip64 from 4 GiB on).
//
// Own code, because minizip 1.1 of Debian 12 ignores zip64 sizes and other libraries do not tell where an entry's bytes
// are, which is all that is wanted here: storages are read straight into place.
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

// Trusts the central directory only (the sizes in front of the entries are 0 where a writer streamed). Checked at once:
// at most 100k entries, none compressed or encrypted, unique names, headers and bytes inside the file and not
// overlapping, nothing after the end record. Throws io or format.
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
