#include "zip_reader.h"

#include <minizip/unzip.h>
#include <zlib.h>

#include <algorithm>
#include <exception>

#include "status.h"

namespace seer {

namespace {

constexpr uint64_t max_entries = 100'000;
constexpr size_t max_name = 1024;
constexpr uint64_t local_header = 30;  // bytes before the name

// What minizip reads through. Exceptions may not cross its C code: they wait here.
struct Cursor {
  const ByteSource *source;
  uint64_t at = 0;
  std::exception_ptr error;
};

zlib_filefunc64_def callbacks(Cursor &cursor) {
  zlib_filefunc64_def f = {};
  f.opaque = &cursor;
  f.zopen64_file = [](voidpf opaque, const void *, int) -> voidpf { return opaque; };
  f.zread_file = [](voidpf, voidpf stream, void *buffer, uLong size) -> uLong {
    auto &c = *static_cast<Cursor *>(stream);
    const uint64_t rest = c.at < c.source->size() ? c.source->size() - c.at : 0;
    const uint64_t n = std::min<uint64_t>(size, rest);
    try {
      c.source->read(c.at, buffer, n);
    } catch (...) {
      c.error = std::current_exception();
      return 0;
    }
    c.at += n;
    return static_cast<uLong>(n);
  };
  f.ztell64_file = [](voidpf, voidpf stream) -> ZPOS64_T { return static_cast<Cursor *>(stream)->at; };
  f.zseek64_file = [](voidpf, voidpf stream, ZPOS64_T offset, int origin) -> long {
    auto &c = *static_cast<Cursor *>(stream);
    const uint64_t base = origin == ZLIB_FILEFUNC_SEEK_CUR   ? c.at
                          : origin == ZLIB_FILEFUNC_SEEK_END ? c.source->size()
                                                             : 0;
    if (offset > UINT64_MAX - base) return -1;
    c.at = base + offset;
    return 0;
  };
  f.zclose_file = [](voidpf, voidpf) -> int { return 0; };
  f.zerror_file = [](voidpf, voidpf stream) -> int { return static_cast<Cursor *>(stream)->error ? 1 : 0; };
  return f;
}

struct Closer {
  void operator()(void *zip) const { unzClose(zip); }
};

class Directory {
public:
  explicit Directory(const ByteSource &source) : cursor_{&source, 0, nullptr}, file_(source.name()) {
    auto f = callbacks(cursor_);
    zip_.reset(unzOpen2_64(file_.c_str(), &f));
    require(zip_ != nullptr, "not a zip file, or truncated");
  }

  std::vector<ZipEntry> read() {
    unz_global_info64 info = {};
    require(unzGetGlobalInfo64(zip_.get(), &info) == UNZ_OK, "bad zip directory");
    require(info.number_entry <= max_entries, "more than 100000 zip entries");
    std::vector<ZipEntry> entries;
    for (uint64_t i = 0; i < info.number_entry; ++i) {
      require((i == 0 ? unzGoToFirstFile(zip_.get()) : unzGoToNextFile(zip_.get())) == UNZ_OK, "bad zip directory");
      entries.push_back(entry());
    }
    return entries;
  }

private:
  void require(bool condition, const char *what) const {
    if (condition) return;
    if (cursor_.error) std::rethrow_exception(cursor_.error);
    fail(Status::format, "%s: %s", file_.c_str(), what);
  }

  ZipEntry entry() {
    char name[max_name + 1] = {};
    unz_file_info64 info = {};
    require(unzGetCurrentFileInfo64(zip_.get(), &info, name, sizeof name, nullptr, 0, nullptr, 0) == UNZ_OK,
            "bad zip directory");
    require(info.size_filename <= max_name && std::string_view(name).size() == info.size_filename,
            "a zip entry's name is too long or holds a NUL");
    require((info.flag & 1) == 0, "a zip entry is encrypted");
    require(info.compression_method == 0 && info.compressed_size == info.uncompressed_size,
            "a zip entry is compressed, torch.save stores them");
    // Finds where the bytes start: behind the local header, whose name and extra fields have lengths of their own.
    int method = 0, level = 0;
    require(unzOpenCurrentFile2(zip_.get(), &method, &level, 1) == UNZ_OK, "a zip entry's local header is bad");
    ZipEntry e{name, unzGetCurrentFileZStreamPos64(zip_.get()), info.uncompressed_size,
               static_cast<uint32_t>(info.crc)};
    unzCloseCurrentFile(zip_.get());
    const uint64_t size = cursor_.source->size();
    require(e.offset <= size && e.size <= size - e.offset, "a zip entry reaches beyond the end of the file");
    return e;
  }

  Cursor cursor_;
  const std::string &file_;
  std::unique_ptr<void, Closer> zip_;
};

}  // namespace

ZipReader::ZipReader(std::shared_ptr<const ByteSource> source) : source_(std::move(source)) {
  entries_ = Directory(*source_).read();
  std::sort(entries_.begin(), entries_.end(), [](auto &a, auto &b) { return a.offset < b.offset; });
  uint64_t end = 0;
  for (const auto &e : entries_) {
    SEER_REQUIRE(e.offset >= end && e.offset - end >= local_header + e.name.size(), Status::format,
                 "%s: zip entry %s overlaps another one", name().c_str(), quote(e.name).c_str());
    end = e.offset + e.size;
  }
  std::sort(entries_.begin(), entries_.end(), [](auto &a, auto &b) { return a.name < b.name; });
  const auto twice =
      std::adjacent_find(entries_.begin(), entries_.end(), [](auto &a, auto &b) { return a.name == b.name; });
  SEER_REQUIRE(twice == entries_.end(), Status::format, "%s: two zip entries are named %s", name().c_str(),
               quote(twice->name).c_str());
}

const ZipEntry *ZipReader::find(std::string_view wanted) const {
  const auto it = std::lower_bound(entries_.begin(), entries_.end(), wanted,
                                   [](const ZipEntry &e, std::string_view n) { return e.name < n; });
  return it != entries_.end() && it->name == wanted ? &*it : nullptr;
}

std::string ZipReader::read_checked(const ZipEntry &entry, uint64_t max_bytes) const {
  SEER_REQUIRE(entry.size <= max_bytes, Status::format, "%s: zip entry %s has %llu bytes, at most %llu are allowed",
               name().c_str(), quote(entry.name).c_str(), static_cast<unsigned long long>(entry.size),
               static_cast<unsigned long long>(max_bytes));
  std::string bytes(entry.size, '\0');
  source_->read(entry.offset, bytes.data(), bytes.size());
  const auto crc =
      static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef *>(bytes.data()), static_cast<uInt>(bytes.size())));
  SEER_REQUIRE(crc == entry.crc, Status::format, "%s: zip entry %s has CRC-32 %08x, expected %08x", name().c_str(),
               quote(entry.name).c_str(), crc, entry.crc);
  return bytes;
}

}  // namespace seer
