#include "check.h"

namespace seer::test {
namespace {

void check(Checker &c, const Shape &shape, int64_t block, int64_t k_heads, int64_t group, int64_t dim, bool softmax,
           Fill kind, Layout layout) {
  Random random = c.random();
  const Batch batch = make_batch(shape.lengths, block, shape.packed);
  Image q(DType::f32, {1, batch.q_rows, k_heads * group, dim}), k(DType::f32, {1, batch.k_rows, k_heads, dim});
  fill(q, kind, random);
  fill(k, kind, random);
  const int64_t cols = batch.max_k_blocks + 1;
  Image scores(DType::f32, {batch.batch, k_heads * group, batch.mask_rows, cols}, layout);
  ScoreArgs args{.sequences = batch.sequences, .block = block, .softmax = softmax, .cols = cols};
  args.gate = {q.flat(), k.flat(), k_heads * group, k_heads, dim, 1 / std::sqrt(double(dim))};
  const auto truth = naive::score<double>(args), single = naive::score<float>(args);

  c.each_target([&](Target &target) {
    Image got = scores;
    DeviceCopy on_q(target, q), on_k(target, k), on_scores(target, got);
    ScoreArgs call = args;
    call.gate.q = q.flat(on_q.address());
    call.gate.k = k.flat(on_k.address());
    call.scores = got.floats(on_scores.address(), on_scores.handle());
    c.run([&](Exec &exec) { target.fns().score(*target.device, exec, call); });
    on_scores.read(got);
    std::vector<double> values;
    for (const Sequence &s : batch.sequences)
      for (int64_t h = 0; h < k_heads * group; ++h)
        for (int64_t r = 0; r < s.q_blocks(block); ++r)
          for (int64_t j = 0; j < cols; ++j) values.push_back(got.get(s.batch, h, s.mask_row + r, j));
    // Logits of the size of 64 are only good to 64 ulps of 1, and that is what their softmax shows.
    c.expect_close(truth, single, values, kind == Fill::large ? 1e-4 : 2e-6, softmax ? "probabilities" : "logits");
    c.expect(got.gaps_intact(), "wrote outside its output");
  });
}

}  // namespace

void check_score(Checker &c) {
  size_t n = 0;
  for (int64_t block : {32, 64, 128})
    for (const Shape &shape : shapes(block, true))
      for (bool softmax : {false, true})
        for (Fill kind : {Fill::normal, Fill::tiny, Fill::large, Fill::equal}) {
          const int64_t group = 1 + int64_t(n % 8), k_heads = 1 + int64_t(n % 2);
          const int64_t dim = std::array{64, 80, 128, 30}[n % 4];
          const Layout layout = layouts[n % 3];
          ++n;
          char name[128];
          std::snprintf(name, sizeof name, "score_%s_e%d_p%d_g%d_%s_%s", softmax ? "probs" : "logits", int(dim),
                        int(block), int(group), shape.name, fill_names[int(kind)]);
          if (c.begin("score", name)) check(c, shape, block, k_heads, group, dim, softmax, kind, layout);
        }
  for (bool softmax : {false, true}) {  // rows that no longer fit a small shared memory
    const std::string name = softmax ? "score_probs_e64_p32_g2_deep" : "score_logits_e64_p32_g2_deep";
    if (c.begin("score", name))
      check(c, {"deep", true, {{33, 5000 * 32 + 33}}}, 32, 1, 2, 64, softmax, Fill::normal, Layout::padded);
  }
  if (c.begin("score", "score_probs_e128_p64_g4_long"))
    check(c, {"long", false, {{8192, 8192}}}, 64, 2, 4, 128, true, Fill::normal, Layout::packed);
}

}  // namespace seer::test
