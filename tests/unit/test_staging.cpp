// Host tensors on a device whose memory is not the host's: a fake one, the CPU's reference kernels behind a table that
// refuses every address that did not come from its own allocations.
#include "staging.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "validate.h"

using namespace seer;

namespace {

std::map<uintptr_t, uint64_t> owned;  // what the fake device allocated
int64_t foreign = 0;                  // addresses that stages were given and that are not in it
int64_t fail_stage = 0;               // attend throws

const BackendFns &real() { return cpu_backend(); }

void see(const void *address) {
  if (!address) return;
  const auto at = reinterpret_cast<uintptr_t>(address);
  const auto after = owned.upper_bound(at);
  foreign += after == owned.begin() || at >= std::prev(after)->first + std::prev(after)->second;
}

Memory fake_alloc(Device &device, uint64_t bytes) {
  const Memory memory = real().alloc(device, bytes);
  std::memset(memory.address, 0xee, bytes);
  owned[reinterpret_cast<uintptr_t>(memory.address)] = bytes;
  return memory;
}
void fake_free(Device &device, Memory memory) noexcept {
  owned.erase(reinterpret_cast<uintptr_t>(memory.address));
  real().free(device, memory);
}
void fake_pool(Device &d, Exec &e, const PoolArgs &a) {
  for (const void *p : {static_cast<const void *>(a.x.data), static_cast<const void *>(a.pooled)}) see(p);
  see(a.rotated.data);
  real().pool(d, e, a);
}
void fake_score(Device &d, Exec &e, const ScoreArgs &a) {
  see(a.scores.data);
  real().score(d, e, a);
}
void fake_select(Device &d, Exec &e, const SelectArgs &a) {
  for (const void *p : {static_cast<const void *>(a.scores.data), static_cast<const void *>(a.mask.words)}) see(p);
  real().select(d, e, a);
}
void fake_attend(Device &d, Exec &e, const AttendArgs &a) {
  for (const void *p : {a.q.data, a.k.data, a.v.data, a.out.data, static_cast<void *>(a.lse.data)}) see(p);
  see(a.mask.words);
  if (fail_stage) fail(Status::internal, "as asked");
  real().attend(d, e, a);
}
template <bool ToBytes>
void fake_convert(Device &, Exec &, const MaskBytesArgs &a) {
  see(a.bits.words);
  see(a.bytes.bytes);
  for (const Sequence &s : a.sequences)
    for (int64_t h = 0; h < a.q_heads; h++)
      for (int64_t r = 0; r < s.q_blocks(a.block); r++) {
        uint32_t *bits = a.bits.row(s.batch, h, s.mask_row + r);
        uint8_t *bytes = a.bytes.bytes + s.batch * a.bytes.stride_batch + h * a.bytes.stride_head +
                         (s.mask_row + r) * a.bytes.stride_row;
        if (!ToBytes) std::fill_n(bits, a.row_words, 0u);
        for (int64_t j = 0; j < a.bytes.cols; j++) {
          if (ToBytes)
            bytes[j] = mask_test(bits, j);
          else if (bytes[j])
            mask_set(bits, j);
        }
      }
}

std::unique_ptr<Device> fake_device() {
  static BackendFns fns = [] {
    BackendFns f = real();
    f.name = "fake";
    f.kind = BackendKind::cuda;
    f.alloc = fake_alloc;
    f.free = fake_free;
    f.pool = fake_pool;
    f.score = fake_score;
    f.select = fake_select;
    f.attend = fake_attend;
    f.pack_mask = fake_convert<false>;
    f.unpack_mask = fake_convert<true>;
    return f;
  }();
  DeviceParams params;
  params.reference = true;
  auto device = create_device(BackendKind::cpu, params);
  device->fns = &fns;
  device->info.backend = BackendKind::cuda;
  return device;
}

// Host memory around a tensor, all of whose other bytes stay as they are.
struct HostMemory {
  std::vector<unsigned char> bytes;
  Tensor tensor;

