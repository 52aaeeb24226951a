// Laws between calls: packing, chunking, strides and what is not finite change nothing that they should not.
#include "problem.h"

using namespace property;

TEST_CASE("packed sequences equal each alone, empty ones included") {
  CHECK(rc::check("packed", [] {
    Problem p = Problem::draw(1);
    const auto lengths =
        *rc::gen::container<std::vector<int32_t>>(size_t(*rc::gen::inRange(1, 6)), rc::gen::inRange(0, 300));
    std::vector<int32_t> begins = {0};
    int64_t rows = 0, cols = 0;
    for (int32_t n : lengths) {
      begins.push_back(begins.back() + n);
      rows += (n + p.block - 1) / p.block;
      cols = std::max<int64_t>(cols, (n + p.block - 1) / p.block);
    }
    p.batch = 1;
    p.s = p.l = begins.back();
    p.fill();
    const int64_t words = (cols + 31) / 32;
    p.mask.assign(size_t(p.q_heads * rows * words), 0xdeadbeefu);
    seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
    desc.q = p.q.tensor({p.s, p.q_heads, p.dim});
    desc.k = p.k.tensor({p.s, p.kv_heads, p.dim});
    desc.v = p.v.tensor({p.s, p.kv_heads, p.dim});
    desc.out = p.out.tensor({p.s, p.q_heads, p.dim});
    desc.lse = api::f32(p.lse, {p.q_heads, p.s});
    desc.mask = api::b32(p.mask, {p.q_heads, rows, words});
    desc.select = p.select;
    desc.sequences.q = begins.data();
    desc.sequences.count = int32_t(lengths.size());
    const api::Model model = p.model(fast());
    OK(seer_prefill(fast(), model.get(), 0, &desc, nullptr, nullptr));

    int64_t row = 0;
    for (size_t n = 0; n < lengths.size(); n++) {
      Problem one = p;
      one.s = one.l = lengths[n];
      const auto slice = [&](Array &to, const Array &from, int64_t heads) {
        const size_t item = size_t(heads * p.dim) * Array::size(p.dtype);
        to.bytes.assign(from.bytes.begin() + std::ptrdiff_t(size_t(begins[n]) * item),
                        from.bytes.begin() + std::ptrdiff_t(size_t(begins[n + 1]) * item));
      };
      slice(one.q, p.q, p.q_heads);
      slice(one.k, p.k, p.kv_heads);
      slice(one.v, p.v, p.kv_heads);
      one.clear();
      Array expected = one.out;
      slice(expected, p.out, p.q_heads);
      if (one.s > 0) {
        one.run_prefill(fast());
        RC_ASSERT(one.out.bytes == expected.bytes);
        for (int64_t h = 0; h < p.q_heads; h++)
          for (int64_t i = 0; i < one.nq(); i++)
            for (int64_t j = 0; j < one.nk(); j++)
              RC_ASSERT(one.kept(0, h, i, j) ==
                        bool(p.mask[size_t((h * rows + row + i) * words + j / 32)] >> (j % 32) & 1u));
      }
      row += one.nq();
    }
  }));
}

TEST_CASE("chunks through a gate cache equal one call") {
  CHECK(rc::check("chunks", [] {
    Problem p = Problem::draw(600);
    p.select.method = *rc::gen::element<seer_select_method>(SEER_SELECT_THRESHOLD, SEER_SELECT_RATIO);
    p.run_prefill(fast());
    const api::Model model = p.model(fast());
    seer_gate_cache_params params = SEER_INIT(seer_gate_cache_params);
    params.sequences = p.batch;
    params.max_tokens = p.s;
    seer_gate_cache *handle = nullptr;
    OK(seer_gate_cache_create(fast(), model.get(), &params, &handle));
    const api::Cache cache(handle);
    const bool use_cache = *rc::gen::arbitrary<bool>();
    for (int64_t first = 0; first < p.s;) {
      const int64_t last = std::min(p.s, first + p.block * *rc::gen::inRange(1, 4));
      Problem part = p;
      part.s = last - first;
      part.l = last;
      part.clear();
      seer_prefill_desc desc = part.prefill();
      desc.total_len = p.s;
      desc.cache = use_cache ? cache.get() : nullptr;
      // Views into the whole: the chunk's queries, all keys so far, the chunk's outputs.
      const int64_t q_item = p.q_heads * p.dim, k_item = p.kv_heads * p.dim;
      const uint64_t element = Array::size(p.dtype);
      const auto view = [&](seer_tensor &t, Array &array, int64_t tokens, int64_t from, int64_t item, int64_t heads) {
        t = array.tensor({p.batch, tokens, heads, p.dim});
        t.stride[0] = p.s * item;
        t.stride[1] = item;
        t.stride[2] = p.dim;
        t.stride[3] = 1;
        t.offset = uint64_t(from * item) * element;
      };
      Array got = p.out;
      view(desc.q, p.q, part.s, first, q_item, p.q_heads);
      view(desc.k, p.k, last, 0, k_item, p.kv_heads);
      view(desc.v, p.v, last, 0, k_item, p.kv_heads);
      for (size_t i = 0; i < got.count(); i++) got.set(i, -77.0f);
      view(desc.out, got, part.s, first, q_item, p.q_heads);
      OK(seer_prefill(fast(), model.get(), 0, &desc, nullptr, nullptr));
      for (int64_t b = 0; b < p.batch; b++)
        for (int64_t t = 0; t < p.s; t++)
          for (int64_t e = 0; e < q_item; e++) {
            const size_t at = size_t((b * p.s + t) * q_item + e);
            if (t >= first && t < last)
              RC_ASSERT(got.get(at) == p.out.get(at));
            else
              RC_ASSERT(got.get(at) == -77.0f);  // nothing outside the chunk is written
          }
      first = last;
    }
  }));
}

