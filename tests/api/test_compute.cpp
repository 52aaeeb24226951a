// What the compute calls give: against plain loops here, and against each other.
#include <algorithm>
#include <array>

#include "api.h"

using namespace api;

namespace {

// Softmax attention in double over the blocks of a byte mask, q and k as they are.
void naive_attention(const Batch &x, const std::vector<uint8_t> *mask, std::vector<float> &out,
                     std::vector<float> &lse) {
  out.assign(x.out.size(), 0);
  lse.assign(x.lse.size(), 0);
  for (int64_t b = 0; b < x.b; b++)
    for (int64_t h = 0; h < x.hq; h++)
      for (int64_t i = 0; i < x.s; i++) {
        const int64_t g = h / (x.hq / x.hkv), last = x.l - x.s + i;
        std::vector<double> logits(size_t(last) + 1, -INFINITY);
        double top = -INFINITY;
        for (int64_t j = 0; j <= last; j++) {
          if (mask && !(*mask)[size_t(((b * x.hq + h) * x.nq + i / x.block) * x.nk + j / x.block)]) continue;
          double dot = 0;
          for (int64_t d = 0; d < x.d; d++)
            dot += double(x.q[size_t(((b * x.s + i) * x.hq + h) * x.d + d)]) *
                   double(x.k[size_t(((b * x.l + j) * x.hkv + g) * x.d + d)]);
          logits[size_t(j)] = dot / std::sqrt(double(x.d));
          top = std::max(top, logits[size_t(j)]);
        }
        double sum = 0;
        for (double &e : logits) sum += e = std::isinf(top) ? 0 : std::exp(e - top);
        lse[size_t((b * x.hq + h) * x.s + i)] = sum > 0 ? float(top + std::log(sum)) : -INFINITY;
        for (int64_t d = 0; d < x.d && sum > 0; d++) {
          double o = 0;
          for (int64_t j = 0; j <= last; j++)
            o += logits[size_t(j)] * double(x.v[size_t(((b * x.l + j) * x.hkv + g) * x.d + d)]);
          out[size_t(((b * x.s + i) * x.hq + h) * x.d + d)] = float(o / sum);
        }
      }
}

constexpr double kTolerance = 2e-5;

}  // namespace

TEST_CASE("dense attention equals a plain loop, with a short last block and more keys than queries") {
  const Context ctx = make_context();
  Batch x(2, 70, 107);
  const seer_attention_desc desc = x.attention();
  OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
  std::vector<float> out, lse;
  naive_attention(x, nullptr, out, lse);
  CHECK(distance(x.out, out) < kTolerance);
  CHECK(distance(x.lse, lse) < kTolerance);
}

TEST_CASE("attention under a caller's mask: bytes and bits agree, empty rows give 0 and -inf, the future is ignored") {
  const Context ctx = make_context();
  Batch x(1, 130, 130);
  std::mt19937 rng(3);
  for (uint8_t &keep : x.bytes) keep = rng() % 2;
  for (int64_t j = 0; j < x.nk; j++) x.bytes[size_t(2 * x.nk + j)] = 0;  // head 0, row 2: nothing
  std::fill(x.bits.begin(), x.bits.end(), 0xffffff00u);                  // rubbish beyond the blocks
  for (int64_t h = 0; h < x.hq; h++)
    for (int64_t i = 0; i < x.nq; i++)
      for (int64_t j = 0; j < x.nk; j++) {
        const bool future = j > i;  // must not matter
        if (x.bytes[size_t((h * x.nq + i) * x.nk + j)] || (future && rng() % 2))
          x.bits[size_t(h * x.nq + i)] |= 1u << j;
      }
  seer_attention_desc desc = x.attention();
  desc.mask = x.bytes_();
  OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
  std::vector<float> out, lse;
  naive_attention(x, &x.bytes, out, lse);
  CHECK(distance(x.out, out) < kTolerance);
  CHECK(distance(x.lse, lse) < kTolerance);
  CHECK(x.lse[64] == -INFINITY);  // head 0, first token of row 2

  Batch y(1, 130, 130);
  seer_attention_desc bits = y.attention();
  bits.mask = x.bits_();
  OK(seer_attention(ctx.get(), &bits, nullptr, nullptr));
  CHECK(y.out == x.out);
  CHECK(y.lse == x.lse);
}

