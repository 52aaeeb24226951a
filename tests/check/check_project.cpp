#include "check.h"

namespace seer::test {
namespace {

struct Case {
  DType dtype;  // of the matrix; none: no matrix
  int64_t in, out, block, pooled_heads, gate_heads;
  Side side;
  bool rotate, poison;
};

void check(Checker &c, const Case &p, const Shape &shape) {
  Random random = c.random();
  std::vector<Lengths> lengths = shape.lengths;
  for (Lengths &l : lengths) l.cached = (l.k - l.q) / p.block;
  const Batch batch = make_batch(lengths, p.block, shape.packed);
  const bool q = p.side == Side::q;
  Image pooled(DType::f32, {1, q ? batch.q_rows : batch.k_pool_rows, p.pooled_heads, p.in});
  Image gate(DType::f32, {1, q ? batch.q_rows : batch.k_rows, p.gate_heads, p.out});
  Image weight(p.dtype == DType::none ? DType::f32 : p.dtype, {1, p.gate_heads, p.in, p.out});
  fill(pooled, Fill::normal, random);
  fill(weight, Fill::normal, random);
  if (p.poison && pooled.shape()[1] > 0) pooled.set(0, uniform(random, 0, pooled.shape()[1] - 1), 0, 1, std::nanf(""));
  const RopeOwner rope(p.out, batch.max_k_blocks + 1, p.block);

  ProjectArgs args{.sequences = batch.sequences, .side = p.side, .block = p.block, .pooled = pooled.flat()};
  args.pooled_heads = p.pooled_heads;
  args.gate_heads = p.gate_heads;
  args.in = p.in;
  args.out = p.out;
  if (p.dtype != DType::none) args.weight = {p.dtype, p.gate_heads, p.in, p.out, weight.flat()};
  if (p.rotate) args.rope = rope.view();
  const auto truth = naive::project<double>(args), single = naive::project<float>(args);

  c.each_target([&](Target &target) {
    Image got = gate;
    DeviceCopy on_pooled(target, pooled), on_weight(target, weight), on_gate(target, got);
    ProjectArgs call = args;
    call.pooled = pooled.flat(on_pooled.address());
    call.weight.data = weight.flat(on_weight.address());
    call.gate = got.flat(on_gate.address());
    c.run([&](Exec &exec) { target.fns().project(*target.device, exec, call); });
    on_gate.read(got);
    std::vector<double> values;
    bool cached_intact = true;
    for (const Sequence &s : batch.sequences) {
      const int64_t row = q ? s.q_row : s.k_row, first = q ? 0 : s.cached_blocks;
      for (int64_t b = 0; b < (q ? s.q_blocks(p.block) : s.k_blocks(p.block)); ++b)
        for (int64_t h = 0; h < p.gate_heads; ++h)
          for (int64_t d = 0; d < p.out; ++d) {
            const float value = got.get(0, row + b, h, d);
            if (b >= first)
              values.push_back(value);
            else
              cached_intact &= std::isnan(value);  // 0xff, as it was
          }
    }
    c.expect_close(truth, single, values, 2e-6, "gate vectors");
    c.expect(cached_intact, "wrote to blocks that were cached");
    c.expect(got.gaps_intact(), "wrote outside its output");
  });
}

}  // namespace

void check_project(Checker &c) {
  size_t n = 0;
  for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::none})
    for (int64_t dim : {64, 80, 128})
      for (int64_t pools : {1, 2, 3})
        for (int64_t out : {dim, int64_t{32}}) {
          if (dtype == DType::none && (pools > 1 || out != dim)) continue;
          const int64_t block = std::array{32, 64, 128}[n % 3];
          const std::vector<Shape> all = shapes(block, true);
          const Shape &shape = all[n % all.size()];
          const int64_t heads = 1 + int64_t(n % 3), group = dtype == DType::none ? 1 : 1 + int64_t(n % 8);
          const Case p{dtype,      dim * pools, out, block, heads, heads * group, n % 2 ? Side::q : Side::k,
                       n % 4 != 3, n % 7 == 5};
          ++n;
          char name[128];
          std::snprintf(name, sizeof name, "project_%s_%dto%d_p%d_g%d_%s_%s%s%s",
                        dtype == DType::none ? "identity" : dtype_name(dtype), int(p.in), int(out), int(block),
                        int(group), p.side == Side::q ? "q" : "k", shape.name, p.rotate ? "" : "_norope",
                        p.poison ? "_poison" : "");
          if (c.begin("project", name)) check(c, p, shape);
        }
  for (DType dtype : {DType::f32, DType::bf16}) {
    const std::string name = std::string("project_") + dtype_name(dtype) + "_384to128_p64_g4_long";
    if (c.begin("project", name))
      check(c, {dtype, 384, 128, 64, 2, 8, Side::k, true, false}, {"long", false, {{2048, 2048}}});
  }
}

}  // namespace seer::test
