#include "file.h"

#include <cstring>

#include "status.h"

namespace seer {

void ByteSource::read(uint64_t offset, void *dst, uint64_t bytes) const {
  SEER_REQUIRE(offset <= size_ && bytes <= size_ - offset, Status::format,
               "%s: truncated: bytes %llu to %llu + %llu wanted, the file has %llu", name_.c_str(),
               static_cast<unsigned long long>(offset), static_cast<unsigned long long>(offset),
               static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(size_));
  if (bytes != 0) read_inside(offset, dst, bytes);
}

File::File(const std::string &path, uint64_t max_bytes) : ByteSource(path, 0) {
  file_ = os::open_read(path, size_);
  if (size_ <= max_bytes) return;
  os::close(file_);
  fail(Status::format, "%s: %llu bytes, at most %llu are allowed", path.c_str(), static_cast<unsigned long long>(size_),
       static_cast<unsigned long long>(max_bytes));
}

File::~File() { os::close(file_); }

void File::read_inside(uint64_t offset, void *dst, uint64_t bytes) const {
  auto *to = static_cast<char *>(dst);
  while (bytes != 0) {
    const uint64_t got = os::read_at(file_, name_, offset, to, bytes);
    SEER_REQUIRE(got != 0, Status::io, "%s: became shorter while it was read: no byte at %llu of %llu", name_.c_str(),
                 static_cast<unsigned long long>(offset), static_cast<unsigned long long>(size_));
    to += got;
    offset += got;
    bytes -= got;
  }
}

void MemorySource::read_inside(uint64_t offset, void *dst, uint64_t bytes) const {
  std::memcpy(dst, data_ + offset, bytes);
}

std::string read_text(const std::string &path, uint64_t max_bytes) {
  const File file(path, max_bytes);
  std::string text(file.size(), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

bool file_exists(const std::string &path) { return os::exists(path); }

std::string quote(std::string_view text) {
  constexpr size_t limit = 80;
  std::string out = "\"";
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      constexpr char hex[] = "0123456789abcdef";
      out += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
    }
  }
  out += text.size() > limit ? "...\"" : "\"";
  return out;
}

}  // namespace seer