TEST_CASE("prefill is gate, then attention over its mask with the model's RoPE") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch x(2, 200, 200);
  seer_prefill_desc prefill = x.prefill();
  prefill.lse = x.lse_();
  prefill.scores = x.scores_();
  prefill.mask = x.bits_();
  OK(seer_prefill(ctx.get(), model.get(), 4, &prefill, nullptr, nullptr));

  Batch y(2, 200, 200);
  const seer_gate_desc gate = y.gate();
  OK(seer_gate(ctx.get(), model.get(), 4, &gate, nullptr, nullptr));
  CHECK(y.scores == x.scores);
  CHECK(y.bits == x.bits);
  seer_attention_desc attention = y.attention();
  attention.mask = y.bits_();
  attention.rope.kind = SEER_ROPE_THETA;
  attention.rope.theta = 10000.0;
  OK(seer_attention(ctx.get(), &attention, nullptr, nullptr));
  CHECK(distance(y.out, x.out) < kTolerance);
  CHECK(distance(y.lse, x.lse) < kTolerance);

  Batch z(2, 200, 200);
  const seer_prefill_desc other = z.prefill();
  OK(seer_prefill(ctx.get(), model.get(), 5, &other, nullptr, nullptr));  // another layer, other weights
  CHECK(distance(z.out, x.out) > 1e-3);
}

TEST_CASE("scores are probabilities within the triangle, and select of them is the gate's mask") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch x(1, 160, 160);
  const seer_gate_desc gate = x.gate();
  OK(seer_gate(ctx.get(), model.get(), 4, &gate, nullptr, nullptr));
  for (int64_t i = 0; i < x.nq; i++) {
    double sum = 0;
    for (int64_t j = 0; j < x.nk; j++) {
      const float p = x.scores[size_t(i * x.nk + j)];
      sum += p;
      if (j > i) CHECK(p == 0.0f);
      if (j <= i && i < x.nq - 2) CHECK(x.kept(0, 0, i, j) == (p > 0.2f));
      if (i >= x.nq - 2) CHECK(x.kept(0, 0, i, j) == (j <= i));  // the last two rows are dense
    }
    CHECK(sum == doctest::Approx(1.0).epsilon(1e-5));
  }
  const std::vector<uint32_t> expected = x.bits;
  std::fill(x.bits.begin(), x.bits.end(), 0xffffffffu);
  const seer_select_desc select = x.select();
  OK(seer_select(ctx.get(), &select, nullptr, nullptr));
  CHECK(x.bits == expected);

  seer_select_desc bytes = x.select();
  bytes.mask = x.bytes_();
  OK(seer_select(ctx.get(), &bytes, nullptr, nullptr));
  for (int64_t h = 0; h < x.hq; h++)
    for (int64_t i = 0; i < x.nq; i++)
      for (int64_t j = 0; j < x.nk; j++)
        CHECK(x.bytes[size_t((h * x.nq + i) * x.nk + j)] == (x.kept(0, h, i, j) ? 1 : 0));

  seer_gate_desc logits = x.gate();
  logits.flags = SEER_GATE_LOGITS;
  OK(seer_gate(ctx.get(), model.get(), 4, &logits, nullptr, nullptr));
  CHECK(x.scores[1] == -INFINITY);
}

TEST_CASE("packed sequences behave as if each ran alone, zero-length ones included") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  const int32_t offsets[] = {0, 70, 70, 171, 172};
  Batch x(1, 172, 172);
  std::vector<uint32_t> bits(size_t(x.hq) * (3 + 0 + 4 + 1), 0xdeadbeefu);
  seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
  desc.q = f32(x.q, {172, x.hq, x.d});
  desc.k = f32(x.k, {172, x.hkv, x.d});
  desc.v = f32(x.v, {172, x.hkv, x.d});
  desc.out = f32(x.out, {172, x.hq, x.d});
  desc.lse = f32(x.lse, {x.hq, 172});
  desc.mask = b32(bits, {x.hq, 8, 1});
  desc.sequences.q = offsets;
  desc.sequences.count = 4;
  OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));

  int64_t row = 0;
  for (int i = 0; i < 4; i++) {
    const int64_t first = offsets[i], n = offsets[i + 1] - first;
    Batch y(1, n, n);
    std::copy_n(x.q.begin() + first * x.hq * x.d, y.q.size(), y.q.begin());
    std::copy_n(x.k.begin() + first * x.hkv * x.d, y.k.size(), y.k.begin());
    std::copy_n(x.v.begin() + first * x.hkv * x.d, y.v.size(), y.v.begin());
    seer_prefill_desc alone = y.prefill();
    alone.lse = y.lse_();
    alone.mask = y.bits_();
    OK(seer_prefill(ctx.get(), model.get(), 4, &alone, nullptr, nullptr));
    const std::vector<float> out(x.out.begin() + first * x.hq * x.d, x.out.begin() + (first + n) * x.hq * x.d);
    CHECK(distance(out, y.out) < kTolerance);
    for (int64_t h = 0; h < x.hq; h++) {
      for (int64_t t = 0; t < n; t++)
        CHECK(x.lse[size_t(h * 172 + first + t)] == doctest::Approx(y.lse[size_t(h * n + t)]).epsilon(1e-5));
      for (int64_t r = 0; r < y.nq; r++) CHECK(bits[size_t(h * 8 + row + r)] == y.bits[size_t(h * y.nq + r)]);
    }
    row += y.nq;
  }
}

