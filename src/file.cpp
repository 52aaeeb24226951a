#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "status.h"

namespace seer {

namespace {

std::string error_text(int error) { return std::generic_category().message(error); }

}  // namespace

void ByteSource::read(uint64_t offset, void *dst, uint64_t bytes) const {
  SEER_REQUIRE(offset <= size_ && bytes <= size_ - offset, Status::format,
               "%s: truncated: bytes %llu to %llu + %llu wanted, the file has %llu", name_.c_str(),
               static_cast<unsigned long long>(offset), static_cast<unsigned long long>(offset),
               static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(size_));
  if (bytes != 0) read_inside(offset, dst, bytes);
}

File::File(const std::string &path, uint64_t max_bytes) : ByteSource(path, 0) {
  // O_NONBLOCK: opening a FIFO without a writer returns at once.
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  SEER_REQUIRE(fd_ >= 0, Status::io, "%s: cannot be opened: %s", path.c_str(), error_text(errno).c_str());
  struct stat info;
  try {
    SEER_REQUIRE(::fstat(fd_, &info) == 0, Status::io, "%s: fstat: %s", path.c_str(), error_text(errno).c_str());
    SEER_REQUIRE(S_ISREG(info.st_mode), Status::io, "%s: not a regular file", path.c_str());
    size_ = static_cast<uint64_t>(info.st_size);
    SEER_REQUIRE(size_ <= max_bytes, Status::format, "%s: %llu bytes, at most %llu are allowed", path.c_str(),
                 static_cast<unsigned long long>(size_), static_cast<unsigned long long>(max_bytes));
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

File::~File() { ::close(fd_); }

void File::read_inside(uint64_t offset, void *dst, uint64_t bytes) const {
  auto *to = static_cast<char *>(dst);
  while (bytes != 0) {
    // Linux transfers at most 0x7ffff000 bytes per call.
    const size_t want = bytes < (1u << 30) ? static_cast<size_t>(bytes) : size_t{1} << 30;
    const ssize_t got = ::pread(fd_, to, want, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    SEER_REQUIRE(got >= 0, Status::io, "%s: read at %llu: %s", name_.c_str(), static_cast<unsigned long long>(offset),
                 error_text(errno).c_str());
    SEER_REQUIRE(got != 0, Status::io, "%s: became shorter while it was read: no byte at %llu of %llu", name_.c_str(),
                 static_cast<unsigned long long>(offset), static_cast<unsigned long long>(size_));
    to += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
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

bool file_exists(const std::string &path) {
  struct stat info;
  if (::stat(path.c_str(), &info) == 0) return true;
  SEER_REQUIRE(errno == ENOENT || errno == ENOTDIR, Status::io, "%s: %s", path.c_str(), error_text(errno).c_str());
  return false;
}

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
