#include "safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "atomic_file.h"
#include "checked.h"
#include "json.h"
#include "status.h"

namespace seer {

namespace {

constexpr uint64_t max_header = 100'000'000;  // the format's own limit
constexpr size_t max_dims = 32;

struct DTypeEntry {
  const char *name;
  uint64_t bits;
  DType dtype;
};
// The first entry of a dtype is the name it is written with.
constexpr DTypeEntry dtypes[] = {
    {"F32", 32, DType::f32},     {"F16", 16, DType::f16},     {"BF16", 16, DType::bf16},   {"I32", 32, DType::i32},
    {"I64", 64, DType::i64},     {"U8", 8, DType::u8},        {"BOOL", 8, DType::u8},      {"I8", 8, DType::none},
    {"I16", 16, DType::none},    {"U16", 16, DType::none},    {"U32", 32, DType::none},    {"U64", 64, DType::none},
    {"F64", 64, DType::none},    {"C64", 64, DType::none},    {"F8_E5M2", 8, DType::none}, {"F8_E4M3", 8, DType::none},
    {"F8_E8M0", 8, DType::none}, {"F6_E2M3", 6, DType::none}, {"F6_E3M2", 6, DType::none}, {"F4", 4, DType::none},
};

uint64_t read_header_length(const ByteSource &source) {
  unsigned char raw[8];
  SEER_REQUIRE(source.size() >= 8, Status::format, "%s: %llu bytes, a safetensors file has at least 8",
               source.name().c_str(), static_cast<unsigned long long>(source.size()));
  source.read(0, raw, 8);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | raw[i];
  const uint64_t rest = source.size() - 8;
  SEER_REQUIRE(length <= std::min(max_header, rest), Status::format,
               "%s: a header of %llu bytes, at most %llu are possible", source.name().c_str(),
               static_cast<unsigned long long>(length), static_cast<unsigned long long>(std::min(max_header, rest)));
  return length;
}

// `data`: where the data begins; `data_bytes`: its size.
SafetensorsTensor parse_tensor(const JsonMember &member, const std::string &file, uint64_t data, uint64_t data_bytes) {
  const JsonObject entry(member.value, file, member.key);
  SafetensorsTensor t;
  t.name = member.key;
  t.dtype_name = entry.string("dtype");
  t.shape = entry.integers("shape", 0, INT64_MAX);
  const auto range = entry.integers("data_offsets", 0, INT64_MAX);
  const std::string name = quote(t.name);
  SEER_REQUIRE(t.shape.size() <= max_dims, Status::format, "%s: %s has %zu dimensions, at most %zu are expected",
               file.c_str(), name.c_str(), t.shape.size(), max_dims);
  SEER_REQUIRE(range.size() == 2 && range[0] <= range[1] && static_cast<uint64_t>(range[1]) <= data_bytes,
               Status::format, "%s: data_offsets of %s are not a range inside the %llu bytes of data", file.c_str(),
               name.c_str(), static_cast<unsigned long long>(data_bytes));
  t.begin = data + static_cast<uint64_t>(range[0]);
  t.end = data + static_cast<uint64_t>(range[1]);

  int64_t elements = 1;
  for (const int64_t extent : t.shape)
    SEER_REQUIRE(!__builtin_mul_overflow(elements, extent, &elements), Status::format,
                 "%s: the number of elements of %s overflows", file.c_str(), name.c_str());
  const auto *known =
      std::find_if(std::begin(dtypes), std::end(dtypes), [&](auto &d) { return t.dtype_name == d.name; });
  if (known == std::end(dtypes)) return t;  // newer than this code: its size is not ours to check
  t.dtype = known->dtype;
  uint64_t bits = 0;
  const bool overflow = __builtin_mul_overflow(static_cast<uint64_t>(elements), known->bits, &bits);
  SEER_REQUIRE(!overflow && bits % 8 == 0 && bits / 8 == t.bytes(), Status::format,
               "%s: data_offsets of %s hold %llu bytes, its shape and %s need %llu", file.c_str(), name.c_str(),
               static_cast<unsigned long long>(t.bytes()), known->name,
               static_cast<unsigned long long>(overflow ? UINT64_MAX : bits / 8));
  return t;
}

}  // namespace

int64_t SafetensorsTensor::elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

Safetensors Safetensors::open(const std::string &path, uint64_t max_bytes) {
  return Safetensors(std::make_shared<File>(path, max_bytes));
}

Safetensors Safetensors::from_memory(std::span<const std::byte> bytes, std::string name) {
  return Safetensors(std::make_shared<MemorySource>(bytes, std::move(name)));
}

Safetensors::Safetensors(std::shared_ptr<const ByteSource> source) : source_(std::move(source)) {
  const std::string &file = name();
  const uint64_t length = read_header_length(*source_);
  std::string header(length, '\0');
  source_->read(8, header.data(), length);
  SEER_REQUIRE(header.starts_with('{'), Status::format, "%s: the header does not start with '{'", file.c_str());
  const Json root = parse_json(header, file, {max_header, 64, 4 << 20});
  const uint64_t data = 8 + length, data_bytes = source_->size() - data;

  for (const JsonMember &member : JsonObject(root, file).members()) {
    if (member.key != "__metadata__") {
      tensors_.push_back(parse_tensor(member, file, data, data_bytes));
      continue;
    }
    const JsonObject metadata(member.value, file, member.key);
    for (const JsonMember &item : metadata.members()) metadata_.emplace_back(item.key, metadata.string(item.key));
  }

  std::stable_sort(tensors_.begin(), tensors_.end(), [](auto &a, auto &b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;  // empty tensors before the one they touch
  });
  uint64_t at = data;
  for (const auto &t : tensors_) {
    SEER_REQUIRE(t.begin == at, Status::format, "%s: the data of %s starts at byte %llu, %s %llu", file.c_str(),
                 quote(t.name).c_str(), static_cast<unsigned long long>(t.begin - data),
                 t.begin < at ? "overlapping what ends at" : "leaving a gap after",
                 static_cast<unsigned long long>(at - data));
    at = t.end;
  }
  SEER_REQUIRE(at == source_->size(), Status::format, "%s: %llu bytes follow the last tensor", file.c_str(),
               static_cast<unsigned long long>(source_->size() - at));

  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return tensors_[a].name < tensors_[b].name; });
}