TEST_CASE("strided views: [B, H, S, D] memory gives what [B, S, H, D] gives") {
  const Context ctx = make_context();
  Batch x(2, 50, 50), y(2, 50, 50);
  const auto permute = [](const std::vector<float> &from, int64_t b, int64_t s, int64_t h, int64_t d) {
    std::vector<float> to(from.size());
    for (int64_t i = 0; i < b; i++)
      for (int64_t j = 0; j < s; j++)
        for (int64_t k = 0; k < h; k++)
          for (int64_t l = 0; l < d; l++)
            to[size_t(((i * h + k) * s + j) * d + l)] = from[size_t(((i * s + j) * h + k) * d + l)];
    return to;
  };
  const auto strides = [](seer_tensor t) {
    const int64_t s = t.shape[1], h = t.shape[2], d = t.shape[3];
    const int64_t stride[4] = {h * s * d, d, s * d, 1};
    std::copy(stride, stride + 4, t.stride);
    return t;
  };
  seer_attention_desc plain = x.attention();
  OK(seer_attention(ctx.get(), &plain, nullptr, nullptr));
  y.q = permute(x.q, 2, 50, 4, 16);
  y.k = permute(x.k, 2, 50, 2, 16);
  y.v = permute(x.v, 2, 50, 2, 16);
  seer_attention_desc view = y.attention();
  view.q = strides(view.q);
  view.k = strides(view.k);
  view.v = strides(view.v);
  view.out = strides(view.out);
  OK(seer_attention(ctx.get(), &view, nullptr, nullptr));
  CHECK(distance(y.out, permute(x.out, 2, 50, 4, 16)) < kTolerance);
}

TEST_CASE("buffers: written, read, and used by calls, at an offset too") {
  const Context ctx = make_context();
  Batch x(1, 40, 40);
  const seer_attention_desc plain = x.attention();
  OK(seer_attention(ctx.get(), &plain, nullptr, nullptr));

  const uint64_t q_bytes = x.q.size() * 4, k_bytes = x.k.size() * 4;
  seer_buffer *raw = nullptr;
  OK(seer_buffer_create(ctx.get(), 2 * q_bytes + 2 * k_bytes, 0, &raw));
  const Buffer buffer(raw);
  OK(seer_buffer_write(raw, 0, x.q.data(), q_bytes));
  OK(seer_buffer_write(raw, q_bytes, x.k.data(), k_bytes));
  OK(seer_buffer_write(raw, q_bytes + k_bytes, x.v.data(), k_bytes));
  const auto view = [&](seer_tensor t, uint64_t offset) {
    t.mem = SEER_MEM_BUFFER;
    t.data = nullptr;
    t.size = 0;
    t.buffer = raw;
    t.offset = offset;
    return t;
  };
  seer_attention_desc desc = x.attention();
  desc.q = view(desc.q, 0);
  desc.k = view(desc.k, q_bytes);
  desc.v = view(desc.v, q_bytes + k_bytes);
  desc.out = view(desc.out, q_bytes + 2 * k_bytes);
  desc.lse = seer_tensor{};
  OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
  std::vector<float> out(x.out.size());
  OK(seer_buffer_read(raw, q_bytes + 2 * k_bytes, out.data(), q_bytes));
  CHECK(out == x.out);
  void *address = nullptr;
  OK(seer_buffer_address(raw, &address));
  CHECK(std::memcmp(static_cast<char *>(address) + q_bytes + 2 * k_bytes, x.out.data(), q_bytes) == 0);
}

