#include <fcntl.h>
#if defined(__linux__)
#include <sched.h>
#endif
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <thread>

#include "os.h"
#include "status.h"

namespace seer::os {
namespace {

[[noreturn]] void fail_errno(const std::string &path, const char *what) {
  const int error = errno;
  fail(Status::io, "%s: %s: %s", path.c_str(), what, std::generic_category().message(error).c_str());
}

// Linux transfers at most 0x7ffff000 bytes per call.
size_t portion(uint64_t bytes) { return static_cast<size_t>(std::min(bytes, uint64_t{1} << 30)); }

int descriptor(FileHandle file) { return static_cast<int>(file); }

std::string directory_of(const std::string &path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

FileHandle open_read(const std::string &path, uint64_t &size) {
  // O_NONBLOCK: opening a FIFO without a writer returns at once.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail_errno(path, "cannot be opened");
  try {
    struct stat info;
    if (::fstat(fd, &info) != 0) fail_errno(path, "fstat");
    SEER_REQUIRE(S_ISREG(info.st_mode), Status::io, "%s: not a regular file", path.c_str());
    size = static_cast<uint64_t>(info.st_size);
  } catch (...) {
    ::close(fd);
    throw;
  }
  return fd;
}

uint64_t read_at(FileHandle file, const std::string &path, uint64_t offset, void *dst, uint64_t bytes) {
  for (;;) {
    const ssize_t got = ::pread(descriptor(file), dst, portion(bytes), static_cast<off_t>(offset));
    if (got >= 0) return static_cast<uint64_t>(got);
    if (errno != EINTR) fail_errno(path, "read");
  }
}

FileHandle create_new(const std::string &path, const std::string &target) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd >= 0) return fd;
  if (errno != EEXIST) fail_errno(target, "cannot be written");
  return kNoFile;
}

void write(FileHandle file, const std::string &path, const void *data, uint64_t bytes) {
  const auto *from = static_cast<const char *>(data);
  while (bytes != 0) {
    const ssize_t put = ::write(descriptor(file), from, portion(bytes));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno(path, "write");
    from += put;
    bytes -= static_cast<uint64_t>(put);
  }
}

void sync(FileHandle file, const std::string &path) {
  if (::fsync(descriptor(file)) != 0) fail_errno(path, "fsync");
}

void close(FileHandle &file, const std::string &path) {
  const int closed = ::close(descriptor(file));
  file = kNoFile;
  if (closed != 0) fail_errno(path, "close");
}

void close(FileHandle file) noexcept { ::close(descriptor(file)); }

void replace(const std::string &from, const std::string &to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_errno(to, "rename");
  const std::string directory = directory_of(to);
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno(directory, "cannot be opened");
  // Some file systems cannot sync a directory (EINVAL): the rename is then as durable as they make it.
  const bool synced = ::fsync(fd) == 0 || errno == EINVAL;
  const int error = errno;
  ::close(fd);
  errno = error;
  if (!synced) fail_errno(directory, "fsync");
}

void remove(const std::string &path) noexcept { ::unlink(path.c_str()); }

bool exists(const std::string &path) {
  struct stat info;
  if (::stat(path.c_str(), &info) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) fail_errno(path, "stat");
  return false;
}

uint64_t process_id() noexcept { return static_cast<uint64_t>(::getpid()); }

uint64_t memory_bytes() noexcept {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
}

int usable_cores() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string cpu_name() {
  std::string name = "CPU";
  if (std::FILE *file = std::fopen("/proc/cpuinfo", "re")) {
    char line[512];
    while (std::fgets(line, sizeof line, file)) {
      const char *colon = std::strchr(line, ':');
      if (std::strncmp(line, "model name", 10) != 0 || !colon || !colon[1]) continue;
      name = colon + 2;
      while (!name.empty() && (name.back() == '\n' || name.back() == ' ')) name.pop_back();
      break;
    }
    std::fclose(file);
  }
  return name;
}

}  // namespace seer::os