TEST_CASE("the layout of memory changes nothing: [B, H, S, D] equals [B, S, H, D]") {
  CHECK(rc::check("strides", [] {
    Problem p = Problem::draw(300);
    p.run_prefill(fast());
    const auto permuted = [&](const Array &from, int64_t heads) {
      Array to = from;
      const size_t e = Array::size(p.dtype);
      for (int64_t b = 0; b < p.batch; b++)
        for (int64_t t = 0; t < p.s; t++)
          for (int64_t h = 0; h < heads; h++)
            std::memcpy(&to.bytes[size_t(((b * heads + h) * p.s + t) * p.dim) * e],
                        &from.bytes[size_t(((b * p.s + t) * heads + h) * p.dim) * e], size_t(p.dim) * e);
      return to;
    };
    const auto strided = [&](Array &array, int64_t heads) {
      seer_tensor t = array.tensor({p.batch, p.s, heads, p.dim});
      t.stride[0] = heads * p.s * p.dim;
      t.stride[1] = p.dim;
      t.stride[2] = p.s * p.dim;
      t.stride[3] = 1;
      return t;
    };
    Problem other = p;
    other.clear();
    other.q = permuted(p.q, p.q_heads);
    other.k = permuted(p.k, p.kv_heads);
    other.v = permuted(p.v, p.kv_heads);
    seer_prefill_desc desc = other.prefill();
    desc.q = strided(other.q, p.q_heads);
    desc.k = strided(other.k, p.kv_heads);
    desc.v = strided(other.v, p.kv_heads);
    desc.out = strided(other.out, p.q_heads);
    const api::Model model = p.model(fast());
    OK(seer_prefill(fast(), model.get(), 0, &desc, nullptr, nullptr));
    RC_ASSERT(other.out.bytes == permuted(p.out, p.q_heads).bytes);
    RC_ASSERT(other.mask == p.mask);
    RC_ASSERT(other.lse == p.lse);
  }));
}

TEST_CASE("what is not finite stays with the rows and heads that attend to it") {
  CHECK(rc::check("poison", [] {
    Problem p = Problem::draw(300, true);
    std::mt19937 rng(p.seed);
    for (uint32_t &word : p.mask) word = rng() & rng();
    Problem clean = p;
    clean.run_attention(fast());
    const int64_t batch = *rc::gen::inRange<int64_t>(0, p.batch), head = *rc::gen::inRange<int64_t>(0, p.kv_heads);
    const int64_t token = *rc::gen::inRange<int64_t>(0, p.l);
    const float poison = *rc::gen::element(NAN, INFINITY, -INFINITY);
    Array &into = *rc::gen::arbitrary<bool>() ? p.k : p.v;
    for (int64_t d = 0; d < p.dim; d += 3)
      into.set(size_t(((batch * p.l + token) * p.kv_heads + head) * p.dim + d), poison);
    p.run_attention(fast());
    // A GPU may add up anew, in another order, what the causal mask leaves of a tile with such values.
    const bool exact = !std::getenv("SEER_TEST_BACKEND");
    const float rounding = exact ? 0.0f : p.dtype == SEER_F32 ? 1e-5f : p.dtype == SEER_F16 ? 2e-3f : 1.6e-2f;
    for (int64_t b = 0; b < p.batch; b++)
      for (int64_t t = 0; t < p.s; t++)
        for (int64_t h = 0; h < p.q_heads; h++) {
          const bool attends = b == batch && h * p.kv_heads / p.q_heads == head && p.l - p.s + t >= token &&
                               p.kept(b, h, t / p.block, token / p.block);
          if (attends) continue;
          const size_t at = size_t(((b * p.s + t) * p.q_heads + h) * p.dim);
          float largest = 0.0f;
          for (size_t d = 0; d < size_t(p.dim); d++) largest = std::max(largest, std::abs(clean.out.get(at + d)));
          for (size_t d = 0; d < size_t(p.dim); d++)
            RC_ASSERT(std::abs(p.out.get(at + d) - clean.out.get(at + d)) <= rounding * largest);
        }
  }));
}
