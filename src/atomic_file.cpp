#include "atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <random>
#include <system_error>

#include "status.h"

namespace seer {

namespace {

[[noreturn]] void fail_errno(const std::string &path, const char *what) {
  const int error = errno;
  fail(Status::io, "%s: %s: %s", path.c_str(), what, std::generic_category().message(error).c_str());
}

std::string directory_of(const std::string &path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  std::random_device random;
  // O_EXCL with a name of our own, not mkstemp: the file gets the mode that the umask gives, not 0600.
  for (int attempt = 0; attempt < 100; ++attempt) {
    char suffix[24];
    std::snprintf(suffix, sizeof suffix, ".tmp%08x", static_cast<unsigned>(random()));
    temporary_ = path_ + suffix;
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ >= 0) {
      exists_ = true;
      return;
    }
    if (errno != EEXIST) break;
  }
  fail_errno(path_, "cannot be written");
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (exists_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void *data, uint64_t bytes) {
  auto *from = static_cast<const char *>(data);
  while (bytes != 0) {
    const size_t want = bytes < (1u << 30) ? static_cast<size_t>(bytes) : size_t{1} << 30;
    const ssize_t put = ::write(fd_, from, want);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno(path_, "write");
    from += put;
    bytes -= static_cast<uint64_t>(put);
  }
}

void AtomicFile::finish() {
  if (fd_ < 0) return;
  if (::fsync(fd_) != 0) fail_errno(path_, "fsync");
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) fail_errno(path_, "close");
}

void AtomicFile::commit() {
  finish();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_errno(path_, "rename");
  exists_ = false;
  const std::string directory = directory_of(path_);
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno(directory, "cannot be opened");
  // Some file systems cannot sync a directory (EINVAL): the rename is then as durable as they make it.
  const bool synced = ::fsync(fd) == 0 || errno == EINVAL;
  const int error = errno;
  ::close(fd);
  errno = error;
  if (!synced) fail_errno(directory, "fsync");
}

}  // namespace seer
