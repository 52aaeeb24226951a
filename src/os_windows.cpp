#ifndef NOMINMAX
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <bit>
#include <system_error>

#include "os.h"
#include "status.h"

namespace seer::os {
namespace {

[[noreturn]] void fail_last(const std::string &path, const char *what) {
  const auto error = static_cast<int>(GetLastError());
  fail(Status::io, "%s: %s: %s", path.c_str(), what, std::system_category().message(error).c_str());
}

std::wstring wide(const std::string &utf8) {
  const auto size = static_cast<int>(utf8.size());
  const int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8.data(), size, nullptr, 0);
  SEER_REQUIRE(n > 0 || size == 0, Status::io, "%s: the path is not UTF-8", utf8.c_str());
  std::wstring text(static_cast<size_t>(n), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, utf8.data(), size, text.data(), n);
  return text;
}

HANDLE native(FileHandle file) { return reinterpret_cast<HANDLE>(file); }

DWORD portion(uint64_t bytes) { return static_cast<DWORD>(std::min(bytes, uint64_t{1} << 30)); }

}  // namespace

FileHandle open_read(const std::string &path, uint64_t &size) {
  const std::wstring name = wide(path);
  const DWORD attributes = GetFileAttributesW(name.c_str());
  SEER_REQUIRE(attributes == INVALID_FILE_ATTRIBUTES || !(attributes & FILE_ATTRIBUTE_DIRECTORY), Status::io,
               "%s: not a regular file", path.c_str());
  const HANDLE file = CreateFileW(name.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                                  nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file == INVALID_HANDLE_VALUE) fail_last(path, "cannot be opened");
  try {
    SEER_REQUIRE(GetFileType(file) == FILE_TYPE_DISK, Status::io, "%s: not a regular file", path.c_str());
    LARGE_INTEGER bytes;
    if (!GetFileSizeEx(file, &bytes)) fail_last(path, "its size");
    size = static_cast<uint64_t>(bytes.QuadPart);
  } catch (...) {
    CloseHandle(file);
    throw;
  }
  return reinterpret_cast<FileHandle>(file);
}

uint64_t read_at(FileHandle file, const std::string &path, uint64_t offset, void *dst, uint64_t bytes) {
  OVERLAPPED at = {};
  at.Offset = static_cast<DWORD>(offset);
  at.OffsetHigh = static_cast<DWORD>(offset >> 32);
  DWORD got = 0;
  if (!ReadFile(native(file), dst, portion(bytes), &got, &at) && GetLastError() != ERROR_HANDLE_EOF)
    fail_last(path, "read");
  return got;
}

FileHandle create_new(const std::string &path, const std::string &target) {
  const HANDLE file =
      CreateFileW(wide(path).c_str(), GENERIC_WRITE, 0, nullptr, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file != INVALID_HANDLE_VALUE) return reinterpret_cast<FileHandle>(file);
  if (GetLastError() != ERROR_FILE_EXISTS && GetLastError() != ERROR_ALREADY_EXISTS)
    fail_last(target, "cannot be written");
  return kNoFile;
}

void write(FileHandle file, const std::string &path, const void *data, uint64_t bytes) {
  const auto *from = static_cast<const char *>(data);
  while (bytes != 0) {
    DWORD put = 0;
    if (!WriteFile(native(file), from, portion(bytes), &put, nullptr)) fail_last(path, "write");
    from += put;
    bytes -= put;
  }
}

void sync(FileHandle file, const std::string &path) {
  if (!FlushFileBuffers(native(file))) fail_last(path, "FlushFileBuffers");
}

void close(FileHandle &file, const std::string &path) {
  const BOOL closed = CloseHandle(native(file));
  file = kNoFile;
  if (!closed) fail_last(path, "close");
}

void close(FileHandle file) noexcept { CloseHandle(native(file)); }

void replace(const std::string &from, const std::string &to) {
  if (!MoveFileExW(wide(from).c_str(), wide(to).c_str(), MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
    fail_last(to, "rename");
}

void remove(const std::string &path) noexcept {
  try {
    DeleteFileW(wide(path).c_str());
  } catch (...) {  // no memory for the name, or none that this system takes: nothing to remove
  }
}

bool exists(const std::string &path) {
  if (GetFileAttributesW(wide(path).c_str()) != INVALID_FILE_ATTRIBUTES) return true;
  const DWORD error = GetLastError();
  if (error != ERROR_FILE_NOT_FOUND && error != ERROR_PATH_NOT_FOUND) fail_last(path, "its attributes");
  return false;
}

uint64_t process_id() noexcept { return GetCurrentProcessId(); }

uint64_t memory_bytes() noexcept {
  MEMORYSTATUSEX status = {};
  status.dwLength = sizeof status;
  return GlobalMemoryStatusEx(&status) ? status.ullTotalPhys : 0;
}

int usable_cores() noexcept {
  // Processors of other groups (machines with over 64) take part only if the process asks for them.
  DWORD_PTR process = 0, machine = 0;
  if (!GetProcessAffinityMask(GetCurrentProcess(), &process, &machine)) return 1;
  return std::max(1, std::popcount(static_cast<uint64_t>(process)));
}

std::string cpu_name() {
  std::string name;
#if defined(__x86_64__)
  unsigned r[4] = {};
  for (unsigned leaf = 0x80000002u; leaf <= 0x80000004u; leaf++)
    if (__get_cpuid(leaf, &r[0], &r[1], &r[2], &r[3])) name.append(reinterpret_cast<const char *>(r), sizeof r);
  name.resize(std::min(name.find('\0'), name.size()));
#endif
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return name.empty() ? "CPU" : name;
}

}  // namespace seer::os
