// What differs between operating systems: files, the process, the machine. os_posix.cpp and os_windows.cpp implement
// it.
//
// Paths are UTF-8. What fails throws Error(io) as "path: what: the system's reason", unless it says otherwise.
#pragma once
#include <cstdint>
#include <string>

namespace seer::os {

using FileHandle = intptr_t;
inline constexpr FileHandle kNoFile = -1;

// A regular file, for reading. Directories, FIFOs and devices are refused, and never waited for.
FileHandle open_read(const std::string &path, uint64_t &size);
// Reads up to `bytes` bytes from `offset` on and says how many; 0 is the end. Any thread, several at once.
uint64_t read_at(FileHandle file, const std::string &path, uint64_t offset, void *dst, uint64_t bytes);

// A new file, for writing; kNoFile if the path exists. `target` is the file that messages name.
FileHandle create_new(const std::string &path, const std::string &target);
void write(FileHandle file, const std::string &path, const void *data, uint64_t bytes);
void sync(FileHandle file, const std::string &path);  // to the disk
void close(FileHandle &file, const std::string &path);
void close(FileHandle file) noexcept;

// Renames over the target; the rename is durable when it returns, as far as the file system can make it so.
void replace(const std::string &from, const std::string &to);
void remove(const std::string &path) noexcept;
bool exists(const std::string &path);  // of any kind

uint64_t process_id() noexcept;
uint64_t memory_bytes() noexcept;  // of the machine
int usable_cores() noexcept;       // that this process may run on; at least 1
std::string cpu_name();            // its maker's name for it, or "CPU"

}  // namespace seer::os
