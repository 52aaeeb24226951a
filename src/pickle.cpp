#include "pickle.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "file.h"
#include "status.h"

namespace seer {

namespace {

// Opcodes, named as in Python's pickletools.
enum Op : uint8_t {
  op_mark = '(',
  op_stop = '.',
  op_binint = 'J',
  op_binint1 = 'K',
  op_binint2 = 'M',
  op_none = 'N',
  op_binpersid = 'Q',
  op_reduce = 'R',
  op_binunicode = 'X',
  op_append = 'a',
  op_build = 'b',
  op_global = 'c',
  op_appends = 'e',
  op_binget = 'h',
  op_long_binget = 'j',
  op_binput = 'q',
  op_long_binput = 'r',
  op_setitem = 's',
  op_tuple = 't',
  op_setitems = 'u',
  op_binfloat = 'G',
  op_empty_list = ']',
  op_empty_dict = '}',
  op_empty_tuple = ')',
  op_proto = 0x80,
  op_tuple1 = 0x85,
  op_tuple2 = 0x86,
  op_tuple3 = 0x87,
  op_newtrue = 0x88,
  op_newfalse = 0x89,
  op_long1 = 0x8a,
  op_short_binunicode = 0x8c,
  op_stack_global = 0x93,
  op_memoize = 0x94,
  op_frame = 0x95,
};

enum class Global : uint32_t { rebuild_tensor, rebuild_parameter, ordered_dict, storage };

struct StorageType {
  const char *name;
  DType dtype;
  int64_t bytes;
};
// Of tensors that gates do not use only the size is needed.
constexpr StorageType storage_types[] = {
    {"FloatStorage", DType::f32, 4},   {"HalfStorage", DType::f16, 2},  {"BFloat16Storage", DType::bf16, 2},
    {"DoubleStorage", DType::none, 8}, {"LongStorage", DType::none, 8}, {"IntStorage", DType::none, 4},
    {"ShortStorage", DType::none, 2},  {"CharStorage", DType::none, 1}, {"ByteStorage", DType::none, 1},
    {"BoolStorage", DType::none, 1},
};

constexpr size_t max_global_name = 256;

enum class Kind : uint8_t { none, boolean, integer, real, string, tuple, list, dict, global, storage, tensor };

// 16 bytes. string: bytes [index, index + count) of the pickle; tuple: items [index, index + count); global: index is a
// Global and count a storage type; list, dict, storage, tensor: an index into their arena.
struct Value {
  Kind kind = Kind::none;
  uint32_t count = 0;
  union {
    int64_t integer;
    uint64_t index;
  };
  Value() : integer(0) {}
  Value(Kind k, uint64_t i, size_t n = 0) : kind(k), count(static_cast<uint32_t>(n)), index(i) {}
};

struct DictItem {
  std::string_view key;
  Value value;
};
struct Dict {
  std::vector<DictItem> items;
  bool ordered = false;  // an OrderedDict: may be the target of BUILD
};
struct Storage {
  uint32_t type;
  std::string_view key;
  int64_t elements;
};
struct TensorView {
  uint64_t storage;
  int64_t offset;
  Value shape, stride;
};

class Machine {
public:
  Machine(std::span<const std::byte> bytes, const std::string &where, const PickleLimits &limits)
      : text_(reinterpret_cast<const char *>(bytes.data()), bytes.size()), where_(where), limits_(limits) {}

  std::vector<PickleTensor> run();

private:
  [[noreturn]] void bad(const char *what) const {
    fail(Status::format, "%s: pickle: %s at byte %zu", where_.c_str(), what, op_at_);
  }
  [[noreturn]] void unsafe(const std::string &what) const {
    fail(Status::unsafe_file, "%s: refused: the pickle wants %s at byte %zu, a gate file holds only tensors",
         where_.c_str(), what.c_str(), op_at_);
  }

  std::string_view take(uint64_t n) {
    if (n > text_.size() - at_) bad("truncated");
    const auto part = text_.substr(at_, n);
    at_ += n;
    return part;
  }
  uint64_t take_int(size_t n) {  // little-endian, n <= 8
    uint64_t v = 0;
    const auto raw = take(n);
    for (size_t i = n; i-- > 0;) v = v << 8 | static_cast<unsigned char>(raw[i]);
    return v;
  }
  std::string_view take_line() {
    const size_t end = text_.substr(at_, max_global_name + 1).find('\n');
    if (end == std::string_view::npos) bad("a global's name that is truncated or longer than 256 bytes");
    const auto line = take(end);
    ++at_;
    return line;
  }

