#include "check.h"

namespace seer::test {
namespace {

struct Case {
  DType dtype;
  int64_t dim, block, heads;
  uint32_t bits;
  Side side;
  Fill kind;
  bool poison;
  Layout layout;
};

std::vector<double> tokens_of(Image &image, const Batch &batch, Side side) {
  std::vector<double> out;
  for (const Sequence &s : batch.sequences)
    for (int64_t t = 0; t < (side == Side::q ? s.q_len : s.k_len); ++t)
      for (int64_t h = 0; h < image.shape()[2]; ++h)
        for (int64_t d = 0; d < image.shape()[3]; ++d)
          out.push_back(image.get(s.batch, (side == Side::q ? s.q_begin : s.k_begin) + t, h, d));
  return out;
}

void check(Checker &c, const Case &p, const Shape &shape) {
  Random random = c.random();
  std::vector<Lengths> lengths = shape.lengths;
  for (Lengths &l : lengths) l.cached = (l.k - l.q) / p.block;
  const Batch batch = make_batch(lengths, p.block, shape.packed);
  const bool q = p.side == Side::q;
  const int64_t tokens = q ? batch.q_tokens : batch.k_tokens, rows = q ? batch.q_rows : batch.k_pool_rows;
  Image x(p.dtype, {batch.batch, tokens, p.heads, p.dim}, p.layout);
  fill(x, p.kind, random);
  if (p.poison)
    for (float value : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
      x.set(uniform(random, 0, batch.batch - 1), uniform(random, 0, tokens - 1), uniform(random, 0, p.heads - 1),
            uniform(random, 0, p.dim - 1), value);
  Image pooled(DType::f32, {1, rows, p.heads, pool_count(p.bits) * p.dim});
  Image rotated(p.dtype, {batch.batch, tokens, p.heads, p.dim}, p.layout);
  const RopeOwner rope(p.dim, batch.k_tokens + 1, 1);

  PoolArgs args{.sequences = batch.sequences, .side = p.side, .block = p.block, .x = x.tokens()};
  args.pool_bits = p.bits;
  args.rotated = rotated.tokens();
  args.rope = rope.view();
  const auto truth = naive::pool<double>(args), single = naive::pool<float>(args);
  PoolArgs unrounded = args;
  unrounded.rotated.dtype = DType::none;
  const auto rotated_truth = naive::rotated<double>(unrounded), rotated_single = naive::rotated<float>(args);

  c.each_target([&](Target &target) {
    // With and without a rotated copy; timed is the one that a pipeline on this target asks for.
    for (bool rotate : {false, true}) {
      Image got = pooled, got_rotated = rotated;
      DeviceCopy on_x(target, x), on_pooled(target, got), on_rotated(target, got_rotated);
      PoolArgs call = args;
      call.x = x.tokens(on_x.address(), on_x.handle());
      call.pooled = got.flat(on_pooled.address());
      call.rotated = rotate ? rotated.tokens(on_rotated.address(), on_rotated.handle()) : TokenView{};
      const auto stage = [&](Exec &exec) { target.fns().pool(*target.device, exec, call); };
      Exec exec;
      const DeviceLimits &limits = target.device->limits;
      if (rotate == (p.side == Side::q ? limits.attend_rotates_q : limits.attend_rotates_k))
        stage(exec);
      else
        c.run(stage);
      on_pooled.read(got);
      on_rotated.read(got_rotated);
      const float *first = got.flat();
      c.expect_close(truth, single, {first, first + truth.size()}, 1e-6, "pooled");
      if (rotate) c.expect_close(rotated_truth, rotated_single, tokens_of(got_rotated, batch, p.side), 1e-6, "rotated");
      c.expect(got.gaps_intact() && got_rotated.gaps_intact(), "wrote outside its output");
    }
  });
}

}  // namespace

void check_pool(Checker &c) {
  size_t n = 0;
  for (DType dtype : float_dtypes)
    for (int64_t dim : {64, 80, 128, 256})
      for (int64_t block : {32, 64, 128})
        for (const Shape &shape : shapes(block, true)) {
          const Case p{dtype,
                       dim,
                       block,
                       1 + int64_t(n % 4),
                       uint32_t(1 + n % 7),
                       n % 2 ? Side::q : Side::k,
                       static_cast<Fill>(n / 2 % 4),
                       n % 5 == 3,
                       layouts[n / 3 % 3]};
          ++n;
          char name[128];
          std::snprintf(name, sizeof name, "pool_%s_d%d_p%d_%s_%s%s%s%s_%s%s", dtype_name(dtype), int(dim), int(block),
                        p.side == Side::q ? "q" : "k", p.bits & pool_max ? "max" : "", p.bits & pool_min ? "min" : "",
                        p.bits & pool_avg ? "avg" : "", p.poison ? "_poison" : "", shape.name,
                        (std::string("_") + fill_names[int(p.kind)]).c_str());
          if (c.begin("pool", name)) check(c, p, shape);
        }
  // What a model has, long enough to be timed.
  for (DType dtype : {DType::f32, DType::bf16}) {
    const std::string name = std::string("pool_") + dtype_name(dtype) + "_d128_p64_long";
    if (c.begin("pool", name))
      check(c, {dtype, 128, 64, 8, 7, Side::k, Fill::normal, false, Layout::packed}, {"long", false, {{2048, 2048}}});
  }
}

}  // namespace seer::test
