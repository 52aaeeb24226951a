#include "atomic_file.h"

#include <cstdio>
#include <random>

#include "status.h"

namespace seer {

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  std::random_device random;
  // Created anew under a name of our own, not by mkstemp: the file gets the mode that the umask gives, not 0600.
  for (int attempt = 0; attempt < 100; ++attempt) {
    char suffix[24];
    std::snprintf(suffix, sizeof suffix, ".tmp%08x", static_cast<unsigned>(random()));
    temporary_ = path_ + suffix;
    file_ = os::create_new(temporary_, path_);
    if (file_ != os::kNoFile) {
      exists_ = true;
      return;
    }
  }
  fail(Status::io, "%s: cannot be written: every name for a temporary file beside it is taken", path_.c_str());
}

AtomicFile::~AtomicFile() {
  if (file_ != os::kNoFile) os::close(file_);
  if (exists_) os::remove(temporary_);
}

void AtomicFile::write(const void *data, uint64_t bytes) { os::write(file_, path_, data, bytes); }

void AtomicFile::finish() {
  if (file_ == os::kNoFile) return;
  os::sync(file_, path_);
  os::close(file_, path_);
}

void AtomicFile::commit() {
  finish();
  os::replace(temporary_, path_);
  exists_ = false;
}

}  // namespace seer
