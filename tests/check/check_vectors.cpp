// pool and project of both sides of a gate at once, as a pipeline asks for them.
#include "check.h"
#include "checked.h"

namespace seer::test {
namespace {

struct Case {
  DType dtype, weight;
  int64_t dim, block, kv_heads, group;
  bool single;  // no matrix for Q, one for each query head for K
  uint32_t k_bits;
  bool rotate_k, poison;
  Layout layout;
};

// What a backend has for it, or its parts.
void gate_vectors(Target &target, Exec &exec, const GateVectorArgs &args) {
  const BackendFns &fns = target.fns();
  if (fns.gate_vectors) return fns.gate_vectors(*target.device, exec, args);
  fns.pool(*target.device, exec, args.pool_q);
  fns.pool(*target.device, exec, args.pool_k);
  fns.project(*target.device, exec, args.project_q);
  fns.project(*target.device, exec, args.project_k);
}

void check(Checker &c, const Case &p, const Shape &shape) {
  Random random = c.random();
  std::vector<Lengths> lengths = shape.lengths;
  for (Lengths &l : lengths) l.cached = (l.k - l.q) / p.block;
  const Batch batch = make_batch(lengths, p.block, shape.packed);
  const int64_t q_heads = p.kv_heads * p.group, gate_heads = p.single ? q_heads : p.kv_heads;
  const int64_t in = p.dim * pool_count(p.k_bits);
  Image q(p.dtype, {batch.batch, batch.q_tokens, q_heads, p.dim}, p.layout);
  Image k(p.dtype, {batch.batch, batch.k_tokens, p.kv_heads, p.dim}, p.layout);
  Image rotated(p.dtype, {batch.batch, batch.k_tokens, p.kv_heads, p.dim});
  Image wq(p.weight, {1, q_heads, p.dim, p.dim}), wk(p.weight, {1, gate_heads, in, p.dim});
  fill(q, Fill::normal, random);
  fill(k, Fill::normal, random);
  fill(wq, Fill::normal, random);
  fill(wk, Fill::normal, random);
  if (p.poison) k.set(0, uniform(random, 0, batch.k_tokens - 1), 0, 1, std::nanf(""));
  const RopeOwner rope(p.dim, batch.max_k_blocks + 1, p.block), token_rope(p.dim, batch.k_tokens + 1, 1);

  GateVectorArgs args;
  args.pool_q = {.sequences = batch.sequences, .side = Side::q, .block = p.block, .x = q.tokens()};
  args.pool_q.pool_bits = pool_avg;
  args.pool_k = {.sequences = batch.sequences, .side = Side::k, .block = p.block, .x = k.tokens()};
  args.pool_k.pool_bits = p.k_bits;
  args.pool_k.rope = token_rope.view();
  args.project_q = {.sequences = batch.sequences, .side = Side::q, .block = p.block};
  args.project_q.pooled_heads = args.project_q.gate_heads = q_heads;
  args.project_q.in = args.project_q.out = p.dim;
  args.project_q.rope = rope.view();
  if (!p.single) args.project_q.weight = {p.weight, q_heads, p.dim, p.dim, wq.flat()};
  args.project_k = {.sequences = batch.sequences, .side = Side::k, .block = p.block};
  args.project_k.pooled_heads = p.kv_heads;
  args.project_k.gate_heads = gate_heads;
  args.project_k.in = in;
  args.project_k.out = p.dim;
  args.project_k.rope = rope.view();
  args.project_k.weight = {p.weight, gate_heads, in, p.dim, wk.flat()};

  std::vector<double> truth[2], single[2];
  for (int side = 0; side < 2; ++side) {
    const std::vector<double> pools = naive::pool<double>(side ? args.pool_k : args.pool_q);
    const std::vector<float> pooled(pools.begin(), pools.end());
    ProjectArgs project = side ? args.project_k : args.project_q;
    project.pooled = pooled.data();
    truth[side] = naive::project<double>(project);
    single[side] = naive::project<float>(project);
  }
  PoolArgs turned = args.pool_k;
  turned.rotated = rotated.tokens();
  const auto rotated_single = naive::rotated<float>(turned);
  turned.rotated.dtype = DType::none;
  const auto rotated_truth = naive::rotated<double>(turned);

  c.each_target([&](Target &target) {
    const DeviceLimits &limits = target.device->limits;
    Image gate_q(DType::f32, {1, batch.q_rows, q_heads, p.dim}),
        gate_k(DType::f32, {1, batch.k_rows, gate_heads, p.dim});
    Image pooled_q(DType::f32, {1, batch.q_rows, q_heads, p.dim}), copy = rotated;
    Image pooled_k(DType::f32, {1, round_up(batch.k_pool_rows, limits.pooled_rows), p.kv_heads, in});
    DeviceCopy on_q(target, q), on_k(target, k), on_wq(target, wq), on_wk(target, wk), on_gate_q(target, gate_q),
        on_gate_k(target, gate_k), on_pooled_q(target, pooled_q), on_pooled_k(target, pooled_k), on_copy(target, copy);
    GateVectorArgs call = args;
    call.pool_q.x = q.tokens(on_q.address(), on_q.handle());
    call.pool_k.x = k.tokens(on_k.address(), on_k.handle());
    if (p.rotate_k) call.pool_k.rotated = rotated.tokens(on_copy.address(), on_copy.handle());
    call.project_q.gate = gate_q.flat(on_gate_q.address());
    call.project_k.gate = gate_k.flat(on_gate_k.address());
    call.pool_q.pooled =
        p.single && limits.project_in_place ? call.project_q.gate : pooled_q.flat(on_pooled_q.address());
    call.pool_k.pooled = pooled_k.flat(on_pooled_k.address());
    call.project_q.pooled = call.pool_q.pooled;
    call.project_k.pooled = call.pool_k.pooled;
    if (!p.single) call.project_q.weight.data = wq.flat(on_wq.address());
    call.project_k.weight.data = wk.flat(on_wk.address());
    c.run([&](Exec &exec) { gate_vectors(target, exec, call); });
    on_gate_q.read(gate_q);
    on_gate_k.read(gate_k);
    on_pooled_q.read(pooled_q);
    on_pooled_k.read(pooled_k);
    on_copy.read(copy);
    std::vector<double> values[2], copied;
    bool cached_intact = true;
    for (const Sequence &s : batch.sequences)
      for (int side = 0; side < 2; ++side) {
        const Image &image = side ? gate_k : gate_q;
        const int64_t row = side ? s.k_row : s.q_row, first = side ? s.cached_blocks : 0;
        for (int64_t b = 0; b < (side ? s.k_blocks(p.block) : s.q_blocks(p.block)); ++b)
          for (int64_t h = 0; h < image.shape()[2]; ++h)
            for (int64_t d = 0; d < p.dim; ++d) {
              const float value = image.get(0, row + b, h, d);
              if (b >= first)
                values[side].push_back(value);
              else
                cached_intact &= std::isnan(value);  // 0xff, as it was
            }
      }
    c.expect_close(truth[0], single[0], values[0], 2e-6, "gate Q");
    c.expect_close(truth[1], single[1], values[1], 2e-6, "gate K");
    if (p.rotate_k) {
      for (const Sequence &s : batch.sequences)
        for (int64_t t = 0; t < s.k_len; ++t)
          for (int64_t h = 0; h < p.kv_heads; ++h)
            for (int64_t d = 0; d < p.dim; ++d) copied.push_back(copy.get(s.batch, s.k_begin + t, h, d));
      c.expect_close(rotated_truth, rotated_single, copied, 1e-6, "rotated K");
    }
    c.expect(cached_intact, "wrote to blocks that were cached");
    c.expect(gate_q.gaps_intact() && gate_k.gaps_intact() && pooled_q.gaps_intact() && pooled_k.gaps_intact() &&
                 copy.gaps_intact(),
             "wrote outside its output");
  });
}

}  // namespace

void check_vectors(Checker &c) {
  size_t n = 0;
  for (DType dtype : float_dtypes)
    for (DType weight : {DType::bf16, DType::f32})
      for (int64_t dim : {64, 80, 128, 128})
        for (int64_t block : {32, 64, 128}) {
          const std::vector<Shape> all = shapes(block, true);
          const Shape &shape = all[n % all.size()];
          const Case p{dtype,
                       weight,
                       dim,
                       block,
                       1 + int64_t(n % 3),
                       1 + int64_t(n % 4),
                       n % 4 != 2,
                       n % 3 ? 7u : uint32_t(1 + n % 7),
                       n % 2 == 1,
                       n % 7 == 5,
                       layouts[n / 2 % 3]};
          ++n;
          char name[128];
          std::snprintf(name, sizeof name, "vectors_%s_%s_d%d_p%d_h%dx%d_%s%s%s%s_%s_%s%s%s", dtype_name(dtype),
                        dtype_name(weight), int(dim), int(block), int(p.kv_heads), int(p.group),
                        p.single ? "single" : "double", p.k_bits & pool_max ? "max" : "",
                        p.k_bits & pool_min ? "min" : "", p.k_bits & pool_avg ? "avg" : "", shape.name,
                        p.layout == Layout::packed   ? "packed"
                        : p.layout == Layout::padded ? "padded"
                                                     : "swapped",
                        p.rotate_k ? "_rotated" : "", p.poison ? "_poison" : "");
          if (c.begin("project", name)) check(c, p, shape);
        }
  // What a model has, with more rows than a tile of any kernel.
  if (c.begin("project", "vectors_bf16_bf16_long"))
    check(c, {DType::bf16, DType::bf16, 128, 64, 2, 4, true, 7, false, false, Layout::packed},
          {"long", true, {{9000, 9000}, {64, 4160}, {700, 700}}});
}

}  // namespace seer::test