const SafetensorsTensor *Safetensors::find(std::string_view name) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](uint32_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  return it != by_name_.end() && tensors_[*it].name == name ? &tensors_[*it] : nullptr;
}

const SafetensorsTensor &Safetensors::at(std::string_view wanted) const {
  const auto *tensor = find(wanted);
  SEER_REQUIRE(tensor, Status::format, "%s: no tensor %s", name().c_str(), quote(wanted).c_str());
  return *tensor;
}

void Safetensors::read(const SafetensorsTensor &tensor, void *dst) const { read(tensor, 0, dst, tensor.bytes()); }

void Safetensors::read(const SafetensorsTensor &tensor, uint64_t offset, void *dst, uint64_t bytes) const {
  SEER_REQUIRE(offset <= tensor.bytes() && bytes <= tensor.bytes() - offset, Status::out_of_bounds,
               "%s: bytes %llu + %llu of %s wanted, it has %llu", name().c_str(),
               static_cast<unsigned long long>(offset), static_cast<unsigned long long>(bytes),
               quote(tensor.name).c_str(), static_cast<unsigned long long>(tensor.bytes()));
  source_->read(tensor.begin + offset, dst, bytes);
}

void write_safetensors(AtomicFile &file, const std::vector<SafetensorsItem> &items,
                       const std::vector<std::pair<std::string, std::string>> &metadata) {
  // Widest elements first keeps every tensor aligned to its element, as the format's own writer does.
  std::vector<const SafetensorsItem *> order;
  std::set<std::string_view> names = {"__metadata__"};
  for (const auto &item : items) {
    SEER_REQUIRE(names.insert(item.name).second, Status::invalid_argument, "tensor name %s is taken",
                 quote(item.name).c_str());
    order.push_back(&item);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](auto *a, auto *b) { return element_size(a->dtype) > element_size(b->dtype); });

  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    auto &object = header["__metadata__"] = nlohmann::ordered_json::object();
    for (const auto &[key, value] : metadata) object[key] = value;
  }
  std::vector<uint64_t> sizes;
  int64_t at = 0;
  for (const auto *item : order) {
    const auto *type =
        std::find_if(std::begin(dtypes), std::end(dtypes), [&](auto &d) { return d.dtype == item->dtype; });
    SEER_REQUIRE(type != std::end(dtypes) && item->dtype != DType::none, Status::invalid_argument,
                 "tensor %s: dtype %s cannot be written", quote(item->name).c_str(), dtype_name(item->dtype));
    int64_t bytes = element_size(item->dtype);
    for (const int64_t extent : item->shape) {
      SEER_REQUIRE(extent >= 0, Status::invalid_argument, "tensor %s: extent %lld", quote(item->name).c_str(),
                   static_cast<long long>(extent));
      bytes = checked_mul(bytes, extent);
    }
    SEER_REQUIRE(item->data || bytes == 0, Status::invalid_argument, "tensor %s: no data", quote(item->name).c_str());
    const int64_t end = checked_add(at, bytes);
    header[item->name] = {{"dtype", type->name}, {"shape", item->shape}, {"data_offsets", {at, end}}};
    sizes.push_back(static_cast<uint64_t>(bytes));
    at = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception &) {
    fail(Status::invalid_argument, "a tensor's name or metadata is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts aligned
  SEER_REQUIRE(text.size() <= max_header, Status::invalid_argument, "a header of %zu bytes, at most %llu are possible",
               text.size(), static_cast<unsigned long long>(max_header));

  unsigned char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(uint64_t{text.size()} >> (8 * i));
  file.write(length, 8);
  file.write(text);
  for (size_t i = 0; i < order.size(); ++i) file.write(order[i]->data, sizes[i]);
}

void write_safetensors(const std::string &path, const std::vector<SafetensorsItem> &items,
                       const std::vector<std::pair<std::string, std::string>> &metadata) {
  AtomicFile file(path);
  write_safetensors(file, items, metadata);
  file.commit();
}

}  // namespace seer
