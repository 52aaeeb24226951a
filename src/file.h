// Bytes of a file or of memory, read by range.
//
// Files are read, never mapped: truncation under a mapping would be a SIGBUS in the host's process.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "os.h"

namespace seer {

// Thread-safety: read() may be called from several threads at once.
class ByteSource {
public:
  virtual ~ByteSource() = default;
  const std::string &name() const { return name_; }  // of the file; errors begin with it
  uint64_t size() const { return size_; }
  // Copies [offset, offset + bytes). Throws format if that range is not inside [0, size()), io if it cannot be read.
  void read(uint64_t offset, void *dst, uint64_t bytes) const;

protected:
  ByteSource(std::string name, uint64_t size) : name_(std::move(name)), size_(size) {}
  virtual void read_inside(uint64_t offset, void *dst, uint64_t bytes) const = 0;
  std::string name_;
  uint64_t size_;
};

// A regular file. Throws io if it cannot be opened or is a directory, FIFO or device (it never waits for one), and
// format if it is larger than max_bytes.
class File final : public ByteSource {
public:
  explicit File(const std::string &path, uint64_t max_bytes = UINT64_MAX);
  ~File() override;
  File(const File &) = delete;
  File &operator=(const File &) = delete;

private:
  void read_inside(uint64_t offset, void *dst, uint64_t bytes) const override;
  os::FileHandle file_ = os::kNoFile;
};

// Borrowed memory, which must outlive it.
class MemorySource final : public ByteSource {
public:
  MemorySource(std::span<const std::byte> bytes, std::string name)
      : ByteSource(std::move(name), bytes.size()), data_(bytes.data()) {}

private:
  void read_inside(uint64_t offset, void *dst, uint64_t bytes) const override;
  const std::byte *data_;
};

// All of a small text file.
std::string read_text(const std::string &path, uint64_t max_bytes);
bool file_exists(const std::string &path);  // of any kind; throws io if that cannot be known

// Untrusted text for a message: quoted, control and non-ASCII bytes as \xNN, cut after 80 bytes.
std::string quote(std::string_view text);

}  // namespace seer