  void push(Value v) {
    if (stack_.size() + marks_.size() >= limits_.max_stack) bad("a stack that is too deep");
    stack_.push_back(v);
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Value &top() {
    if (stack_.size() <= floor()) bad("stack underflow");
    return stack_.back();
  }
  Value pop() {
    const Value v = top();
    stack_.pop_back();
    return v;
  }
  // The values above the last mark, which goes; they stay valid until the next push.
  std::span<const Value> pop_mark() {
    if (marks_.empty()) bad("no mark on the stack");
    const size_t begin = marks_.back();
    marks_.pop_back();
    popped_.assign(stack_.begin() + static_cast<ptrdiff_t>(begin), stack_.end());
    stack_.resize(begin);
    return popped_;
  }
  void count_object() {
    if (++objects_ > limits_.max_objects) bad("too many objects");
  }

  void push_string(std::string_view s) {
    push(Value(Kind::string, static_cast<uint64_t>(s.data() - text_.data()), s.size()));
  }
  std::string_view string(const Value &v) const { return text_.substr(v.index, v.count); }
  std::span<const Value> tuple(const Value &v) const { return {items_.data() + v.index, v.count}; }
  void push_integer(int64_t i) {
    Value v(Kind::integer, 0);
    v.integer = i;
    push(v);
  }
  void push_tuple(std::span<const Value> values) {
    const size_t begin = items_.size();
    items_.insert(items_.end(), values.begin(), values.end());
    push(Value(Kind::tuple, begin, values.size()));
  }
  void push_short_tuple(size_t n) {
    Value values[3];
    for (size_t i = n; i-- > 0;) values[i] = pop();
    push_tuple({values, n});
  }
  void push_dict(bool ordered) {
    count_object();
    dicts_.emplace_back().ordered = ordered;
    push(Value(Kind::dict, dicts_.size() - 1));
  }
  void append(std::span<const Value> values) {
    const Value target = top();
    if (target.kind != Kind::list) bad("append to something that is not a list");
    auto &list = lists_[target.index];
    list.insert(list.end(), values.begin(), values.end());
  }
  void set_items(std::span<const Value> values) {
    const Value target = top();
    if (target.kind != Kind::dict) bad("an item set on something that is not a dict");
    if (values.size() % 2 != 0) bad("a key without a value");
    auto &dict = dicts_[target.index];
    for (size_t i = 0; i < values.size(); i += 2) {
      if (values[i].kind != Kind::string) bad("a dict key that is not a string");
      dict.items.push_back({string(values[i]), values[i + 1]});
    }
  }
  void put(uint64_t slot) {
    if (slot >= limits_.max_memo) bad("a memo slot beyond the limit");
    if (slot >= memo_.size()) memo_.resize(slot + 1);
    if (!memo_[slot].used) ++memo_used_;
    memo_[slot] = {top(), true};
  }
  void get(uint64_t slot) {
    if (slot >= memo_.size() || !memo_[slot].used) bad("an empty memo slot is read");
    push(memo_[slot].value);
  }

  void global(std::string_view module, std::string_view name);
  void persistent_id();
  void reduce();
  void rebuild_tensor(std::span<const Value> args);
  void step(uint8_t op);
  std::vector<PickleTensor> result();
  std::vector<int64_t> extents(const Value &v) const;

  struct Slot {
    Value value;
    bool used = false;
  };
  const std::string_view text_;
  const std::string &where_;
  const PickleLimits &limits_;
  size_t at_ = 0, op_at_ = 0;
  uint64_t objects_ = 0, memo_used_ = 0;
  bool stopped_ = false;
  std::vector<Value> stack_, items_, popped_;
  std::vector<size_t> marks_;
  std::vector<Slot> memo_;
  std::vector<std::vector<Value>> lists_;
  std::vector<Dict> dicts_;
  std::vector<Storage> storages_;
  std::vector<TensorView> tensors_;
};

void Machine::global(std::string_view module, std::string_view name) {
  const auto is = [&](std::string_view m, std::string_view n) { return module == m && name == n; };
  if (is("torch._utils", "_rebuild_tensor_v2")) return push(Value(Kind::global, uint64_t(Global::rebuild_tensor)));
  if (is("torch._utils", "_rebuild_parameter")) return push(Value(Kind::global, uint64_t(Global::rebuild_parameter)));
  if (is("collections", "OrderedDict")) return push(Value(Kind::global, uint64_t(Global::ordered_dict)));
  for (size_t i = 0; i < std::size(storage_types); ++i)
    if (is("torch", storage_types[i].name)) return push(Value(Kind::global, uint64_t(Global::storage), i));
  unsafe(quote(std::string(module) + "." + std::string(name)));
}

// ('storage', type, key, device, number of elements)
void Machine::persistent_id() {
  const Value id = pop();
  const auto parts = id.kind == Kind::tuple ? tuple(id) : std::span<const Value>();
  if (parts.size() != 5 || parts[0].kind != Kind::string || string(parts[0]) != "storage" ||
      parts[1].kind != Kind::global || parts[1].index != uint64_t(Global::storage) || parts[2].kind != Kind::string ||
      parts[4].kind != Kind::integer || parts[4].integer < 0)
    bad("a persistent id that is not a storage");
  count_object();
  storages_.push_back({parts[1].count, string(parts[2]), parts[4].integer});
  push(Value(Kind::storage, storages_.size() - 1));
}

// (storage, offset, shape, stride, requires_grad, backward_hooks[, metadata])
void Machine::rebuild_tensor(std::span<const Value> args) {
  if (args.size() != 6 && args.size() != 7) unsafe("_rebuild_tensor_v2 with other arguments than torch.save writes");
  if (args[0].kind != Kind::storage) bad("a tensor without a storage");
  if (args[1].kind != Kind::integer || args[1].integer < 0) bad("a tensor with a bad storage offset");
  for (const Value &v : {args[2], args[3]}) {
    if (v.kind != Kind::tuple || v.count > limits_.max_dims) bad("a tensor with a bad shape or stride");
    for (const Value &extent : tuple(v))
      if (extent.kind != Kind::integer || extent.integer < 0) bad("a tensor with a bad shape or stride");
  }
  if (args[2].count != args[3].count) bad("a tensor whose shape and stride differ in length");
  count_object();
  tensors_.push_back({args[0].index, args[1].integer, args[2], args[3]});
  push(Value(Kind::tensor, tensors_.size() - 1));
}

void Machine::reduce() {
  const Value packed = pop(), callable = pop();
  if (callable.kind != Kind::global || packed.kind != Kind::tuple) unsafe("a call of something that is not a function");
  const auto args = tuple(packed);
  switch (Global(callable.index)) {
    case Global::rebuild_tensor: return rebuild_tensor(args);
    case Global::rebuild_parameter:  // (tensor, requires_grad, backward_hooks)
      if (args.size() != 3 || args[0].kind != Kind::tensor)
        unsafe("_rebuild_parameter with other arguments than torch.save writes");
      return push(args[0]);
    case Global::ordered_dict:
      if (!args.empty()) unsafe("OrderedDict with arguments");
      return push_dict(true);
    case Global::storage: break;
  }
  unsafe("a call of a storage type");
}

void Machine::step(uint8_t op) {
  switch (op) {
    case op_proto: bad("a second PROTO");
    case op_frame:
      if (take_int(8) > text_.size() - at_) bad("a frame that is truncated");
      return;
    case op_stop: stopped_ = true; return;
    case op_mark:
      if (stack_.size() + marks_.size() >= limits_.max_stack) bad("a stack that is too deep");
      marks_.push_back(stack_.size());
      return;

    case op_none: return push(Value());
    case op_newtrue: return push(Value(Kind::boolean, 1));
    case op_newfalse: return push(Value(Kind::boolean, 0));
    case op_binint1: return push_integer(static_cast<int64_t>(take_int(1)));
    case op_binint2: return push_integer(static_cast<int64_t>(take_int(2)));
    case op_binint: return push_integer(static_cast<int32_t>(take_int(4)));
    case op_long1: {
      const uint64_t n = take_int(1);
      if (n > 8) bad("an integer of more than 8 bytes");
      const uint64_t raw = take_int(n);
      const int shift = static_cast<int>(64 - 8 * n);
      return push_integer(n == 0 ? 0 : static_cast<int64_t>(raw << shift) >> shift);
    }
    case op_binfloat: take(8); return push(Value(Kind::real, 0));  // of no use to a tensor
    case op_binunicode: return push_string(take(take_int(4)));
    case op_short_binunicode: return push_string(take(take_int(1)));

    case op_empty_tuple: return push_tuple({});
    case op_tuple1: return push_short_tuple(1);
    case op_tuple2: return push_short_tuple(2);
    case op_tuple3: return push_short_tuple(3);
    case op_tuple: return push_tuple(pop_mark());
    case op_empty_list:
      count_object();
      lists_.emplace_back();
      return push(Value(Kind::list, lists_.size() - 1));
    case op_append: {
      const Value v = pop();
      return append({&v, 1});
    }
    case op_appends: return append(pop_mark());
    case op_empty_dict: return push_dict(false);
    case op_setitem: {
      Value item[2];
      item[1] = pop();
      item[0] = pop();
      return set_items(item);
    }
    case op_setitems: return set_items(pop_mark());

    case op_binput: return put(take_int(1));
    case op_long_binput: return put(take_int(4));
    case op_memoize: return put(memo_used_);
    case op_binget: return get(take_int(1));
    case op_long_binget: return get(take_int(4));

    case op_global: {
      const auto module = take_line();
      return global(module, take_line());
    }
    case op_stack_global: {
      const Value name = pop(), module = pop();
      if (name.kind != Kind::string || module.kind != Kind::string) bad("a global whose name is not a string");
      return global(string(module), string(name));
    }
    case op_binpersid: return persistent_id();
    case op_reduce: return reduce();
    case op_build: {  // OrderedDict with _metadata: the state is dropped
      pop();
      const Value target = top();
      if (target.kind != Kind::dict || !dicts_[target.index].ordered)
        unsafe("state set on something that is not an OrderedDict");
      return;
    }
    default: break;
  }
  char name[24];
  std::snprintf(name, sizeof name, "opcode 0x%02x", op);
  unsafe(name);
}

std::vector<int64_t> Machine::extents(const Value &v) const {
  std::vector<int64_t> out;
  for (const Value &extent : tuple(v)) out.push_back(extent.integer);
  return out;
}

std::vector<PickleTensor> Machine::result() {
  const Value root = pop();
  if (!stack_.empty() || !marks_.empty()) bad("values left on the stack");
  if (at_ != text_.size()) bad("bytes after STOP");
  if (root.kind != Kind::dict) bad("the document is not a dict");
  std::vector<std::string_view> keys;
  for (const Dict &dict : dicts_) {
    keys.clear();
    for (const auto &item : dict.items) keys.push_back(item.key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    SEER_REQUIRE(twice == keys.end(), Status::format, "%s: pickle: key %s appears twice in a dict", where_.c_str(),
                 quote(*twice).c_str());
  }
  std::vector<PickleTensor> out;
  for (const auto &[key, value] : dicts_[root.index].items) {
    if (value.kind != Kind::tensor) continue;
    const TensorView &view = tensors_[value.index];
    const Storage &storage = storages_[view.storage];
    const StorageType &type = storage_types[storage.type];
    out.push_back({std::string(key), std::string(storage.key), type.name, type.dtype, type.bytes, storage.elements,
                   view.offset, extents(view.shape), extents(view.stride)});
  }
  return out;
}

std::vector<PickleTensor> Machine::run() {
  SEER_REQUIRE(text_.size() <= limits_.max_bytes, Status::format, "%s: a pickle of %zu bytes, at most %llu are allowed",
               where_.c_str(), text_.size(), static_cast<unsigned long long>(limits_.max_bytes));
  if (take_int(1) != op_proto) bad("protocol 0 or 1, or not a pickle");
  const uint64_t protocol = take_int(1);
  if (protocol < 2 || protocol > 5) bad("an unknown protocol");
  for (uint64_t n = 0; !stopped_; ++n) {
    op_at_ = at_;
    if (n >= limits_.max_opcodes) bad("too many opcodes");
    step(static_cast<uint8_t>(take_int(1)));
  }
  return result();
}

}  // namespace

std::vector<PickleTensor> read_pickle(std::span<const std::byte> bytes, const std::string &where,
                                      const PickleLimits &limits) {
  return Machine(bytes, where, limits).run();
}

}  // namespace seer
