#include "pth.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "status.h"
#include "zip_reader.h"

namespace seer {

namespace {

constexpr uint64_t max_pickle = 64 << 20;
// Runs of at least this many bytes are read one by one; shorter ones are picked from the whole range of the view.
constexpr int64_t min_run_bytes = 16 << 10;

void refuse_old_format(const ByteSource &source) {
  // The magic number of torch.save before 1.6 as a pickle of protocol 2.
  constexpr unsigned char magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46};
  unsigned char head[sizeof magic];
  if (source.size() < sizeof head) return;
  source.read(0, head, sizeof head);
  SEER_REQUIRE(std::memcmp(head, magic, sizeof head) != 0, Status::format,
               "%s: written in torch's format before 1.6: re-save it with torch.save, or as .safetensors",
               source.name().c_str());
}

// The folder inside the zip: the file's stem, or "archive" for streams.
std::string find_prefix(const ZipReader &zip) {
  constexpr std::string_view suffix = "/data.pkl";
  const ZipEntry *found = nullptr;
  for (const auto &entry : zip.entries()) {
    if (!entry.name.ends_with(suffix)) continue;
    SEER_REQUIRE(!found, Status::format, "%s: both %s and %s are there, one data.pkl is expected", zip.name().c_str(),
                 quote(found->name).c_str(), quote(entry.name).c_str());
    found = &entry;
  }
  SEER_REQUIRE(found, Status::format, "%s: no data.pkl in it: not written by torch.save", zip.name().c_str());
  return found->name.substr(0, found->name.size() - suffix.size());
}

// Elements from the first to behind the last one that the view reaches; -1 if that overflows.
int64_t extent(const PickleTensor &view) {
  int64_t last = 0;
  for (size_t d = 0; d < view.shape.size(); ++d) {
    if (view.shape[d] == 0) return 0;
    int64_t step;
    if (__builtin_mul_overflow(view.shape[d] - 1, view.stride[d], &step) || __builtin_add_overflow(last, step, &last))
      return -1;
  }
  return last == INT64_MAX ? -1 : last + 1;
}

void check_view(const PickleTensor &view, const ZipReader &zip, const ZipEntry &storage) {
  const std::string name = quote(view.name);
  int64_t bytes;
  SEER_REQUIRE(!__builtin_mul_overflow(view.storage_elements, view.element_bytes, &bytes) &&
                   static_cast<uint64_t>(bytes) == storage.size,
               Status::format, "%s: the storage of %s is said to hold %lld elements of %lld bytes, it has %llu bytes",
               zip.name().c_str(), name.c_str(), static_cast<long long>(view.storage_elements),
               static_cast<long long>(view.element_bytes), static_cast<unsigned long long>(storage.size));
  const int64_t reach = extent(view);
  int64_t end, elements = 1;
  SEER_REQUIRE(reach >= 0 && !__builtin_add_overflow(view.offset, reach, &end) && end <= view.storage_elements,
               Status::format, "%s: %s reaches beyond its storage of %lld elements", zip.name().c_str(), name.c_str(),
               static_cast<long long>(view.storage_elements));
  bool overflow = false;
  for (const int64_t n : view.shape) overflow = overflow || __builtin_mul_overflow(elements, n, &elements);
  // An expanded tensor (stride 0) could ask for any amount of memory; no weight is one.
  SEER_REQUIRE(reach == 0 || (!overflow && elements <= view.storage_elements), Status::format,
               "%s: %s repeats elements of its storage of %lld elements", zip.name().c_str(), name.c_str(),
               static_cast<long long>(view.storage_elements));
}

}  // namespace

Pth Pth::open(const std::string &path, uint64_t max_bytes) { return Pth(std::make_shared<File>(path, max_bytes)); }

Pth::Pth(std::shared_ptr<const ByteSource> source) : source_(std::move(source)) {
  refuse_old_format(*source_);
  const ZipReader zip(source_);
  const std::string prefix = find_prefix(zip);
  if (const auto *order = zip.find(prefix + "/byteorder")) {
    const std::string found = zip.read_checked(*order, 64);
    SEER_REQUIRE(found == "little", Status::format, "%s: byte order %s, expected \"little\"", name().c_str(),
                 quote(found).c_str());
  }
  const std::string pickle = zip.read_checked(*zip.find(prefix + "/data.pkl"), max_pickle);
  for (PickleTensor &view : read_pickle(std::as_bytes(std::span(pickle)), name())) {
    const auto *storage = zip.find(prefix + "/data/" + view.storage);
    SEER_REQUIRE(storage, Status::format, "%s: the storage %s of %s is missing", name().c_str(),
                 quote(view.storage).c_str(), quote(view.name).c_str());
    check_view(view, zip, *storage);
    tensors_.push_back({std::move(view), storage->offset});
  }
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return tensors_[a].view.name < tensors_[b].view.name; });
}

const PthTensor *Pth::find(std::string_view wanted) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), wanted,
                                   [&](uint32_t i, std::string_view n) { return tensors_[i].view.name < n; });
  return it != by_name_.end() && tensors_[*it].view.name == wanted ? &tensors_[*it] : nullptr;
}

void Pth::read(const PthTensor &tensor, int64_t first, int64_t count, void *dst) const {
  PickleTensor part = tensor.view;
  SEER_REQUIRE(
      !part.shape.empty() && first >= 0 && count >= 0 && first <= part.shape[0] && count <= part.shape[0] - first,
      Status::out_of_bounds, "%s: indices %lld + %lld of %s wanted, it has %lld", name().c_str(),
      static_cast<long long>(first), static_cast<long long>(count), quote(part.name).c_str(),
      static_cast<long long>(part.shape.empty() ? 0 : part.shape[0]));
  part.shape[0] = count;
  if (extent(part) == 0) return;
  part.offset += first * part.stride[0];
  read_packed(part, tensor.begin, dst);
}

void Pth::read_packed(const PickleTensor &view, uint64_t begin, void *dst) const {
  const int64_t element = view.element_bytes;
  // Trailing dimensions that are packed form runs; `outer` are those before them.
  size_t outer = view.shape.size();
  int64_t run = 1, runs = 1;
  while (outer > 0 && (view.shape[outer - 1] == 1 || view.stride[outer - 1] == run)) run *= view.shape[--outer];
  for (size_t d = 0; d < outer; ++d) runs *= view.shape[d];

  const uint64_t start = begin + static_cast<uint64_t>(view.offset * element);
  const auto run_bytes = static_cast<size_t>(run * element);
  const bool direct = runs == 1 || run * element >= min_run_bytes;
  std::vector<char> range;
  if (!direct) {
    range.resize(static_cast<size_t>(extent(view) * element));
    source_->read(start, range.data(), range.size());
  }
  std::vector<int64_t> index(outer, 0);
  auto *to = static_cast<char *>(dst);
  for (int64_t i = 0; i < runs; ++i, to += run_bytes) {
    int64_t at = 0;
    for (size_t d = 0; d < outer; ++d) at += index[d] * view.stride[d];
    if (direct) {
      source_->read(start + static_cast<uint64_t>(at * element), to, run_bytes);
    } else {
      std::memcpy(to, range.data() + at * element, run_bytes);
    }
    for (size_t d = outer; d-- > 0 && ++index[d] == view.shape[d];) index[d] = 0;
  }
}

}  // namespace seer
