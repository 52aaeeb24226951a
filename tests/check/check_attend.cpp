#include "check.h"

#include <optional>

namespace seer::test {
namespace {

enum class Blocks { dense, half, diagonal, none, sparse };
constexpr const char *blocks_names[] = {"dense", "half", "diagonal", "none", "sparse"};

struct Case {
  DType dtype;
  int64_t dim, block, kv_heads, group;
  Fill kind;
  Blocks blocks;
  bool poison, rotate;
  Layout layout;
};

void choose_blocks(Image &mask, const Batch &batch, Blocks blocks, Random &random) {
  const auto &shape = mask.shape();
  std::bernoulli_distribution half(0.5), sparse(0.1);
  for (const Sequence &s : batch.sequences)
    for (int64_t h = 0; h < shape[1]; ++h)
      for (int64_t r = 0; r < s.q_blocks(batch.block); ++r) {
        const int64_t causal = causal_blocks(r, s.q_len, s.offset(), batch.block);
        for (int64_t w = 0; w < shape[3]; ++w) mask.at<uint32_t>(s.batch, h, s.mask_row + r, w) = 0;
        uint32_t *row = mask.mask().row(s.batch, h, s.mask_row + r);
        for (int64_t j = 0; j < shape[3] * 32; ++j) {
          bool keep = false;
          if (blocks == Blocks::half) keep = half(random);  // above the triangle too, where bits have no meaning
          if (blocks == Blocks::diagonal) keep = j == causal - 1;
          if (blocks == Blocks::sparse) keep = j < causal && (j == causal - 1 || sparse(random));
          if (keep) mask_set(row, j);
        }
      }
}

std::vector<double> tokens_of(Image &image, const Batch &batch) {
  std::vector<double> out;
  for (const Sequence &s : batch.sequences)
    for (int64_t t = 0; t < s.q_len; ++t)
      for (int64_t h = 0; h < image.shape()[2]; ++h)
        for (int64_t d = 0; d < image.shape()[3]; ++d) out.push_back(image.get(s.batch, s.q_begin + t, h, d));
  return out;
}

// Head by head, so that a head of small values is not judged by the errors of a large one.
std::vector<double> head_of(const std::vector<double> &values, int64_t heads, int64_t head, int64_t dim) {
  std::vector<double> out;
  for (size_t i = 0; i < values.size(); ++i)
    if (int64_t(i) / dim % heads == head) out.push_back(values[i]);
  return out;
}

void check(Checker &c, const Case &p, const Shape &shape) {
  Random random = c.random();
  const Batch batch = make_batch(shape.lengths, p.block, shape.packed);
  const int64_t q_heads = p.kv_heads * p.group;
  Image q(p.dtype, {batch.batch, batch.q_tokens, q_heads, p.dim}, p.layout);
  Image k(p.dtype, {batch.batch, batch.k_tokens, p.kv_heads, p.dim}, p.layout), v = k;
  Image out = q, lse(DType::f32, {batch.batch, q_heads, batch.q_tokens, 1}, p.layout);
  Image mask(DType::b32, {batch.batch, q_heads, batch.mask_rows, mask_words(batch.max_k_blocks)}, p.layout);
  fill(q, p.kind, random);
  fill(k, p.kind, random);
  fill(v, p.kind == Fill::large ? Fill::normal : p.kind, random);
  choose_blocks(mask, batch, p.blocks, random);
  if (p.poison) {
    const auto poison = [&](Image &x, float value) {
      x.set(uniform(random, 0, batch.batch - 1),
            uniform(random, 1, std::max<int64_t>(1, batch.k_tokens - 1)) % batch.k_tokens,
            uniform(random, 0, p.kv_heads - 1), uniform(random, 0, p.dim - 1), value);
    };
    poison(k, HUGE_VALF);
    poison(k, std::nanf(""));
    poison(v, -HUGE_VALF);
    poison(v, std::nanf(""));
  }
  const RopeOwner rope(p.dim, batch.k_tokens + 1, 1);

  AttendArgs args{.sequences = batch.sequences, .block = p.block, .q = q.tokens(), .k = k.tokens(), .v = v.tokens()};
  args.scale = 1 / std::sqrt(double(p.dim));
  if (p.blocks != Blocks::dense) args.mask = mask.mask();
  struct Expected {
    naive::Attended truth, single;
  };
  std::optional<Expected> expected[2][2];  // without and with RoPE of q, of k
  const auto expect = [&](bool rotate_q, bool rotate_k) -> const Expected & {
    args.q_rope = rotate_q ? rope.view() : RopeView{};
    args.k_rope = rotate_k ? rope.view() : RopeView{};
    std::optional<Expected> &found = expected[rotate_q][rotate_k];
    if (!found)
      found = {naive::attend<double>(args, DType::none),
               naive::attend<float>(args, p.dtype == DType::f32 ? DType::none : p.dtype)};
    return *found;
  };
  // f32 logits of the size of 64 are only good to some 1e-5, and weights are as good as their logits.
  const double slack = p.kind == Fill::large ? 1e-4 : 2e-6;

  c.each_target([&](Target &target) {
    // What a backend's attend does not rotate comes without RoPE.
    const DeviceLimits &limits = target.device->limits;
    const auto &[truth, single] = expect(p.rotate && limits.attend_rotates_q, p.rotate && limits.attend_rotates_k);
    Image got = out, got_lse = lse;
    DeviceCopy on_q(target, q), on_k(target, k), on_v(target, v), on_mask(target, mask);
    DeviceCopy on_out(target, got), on_lse(target, got_lse);
    AttendArgs call = args;
    call.q = q.tokens(on_q.address(), on_q.handle());
    call.k = k.tokens(on_k.address(), on_k.handle());
    call.v = v.tokens(on_v.address(), on_v.handle());
    call.out = got.tokens(on_out.address(), on_out.handle());
    call.lse = got_lse.floats(on_lse.address(), on_lse.handle());
    if (p.blocks != Blocks::dense) call.mask = mask.mask(on_mask.address(), on_mask.handle());
    const auto wanted = target.fns().attend_scratch;
    const uint64_t scratch_bytes = wanted ? wanted(*target.device, call) : 0;
    constexpr size_t guard = 64;
    std::vector<std::byte> scratch(scratch_bytes + guard, std::byte{0xa5});
    DeviceCopy on_scratch(target, scratch);
    call.scratch = on_scratch.address();
    c.run([&](Exec &exec) { target.fns().attend(*target.device, exec, call); });
    on_out.read(got);
    on_lse.read(got_lse);

    const std::vector<double> values = tokens_of(got, batch);
    std::vector<double> lses;
    for (const Sequence &s : batch.sequences)
      for (int64_t t = 0; t < s.q_len; ++t)
        for (int64_t h = 0; h < q_heads; ++h) lses.push_back(got_lse.get(s.batch, h, s.q_begin + t, 0));
    for (int64_t h = 0; h < q_heads; ++h) {
      char what[32];
      std::snprintf(what, sizeof what, "out of head %d", int(h));
      c.expect_close(head_of(truth.out, q_heads, h, p.dim), head_of(single.out, q_heads, h, p.dim),
                     head_of(values, q_heads, h, p.dim), slack, what);
    }
    // A logarithm of something near 1 is as good as that something.
    c.expect_close(truth.lse, single.lse, lses, 2e-6, "lse", 2e-6);
    c.expect(got.gaps_intact() && got_lse.gaps_intact(), "wrote outside its output");
    on_scratch.read(scratch);
    c.expect(std::all_of(scratch.end() - guard, scratch.end(), [](std::byte b) { return b == std::byte{0xa5}; }),
             "wrote beyond its scratch");

    Image alone = out;
    DeviceCopy on_alone(target, alone);
    call.out = alone.tokens(on_alone.address(), on_alone.handle());
    call.lse = {};
    Exec exec;
    target.fns().attend(*target.device, exec, call);
    on_alone.read(alone);
    c.expect(alone.bytes() == got.bytes(), "out differs where no lse is asked for, or from run to run");
  });
}

}  // namespace

void check_attend(Checker &c) {
  size_t n = 0;
  for (DType dtype : float_dtypes)
    for (int64_t dim : {64, 80, 128, 256})
      for (int64_t block : {32, 64, 128})
        for (const Shape &shape : shapes(block, false)) {
          const int64_t group = 1 + int64_t(n % 8);
          // Not with large logits: whether a weight times Inf is Inf or NaN then depends on where weights underflow.
          const bool poison = n % 7 == 4 && static_cast<Fill>(n / 2 % 4) != Fill::large;
          const Case p{dtype,
                       dim,
                       block,
                       group > 3 ? 1 : 2,
                       group,
                       static_cast<Fill>(n / 2 % 4),
                       static_cast<Blocks>(n % 5),
                       poison,
                       n % 3 != 1,
                       layouts[n / 5 % 3]};
          ++n;
          char name[128];
          std::snprintf(name, sizeof name, "attend_%s_d%d_p%d_g%d_%s_%s_%s%s%s", dtype_name(dtype), int(dim),
                        int(block), int(group), shape.name, blocks_names[int(p.blocks)], fill_names[int(p.kind)],
                        p.rotate ? "" : "_norope", p.poison ? "_poison" : "");
          if (c.begin("attend", name)) check(c, p, shape);
        }
  // As wide as a kernel that is made for it, where the cases above only have it padded.
  for (DType dtype : float_dtypes)
    for (const Shape &shape : shapes(64, false)) {
      char name[128];
      std::snprintf(name, sizeof name, "attend_%s_d96_p64_g3_%s_half", dtype_name(dtype), shape.name);
      if (c.begin("attend", name))
        check(c, {dtype, 96, 64, 2, 3, Fill::normal, Blocks::half, false, true, Layout::swapped}, shape);
    }
  // A few queries against many keys, which some backends share out.
  for (DType dtype : float_dtypes)
    for (int64_t dim : {64, 128})
      for (Blocks blocks : {Blocks::dense, Blocks::half}) {
        char name[128];
        std::snprintf(name, sizeof name, "attend_%s_d%d_p64_g2_keys_%s", dtype_name(dtype), int(dim),
                      blocks_names[int(blocks)]);
        if (c.begin("attend", name))
          check(c, {dtype, dim, 64, 1, 2, Fill::normal, blocks, false, true, Layout::swapped},
                {"keys", false, {{70, 4200}}});
      }
  // What a model has, long enough to be timed.
  const int64_t length = c.bench() ? 2048 : 512;
  for (DType dtype : float_dtypes)
    for (Blocks blocks : {Blocks::dense, Blocks::half, Blocks::sparse}) {
      const std::string name =
          std::string("attend_") + dtype_name(dtype) + "_d128_p64_g4_long_" + blocks_names[int(blocks)];
      if (c.begin("attend", name))
        check(c, {dtype, 128, 64, 1, 4, Fill::normal, blocks, false, true, Layout::packed},
              {"long", false, {{length, length}}});
    }
}

}  // namespace seer::test