  // Elements are `gap` apart from row to row; swapped puts axis 2 before axis 1 in memory.
  HostMemory(DType dtype, std::vector<int64_t> shape, int64_t gap, bool swapped) {
    tensor.mem = Mem::host;
    tensor.dtype = dtype;
    tensor.ndim = int(shape.size());
    std::vector<size_t> order(shape.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    if (swapped && shape.size() == 4) std::swap(order[1], order[2]);
    int64_t step = 1;
    for (size_t i = order.size(); i-- > 0;) {
      tensor.shape[order[i]] = shape[order[i]];
      tensor.stride[order[i]] = step;
      step = step * shape[order[i]] + gap;
    }
    const auto size = size_t(element_size(dtype));
    bytes.assign(size_t(step) * size + 64, 0xab);
    tensor.data = bytes.data() + 32;
    tensor.size = bytes.size() - 32;
  }
  template <class F>
  void each(F f) {
    const Tensor &t = tensor;
    const auto at = [&](int d) { return d < t.ndim ? t.shape[d] : 1; };
    for (int64_t a = 0; a < at(0); a++)
      for (int64_t b = 0; b < at(1); b++)
        for (int64_t c = 0; c < at(2); c++)
          for (int64_t d = 0; d < at(3); d++)
            f(static_cast<unsigned char *>(t.data) +
              (a * t.stride[0] + b * t.stride[1] + c * t.stride[2] + d * t.stride[3]) * element_size(t.dtype));
  }
  void random(uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    each([&](unsigned char *p) {
      const float x = normal(rng);
      std::memcpy(p, &x, sizeof x);
    });
  }
  std::vector<unsigned char> elements() {
    std::vector<unsigned char> all;
    each([&](unsigned char *p) { all.insert(all.end(), p, p + element_size(tensor.dtype)); });
    return all;
  }
  bool gaps_intact() {
    std::vector<unsigned char> copy = bytes;
    each([&](unsigned char *p) {
      std::memset(copy.data() + (p - bytes.data()), 0xab, size_t(element_size(tensor.dtype)));
    });
    return std::all_of(copy.begin(), copy.end(), [](unsigned char b) { return b == 0xab; });
  }
};

constexpr int64_t kTokens = 130, kHeads = 4, kKvHeads = 2, kDim = 32, kBlocks = 5;

struct Model {
  GateConfig config;
  LayerGate layer;
  std::vector<float> wk;
  Model() : wk(size_t(kHeads * 3 * kDim * kDim)) {
    config.layers = 1;
    config.q_heads = kHeads;
    config.kv_heads = kKvHeads;
    config.head_dim = config.gate_dim = kDim;
    config.block_size = 32;
    config.select.threshold = 0.2;
    std::mt19937 rng(5);
    std::normal_distribution<float> normal(0.0f, 0.2f);
    for (float &w : wk) w = normal(rng);
    layer.wk = {.dtype = DType::f32, .heads = kHeads, .in = 3 * kDim, .out = kDim, .data = wk.data()};
  }
};

struct Inputs {
  HostMemory q, k, v, out, lse, scores, mask;
  Inputs(int64_t gap, bool swapped, DType mask_type)
      : q(DType::f32, {2, kTokens, kHeads, kDim}, gap, swapped),
        k(DType::f32, {2, kTokens, kKvHeads, kDim}, gap, swapped),
        v(DType::f32, {2, kTokens, kKvHeads, kDim}, gap, swapped),
        out(DType::f32, {2, kTokens, kHeads, kDim}, gap, swapped),
        lse(DType::f32, {2, kHeads, kTokens}, gap, false),
        scores(DType::f32, {2, kHeads, kBlocks, kBlocks}, gap, false),
        mask(mask_type, {2, kHeads, kBlocks, mask_type == DType::u8 ? kBlocks : 1}, gap, false) {
    q.random(1);
    k.random(2);
    v.random(3);
  }
  PrefillDesc desc() const {
    PrefillDesc d;
    d.q = q.tensor;
    d.k = k.tensor;
    d.v = v.tensor;
    d.out = out.tensor;
    d.lse = lse.tensor;
    d.scores = scores.tensor;
    d.mask = mask.tensor;
    return d;
  }
  bool gaps_intact() {
    for (HostMemory *m : {&q, &k, &v, &out, &lse, &scores, &mask})
      if (!m->gaps_intact()) return false;
    return true;
  }
};

void prefill(Device &device, const Model &model, const Inputs &p) {
  PrefillCall call = check_prefill(device, model.config, p.desc(), false);
  call.gate.weights = &model.layer;
  Pipeline pipeline(device);
  Exec exec;
  CallStats stats;
  Staging staging(device, exec, call.gate.host);
  staging.place(call.gate);
  staging.place(call.attend);
  pipeline.prefill(exec, call.gate, call.attend, stats);
  staging.finish();
}

}  // namespace

TEST_CASE("staging: a prefill of host tensors gives the same bits as on the host, whatever their strides") {
  const Model model;
  DeviceParams params;
  params.reference = true;
  const auto host = create_device(BackendKind::cpu, params), fake = fake_device();
  for (DType mask : {DType::b32, DType::u8})
    for (const auto &layout : {std::pair<int64_t, bool>{0, false}, {3, false}, {0, true}, {5, true}}) {
      const int64_t gap = layout.first;
      const bool swapped = layout.second;
      CAPTURE(gap);
      CAPTURE(swapped);
      Inputs expected(gap, swapped, mask), got(gap, swapped, mask);
      prefill(*host, model, expected);
      foreign = 0;
      prefill(*fake, model, got);
      CHECK(foreign == 0);
      CHECK(owned.empty());
      CHECK(got.out.elements() == expected.out.elements());
      CHECK(got.lse.elements() == expected.lse.elements());
      CHECK(got.scores.elements() == expected.scores.elements());
      CHECK(got.mask.elements() == expected.mask.elements());
      CHECK(got.q.bytes == expected.q.bytes);
      CHECK(got.gaps_intact());
    }
}

TEST_CASE("staging: attention with a mask, and selection from scores") {
  const auto fake = fake_device();
  DeviceParams params;
  params.reference = true;
  const auto host = create_device(BackendKind::cpu, params);
  Inputs a(1, true, DType::u8), b(1, true, DType::u8);
  for (Inputs *p : {&a, &b}) {
    p->scores.random(9);
    Device &device = p == &a ? *host : *fake;
    Pipeline pipeline(device);
    Exec exec;
    CallStats stats;
    SelectDesc select;
    select.scores = p->scores.tensor;
    select.mask = p->mask.tensor;
    select.block_size = 32;
    select.q_len = select.k_len = kTokens;
    select.select = {.method = int32_t(SelectMethod::ratio), .last_dense_rows = -1, .ratio = 0.4};
    SelectCall call = check_select(device, select);
    {
      Staging staging(device, exec, call.host);
      staging.place(call);
      pipeline.select(exec, call, stats);
      staging.finish();
    }
    AttentionDesc attention;
    attention.q = p->q.tensor;
    attention.k = p->k.tensor;
    attention.v = p->v.tensor;
    attention.out = p->out.tensor;
    attention.lse = p->lse.tensor;
    attention.mask = p->mask.tensor;
    attention.block_size = 32;
    AttendCall attend = check_attention(device, attention);
    Staging staging(device, exec, attend.host);
    staging.place(attend);
    foreign = 0;
    pipeline.attend(exec, attend, stats);
    staging.finish();
    CHECK(p->gaps_intact());
  }
  CHECK(foreign == 0);
  CHECK(owned.empty());
  CHECK(b.mask.elements() == a.mask.elements());
  CHECK(b.out.elements() == a.out.elements());
  CHECK(b.lse.elements() == a.lse.elements());
}

TEST_CASE("staging: a call that fails frees its copies and leaves outputs alone") {
  const Model model;
  const auto fake = fake_device();
  Inputs p(0, false, DType::b32);
  fail_stage = 1;
  CHECK_THROWS_WITH_AS(prefill(*fake, model, p), "as asked", Error);
  fail_stage = 0;
  CHECK(owned.empty());
  CHECK(std::all_of(p.out.bytes.begin(), p.out.bytes.end(), [](unsigned char b) { return b == 0xab; }));
}

TEST_CASE("staging: what is on the device already is not copied") {
  const Model model;
  const auto fake = fake_device();
  Inputs p(0, false, DType::b32);
  PrefillDesc d = p.desc();
  const Memory q = fake->fns->alloc(*fake, uint64_t(d.q.extent_bytes()));
  d.q.mem = Mem::cuda;
  d.q.data = q.address;
  const PrefillCall call = check_prefill(*fake, model.config, d, false);
  CHECK(call.gate.host.size() == 6);
  for (const HostTensor &h : call.gate.host) CHECK(h.role != TensorRole::q);
  fake->fns->free(*fake, q);
}