TEST_CASE("chunks with a gate cache give the masks and outputs of one call; lengths count what was submitted") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch whole(2, 230, 230);
  seer_prefill_desc one = whole.prefill();
  one.mask = whole.bits_();
  OK(seer_prefill(ctx.get(), model.get(), 5, &one, nullptr, nullptr));

  seer_gate_cache_params params = SEER_INIT(seer_gate_cache_params);
  params.sequences = 2;
  params.max_tokens = 230;
  seer_gate_cache *raw = nullptr;
  OK(seer_gate_cache_create(ctx.get(), model.get(), &params, &raw));
  const Cache cache(raw);
  const auto length = [&](int32_t layer) {
    int64_t tokens = -1;
    OK(seer_gate_cache_length(raw, layer, 1, &tokens));
    return tokens;
  };
  CHECK(length(5) == 0);
  std::vector<float> out(whole.out.size());
  const int64_t borders[] = {0, 64, 96, 192, 230};
  for (int c = 0; c < 4; c++) {
    const int64_t first = borders[c], last = borders[c + 1], n = last - first;
    Batch chunk(2, n, last);
    seer_prefill_desc desc = chunk.prefill();
    // Views of the whole prompt: K from its start, Q from the chunk's.
    desc.q = whole.q_();
    desc.q.shape[1] = n;
    desc.q.offset = uint64_t(first * whole.hq * whole.d) * 4;
    desc.k = whole.k_();
    desc.v = whole.v_();
    desc.k.shape[1] = desc.v.shape[1] = last;
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v}) {
      const int64_t heads = t->shape[2];
      const int64_t stride[4] = {230 * heads * whole.d, heads * whole.d, whole.d, 1};
      std::copy(stride, stride + 4, t->stride);
    }
    desc.mask = chunk.bits_();
    desc.cache = raw;
    desc.total_len = 230;
    OK(seer_prefill(ctx.get(), model.get(), 5, &desc, nullptr, nullptr));
    CHECK(length(5) == last / 32 * 32);
    CHECK(length(4) == 0);
    for (int64_t b = 0; b < 2; b++) {
      std::copy_n(chunk.out.begin() + b * n * whole.hq * whole.d, n * whole.hq * whole.d,
                  out.begin() + (b * 230 + first) * whole.hq * whole.d);
      for (int64_t h = 0; h < whole.hq; h++)
        for (int64_t i = 0; i < chunk.nq; i++)
          for (int64_t j = 0; j < chunk.nk; j++) CHECK(chunk.kept(b, h, i, j) == whole.kept(b, h, first / 32 + i, j));
    }
  }
  CHECK(distance(out, whole.out) < kTolerance);

  OK(seer_gate_cache_truncate(raw, 0, 70));
  CHECK(length(5) == 224);  // sequence 1 is untouched
  int64_t tokens = 0;
  OK(seer_gate_cache_length(raw, 5, 0, &tokens));
  CHECK(tokens == 64);
  OK(seer_gate_cache_truncate(raw, -1, 0));
  CHECK(length(5) == 0);
}

