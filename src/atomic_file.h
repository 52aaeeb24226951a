// A file that appears whole or not at all: written beside its target under a temporary name, then renamed.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "os.h"

namespace seer {

// Every function throws io naming the file. Until commit() the target is untouched; without commit() the destructor
// removes the temporary file. Not thread-safe.
class AtomicFile {
public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile &) = delete;
  AtomicFile &operator=(const AtomicFile &) = delete;

  void write(const void *data, uint64_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // The bytes are on the disk when it returns; no write() after it. commit() does it if the caller did not: apart, so
  // that several files can be ready before the first is renamed.
  void finish();
  // Renames over the target and makes the rename durable.
  void commit();

private:
  std::string path_, temporary_;
  os::FileHandle file_ = os::kNoFile;
  bool exists_ = false;  // the temporary file
};

}  // namespace seer