TEST_CASE("a cache's vectors are used: a chunk sees the keys that were there when they were pooled") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  seer_gate_cache_params params = SEER_INIT(seer_gate_cache_params);
  params.max_tokens = 128;
  seer_gate_cache *raw = nullptr;
  OK(seer_gate_cache_create(ctx.get(), model.get(), &params, &raw));
  const Cache cache(raw);
  Batch first(1, 64, 64, {}, 50), plain(1, 64, 128), cached(1, 64, 128);
  seer_gate_desc desc = first.gate();
  desc.cache = raw;
  OK(seer_gate(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
  desc = plain.gate();
  OK(seer_gate(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
  desc = cached.gate();
  desc.cache = raw;  // its first 64 keys differ from those of `first`: the cached ones count
  OK(seer_gate(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
  CHECK(distance(plain.scores, cached.scores) > 1e-3);
}

TEST_CASE("RoPE overrides: THETA as the model's changes nothing, INV_FREQ of the same values neither") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch x(1, 100, 100), y(1, 100, 100), z(1, 100, 100), none(1, 100, 100);
  const seer_prefill_desc a = x.prefill();
  OK(seer_prefill(ctx.get(), model.get(), 4, &a, nullptr, nullptr));
  seer_prefill_desc b = y.prefill();
  b.rope.kind = SEER_ROPE_THETA;
  b.rope.theta = 10000.0;
  OK(seer_prefill(ctx.get(), model.get(), 4, &b, nullptr, nullptr));
  CHECK(y.out == x.out);
  std::vector<float> inv_freq;
  for (int i = 0; i < 8; i++) inv_freq.push_back(float(std::pow(10000.0, -i / 8.0)));
  seer_prefill_desc c = z.prefill();
  c.rope.kind = SEER_ROPE_INV_FREQ;
  c.rope.inv_freq = inv_freq.data();
  c.rope.inv_freq_count = 8;
  OK(seer_prefill(ctx.get(), model.get(), 4, &c, nullptr, nullptr));
  CHECK(distance(z.out, x.out) < 1e-3);
  seer_prefill_desc d = none.prefill();
  d.rope.kind = SEER_ROPE_NONE;
  OK(seer_prefill(ctx.get(), model.get(), 4, &d, nullptr, nullptr));
  CHECK(distance(none.out, x.out) > 1e-3);
}

TEST_CASE("empty extents are fine") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  for (const auto &[b, s, l] : {std::array<int64_t, 3>{0, 5, 5}, {2, 0, 0}, {2, 0, 32}, {INT32_MAX, 0, 0}}) {
    Batch x(0, 0, 0);
    x.b = b;
    x.s = s;
    x.l = l;
    x.nq = (s + 31) / 32;
    x.nk = (l + 31) / 32;
    x.w = (x.nk + 31) / 32;
    std::vector<float> keys(size_t(l * x.hkv * x.d) * (b == 2 ? 2 : 0));
    seer_prefill_desc prefill = x.prefill();
    prefill.k = prefill.v = f32(keys, {b, l, x.hkv, x.d});
    prefill.mask = x.bits_();
    OK(seer_prefill(ctx.get(), model.get(), 4, &prefill, nullptr, nullptr));
    seer_attention_desc attention = x.attention();
    attention.k = attention.v = prefill.k;
    attention.mask = x.bytes_();
    OK(seer_attention(ctx.get(), &attention, nullptr, nullptr));
  }
}

TEST_CASE("statistics: counts, density, and times that are there") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch x(2, 200, 200);
  seer_prefill_desc desc = x.prefill();
  desc.mask = x.bits_();
  seer_ticket ticket = 0;
  OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, &ticket));
  CHECK(ticket > 0);
  seer_stats stats = SEER_INIT(seer_stats);
  OK(seer_ticket_stats(ctx.get(), ticket, &stats));
  uint64_t kept = 0;
  for (int64_t b = 0; b < 2; b++)
    for (int64_t h = 0; h < x.hq; h++)
      for (int64_t i = 0; i < x.nq; i++)
        for (int64_t j = 0; j < x.nk; j++) kept += x.kept(b, h, i, j);
  CHECK(stats.blocks_kept == kept);
  CHECK(stats.blocks_causal == uint64_t(2 * x.hq * x.nq * (x.nq + 1) / 2));
  CHECK(stats.blocks_kept < stats.blocks_causal);
  CHECK(stats.device_ns >= stats.gate_ns);
  CHECK(stats.gate_ns > 0);
  CHECK(stats.attend_ns > 0);
  uint64_t bytes = 0;
  OK(seer_prefill_workspace(ctx.get(), model.get(), &desc, &bytes));
  CHECK(stats.workspace_bytes == bytes);

  // Rows that would keep nothing keep their diagonal, and are counted.
  desc.select.method = SEER_SELECT_THRESHOLD;
  desc.select.threshold = 1.0;
  desc.select.last_dense_rows = -1;
  OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, &ticket));
  OK(seer_ticket_stats(ctx.get(), ticket, &stats));
  CHECK(stats.fallback_rows == uint64_t(2 * x.hq * x.nq));
  CHECK(stats.blocks_kept == stats.fallback_rows);
  CHECK(x.kept(1, 2, 3, 3));
}

TEST_CASE("workspace of a prefill can be asked for before its memory is there, and a limit is kept") {
  seer_context_params params = cpu_params();
  params.workspace_limit = 4096;
  const Context ctx = make_context(params);
  const Model model = make_model(ctx.get());
  Batch x(1, 400, 400);
  seer_prefill_desc desc = x.prefill();
  for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out}) {
    t->data = nullptr;
    t->size = 0;
  }
  uint64_t bytes = 0;
  OK(seer_prefill_workspace(ctx.get(), model.get(), &desc, &bytes));
  CHECK(bytes > 4096);
  const seer_prefill_desc real = x.prefill();
  FAILS(SEER_ERROR_OUT_OF_MEMORY, "4096", seer_prefill(ctx.get(), model.get(), 4, &real, nullptr, nullptr));
  CHECK(x.out[0] == -7.0f);
}
