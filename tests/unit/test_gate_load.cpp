#include "gate_load.h"

#include <cstring>

#include "../support/aligned.h"
#include "files.h"
#include "gate_config.h"
#include "gate_save.h"
#include "safetensors.h"
#include "zip_build.h"

using namespace seer;
using seer::test::bytes_of;
using seer::test::error_of;
using seer::test::get;
using seer::test::put;
using seer::test::TempDir;

namespace {

const std::string golden = SEER_TEST_DATA "/golden/";

std::string_view bytes(const GateMatrix &m) {
  return {static_cast<const char *>(m.data), static_cast<size_t>(m.bytes())};
}

bool same_weights(const GateModel &a, const GateModel &b) {
  if (a.layers.size() != b.layers.size()) return false;
  const auto same = [](const GateMatrix &x, const GateMatrix &y) {
    return x.dtype == y.dtype && x.heads == y.heads && x.in == y.in && x.out == y.out && bytes(x) == bytes(y);
  };
  for (size_t i = 0; i < a.layers.size(); ++i)
    if (!same(a.layers[i].wq, b.layers[i].wq) || !same(a.layers[i].wk, b.layers[i].wk)) return false;
  return true;
}

// config.json of a small model with more keys.
std::string config_text(const std::string &more = "") {
  return R"({"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "seerattn_gate_hidden_size": 4)" +
         (more.empty() ? "" : ", " + more) + "}";
}

// Weights of that model in the single form: element i of layer l is 1000 l + i.
struct Tensors {
  std::vector<std::vector<float>> data;
  std::vector<SafetensorsItem> items;
  Tensors &add(const std::string &name, std::vector<int64_t> shape, float base, DType dtype = DType::f32) {
    int64_t n = 1;
    for (int64_t e : shape) n *= e;
    auto &values = data.emplace_back(size_t(n));
    for (int64_t i = 0; i < n; ++i) values[size_t(i)] = base + float(i);
    items.push_back({name, dtype, std::move(shape), values.data()});
    return *this;
  }
};
Tensors single_form(int32_t layers = 2) {
  Tensors t;
  for (int32_t l = 0; l < layers; ++l) t.add(gate_weight_name(l, 'k'), {4, 12, 4}, 1000.0f * float(l));
  return t;
}

const float *f32(const GateMatrix &m) { return static_cast<const float *>(m.data); }

}  // namespace

TEST_CASE("gate_load: every golden checkpoint") {
  size_t loaded = 0;
  for (const auto &entry : std::filesystem::directory_iterator(golden)) {
    if (!entry.is_directory()) continue;
    CAPTURE(entry.path().string());
    const GateModel model = load_gates_dir(entry.path().string());
    CHECK(model.layers.size() == size_t(model.config.layers));
    for (const auto &layer : model.layers) {
      CHECK(layer.wk.dtype == DType::bf16);
      CHECK(layer.wk.heads == model.config.k_weight_heads());
      CHECK(layer.wk.in == model.config.head_dim * pool_count(model.config.k_pool));
      CHECK(layer.wk.out == model.config.gate_dim);
      CHECK(layer.wq.present() == !model.config.single());
      CHECK(reinterpret_cast<uintptr_t>(layer.wk.data) % 64 == 0);
    }
    ++loaded;
  }
  CHECK(loaded == 10);
}

TEST_CASE("gate_load: .pth and .safetensors of a checkpoint hold the same") {
  TempDir dir;
  std::filesystem::copy(golden + "llama-threshold/config.json", dir.str());
  std::filesystem::copy(golden + "llama-threshold/attn_gate_weights.pth", dir.str());
  const GateModel pth = load_gates_dir(dir.str()), safe = load_gates_dir(golden + "llama-threshold");
  CHECK(same_weights(pth, safe));
  CHECK(bytes(pth.layers[0].wk) != bytes(pth.layers[1].wk));
  const std::string config = get(golden + "llama-threshold/config.json");
  for (const char *file : {"attn_gate_weights.pth", "attn_gate_weights.safetensors"})
    CHECK(same_weights(pth, load_gates_memory(config, bytes_of(get(golden + "llama-threshold/" + file)))));
}

TEST_CASE("gate_load: every form of torch.save gives the same weights") {
  const std::string config = get(SEER_TEST_DATA "/hostile/config.json");
  size_t loaded = 0;
  for (const auto &entry : std::filesystem::directory_iterator(SEER_TEST_DATA "/hostile")) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("good-")) continue;
    CAPTURE(name);
    const GateModel model = load_gates_memory(config, bytes_of(get(entry.path().string())));
    REQUIRE(model.layers.size() == 2);
    for (int l = 0; l < 2; ++l) {
      const GateMatrix &wk = model.layers[size_t(l)].wk;
      bool same = true;
      for (int i = 0; i < 192; ++i) {
        const float x = wk.dtype == DType::f16 ? to_f32(static_cast<const f16 *>(wk.data)[i]) : f32(wk)[i];
        same = same && x == 1000.0f * float(l) + float(i);
      }
      CHECK(same);
    }
    ++loaded;
  }
  CHECK(loaded == 14);
}

TEST_CASE("gate_load: .pth files that are refused") {
  const std::string config = get(SEER_TEST_DATA "/hostile/config.json");
  const struct {
    const char *file;
    Status status;
    const char *text;
  } bad[] = {
      {"os-system", Status::unsafe_file, "wants \"posix.system\""},
      {"set", Status::unsafe_file, "wants \"__builtin__.set\""},
      {"old-format", Status::format, "re-save"},
      {"one-tensor", Status::format, "not a dict"},
      {"list", Status::format, "not a dict"},
      {"int-key", Status::format, "a dict key that is not a string"},
      {"double", Status::model_mismatch, "is \"DoubleStorage\", expected F32, F16 or BF16"},
      {"expanded", Status::format, "repeats elements"},
      {"missing-layer", Status::model_mismatch, "model.layers.1.self_attn.attn_gate.mask_linear_k.weight is missing"},
      {"shape", Status::model_mismatch, "is [12, 4, 4], config.json needs [4, 12, 4]"},
      {"scalar", Status::model_mismatch, "is [], config.json needs [4, 12, 4]"},
  };
  for (const auto &b : bad) {
    CAPTURE(b.file);
    const std::string image = get(SEER_TEST_DATA "/hostile/bad-" + std::string(b.file) + ".pth");
    CHECK_FAILS(b.status, b.text, load_gates_memory(config, bytes_of(image)));
  }
}

TEST_CASE("gate_load: the order in which weights are looked for") {
  TempDir dir;
  put(dir / "config.json", config_text());
  CHECK_FAILS(Status::io, "no gate weights", load_gates_dir(dir.str()));
  const auto first = [](const GateModel &m) { return f32(m.layers[0].wk)[0]; };
  const auto write = [&](const std::string &name, float base) {
    Tensors t;
    for (int l = 0; l < 2; ++l) t.add(gate_weight_name(l, 'k'), {4, 12, 4}, base);
    t.add("model.embed_tokens.weight", {3}, 0).add("lm_head.weight", {1}, 0);
    write_safetensors(dir / name, t.items);
  };
  write("model.safetensors", 5);
  CHECK(first(load_gates_dir(dir.str())) == 5);

  write("model-00001-of-00001.safetensors", 4);
  CHECK_FAILS(Status::format, "is in ", load_gates_dir(dir.str()));  // both files have it
  std::filesystem::remove(dir / "model.safetensors");
  write("indexed.safetensors", 3);
  put(dir / "model.safetensors.index.json", R"({"weight_map": {"lm_head.weight": "not-there.safetensors",
      "model.layers.0.self_attn.attn_gate.mask_linear_k.weight": "indexed.safetensors"}})");
  CHECK(first(load_gates_dir(dir.str())) == 3);

  std::filesystem::copy(SEER_TEST_DATA "/hostile/good-protocol-2.pth", dir / "attn_gate_weights.pth");
  CHECK(first(load_gates_dir(dir.str())) == 0);
  LoadOptions safe;
  safe.safetensors_only = true;
  CHECK(first(load_gates_dir(dir.str(), safe)) == 3);

  write("attn_gate_weights.safetensors", 2);
  CHECK(first(load_gates_dir(dir.str())) == 2);
}

TEST_CASE("gate_load: gates spread over shards") {
  TempDir dir;
  put(dir / "config.json", config_text());
  Tensors t = single_form();
  write_safetensors(dir / "model-00001-of-00002.safetensors", {t.items[0]});
  CHECK_FAILS(Status::model_mismatch, "model*.safetensors: model.layers.1.", load_gates_dir(dir.str()));
  write_safetensors(dir / "model-00002-of-00002.safetensors", {t.items[1]});
  const GateModel model = load_gates_dir(dir.str());
  CHECK(f32(model.layers[0].wk)[7] == 7);
  CHECK(f32(model.layers[1].wk)[7] == 1007);
}

TEST_CASE("gate_load: an index that leads elsewhere") {
  TempDir dir;
  put(dir / "config.json", config_text());
  const auto with = [&](const std::string &shard) {
    put(dir / "model.safetensors.index.json",
        R"({"weight_map": {"model.layers.0.self_attn.attn_gate.mask_linear_k.weight": )" + shard + "}}");
    return error_of([&] { load_gates_dir(dir.str()); });
  };
  for (const char *shard : {R"("../x.safetensors")", R"("/etc/passwd")", R"("a/b")", R"("..")", R"(".")", R"("")",
                            R"("a\u0000b")", R"("a\\b")", "7", "null"}) {
    const Error error = with(shard);
    CHECK_MESSAGE(error.status() == Status::format, shard);
    CHECK_MESSAGE(std::string(error.what()).find("expected the plain name") != std::string::npos, error.what());
  }
  CHECK(with("\"gone.safetensors\"").status() == Status::io);
  put(dir / "model.safetensors.index.json", R"({"weight_map": {}})");
  CHECK_FAILS(Status::model_mismatch, "index.json: model.layers.0.", load_gates_dir(dir.str()));
  put(dir / "model.safetensors.index.json", "{}");
  CHECK_FAILS(Status::format, "key \"weight_map\" is missing", load_gates_dir(dir.str()));
}

TEST_CASE("gate_load: files that cannot be read") {
  TempDir dir;
  CHECK_FAILS(Status::io, "/config.json: cannot be opened", load_gates_dir(dir.str()));
  CHECK_FAILS(Status::io, "cannot be opened", load_gates_dir(dir / "none"));
  put(dir / "config.json", config_text());
  std::filesystem::create_directory(dir / "attn_gate_weights.safetensors");
  CHECK_FAILS(Status::io, "not a regular file", load_gates_dir(dir.str()));
  std::filesystem::remove(dir / "attn_gate_weights.safetensors");
  write_safetensors(dir / "attn_gate_weights.safetensors", single_form().items);
  LoadOptions small;
  small.max_file_bytes = 1000;
  CHECK_FAILS(Status::format, "at most 1000", load_gates_dir(dir.str(), small));
  small.max_file_bytes = 1 << 20;
  CHECK_NOTHROW(load_gates_dir(dir.str(), small));
  put(dir / "config.json", std::string((16 << 20) + 1, ' '));
  CHECK_FAILS(Status::format, "config.json: 16777217 bytes", load_gates_dir(dir.str()));
}

TEST_CASE("gate_load: views of one storage may not add up to more than the limit") {
  constexpr int layers = 100;
  std::vector<std::pair<std::string, std::string>> views;
  for (int l = 0; l < layers; ++l)
    views.emplace_back(gate_weight_name(l, 'k'), seer::test::pkl::tensor("0", 192, 0, {4, 12, 4}, {48, 4, 1}));
  const std::string image =
      seer::test::ZipFile{{{"x/data.pkl", seer::test::pkl::dict(views)}, {"x/data/0", std::string(768, '\0')}}}.build();
  const std::string config = R"({"num_hidden_layers": 100, "num_attention_heads": 4, "head_dim": 4,
      "seerattn_gate_hidden_size": 4})";
  LoadOptions options;
  options.max_file_bytes = layers * 768;
  REQUIRE(image.size() < options.max_file_bytes - 1);
  CHECK_NOTHROW(load_gates_memory(config, bytes_of(image), options));
  options.max_file_bytes -= 1;
  CHECK_FAILS(Status::format, "76800 bytes of gates, at most 76799",
              load_gates_memory(config, bytes_of(image), options));
}

TEST_CASE("gate_load: weights that do not fit the configuration") {
  const auto load = [](const Tensors &t, const std::string &config) {
    TempDir dir;
    put(dir / "config.json", config);
    write_safetensors(dir / "attn_gate_weights.safetensors", t.items);
    return load_gates_dir(dir.str());
  };
  CHECK_NOTHROW(load(single_form(), config_text()));
  CHECK_FAILS(
      Status::model_mismatch, "model.layers.2.self_attn.attn_gate.mask_linear_k.weight is missing",
      load(single_form(),
           R"({"num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 4, "seerattn_gate_hidden_size": 4})"));
  CHECK_FAILS(Status::model_mismatch, "is [4, 12, 4], config.json needs [4, 8, 4]",
              load(single_form(), config_text(R"("seerattn_gate_type": "Qavg_Kmaxmin")")));
  CHECK_FAILS(Status::model_mismatch, "mask_linear_q.weight is missing",
              load(single_form(), config_text(R"("seerattn_gate_force_double": true)")));
  Tensors both = single_form();
  both.add(gate_weight_name(0, 'q'), {4, 4, 4}, 0);
  CHECK_FAILS(Status::model_mismatch, "mask_linear_q.weight is there", load(both, config_text()));
  Tensors ints;
  for (int l = 0; l < 2; ++l) ints.add(gate_weight_name(l, 'k'), {4, 12, 4}, 0, DType::i32);
  CHECK_FAILS(Status::model_mismatch, "is \"I32\", expected F32, F16 or BF16", load(ints, config_text()));
  CHECK_FAILS(Status::format, "config: not JSON", load_gates_memory("{", bytes_of("")));
  CHECK_FAILS(Status::format, "weights: 0 bytes", load_gates_memory(config_text(), bytes_of("")));
}

TEST_CASE("gate_load: a range of layers and a share of heads") {
  TempDir dir;
  for (const bool twice : {false, true}) {
    CAPTURE(twice);
    put(dir / "config.json", config_text(twice ? R"("seerattn_gate_force_double": true)" : ""));
    Tensors t;
    for (int l = 0; l < 2; ++l) {
      t.add(gate_weight_name(l, 'k'), {twice ? 2 : 4, 12, 4}, 1000.0f * float(l));
      if (twice) t.add(gate_weight_name(l, 'q'), {4, 4, 4}, 1000.0f * float(l) + 500.0f);
    }
    write_safetensors(dir / "attn_gate_weights.safetensors", t.items);
    LoadOptions options;
    options.first_layer = 1;
    options.first_kv_head = 1;
    const GateModel model = load_gates_dir(dir.str(), options);
    CHECK(model.first_layer == 1);
    CHECK(model.first_kv_head == 1);
    CHECK(model.config.layers == 2);
    CHECK(model.config.kv_heads == 1);
    CHECK(model.config.q_heads == 2);
    REQUIRE(model.layers.size() == 1);
    // KV head 1 owns query heads 2 and 3.
    CHECK(model.layers[0].wk.heads == (twice ? 1 : 2));
    CHECK(f32(model.layers[0].wk)[0] == 1000 + 48 * (twice ? 1 : 2));
    if (twice) CHECK(f32(model.layers[0].wq)[0] == 1500 + 2 * 16);
    if (twice) CHECK(model.layers[0].wq.heads == 2);
  }
  // The same share of a .pth, whose views are strided.
  const std::string config = get(SEER_TEST_DATA "/hostile/config.json");
  LoadOptions options;
  options.first_kv_head = 1;
  options.kv_head_count = 1;
  for (const char *name : {"protocol-2", "permuted", "every-other-row"}) {
    const std::string image = get(SEER_TEST_DATA "/hostile/good-" + std::string(name) + ".pth");
    const GateModel model = load_gates_memory(config, bytes_of(image), options);
    CHECK(f32(model.layers[1].wk)[0] == 1096);
    CHECK(f32(model.layers[1].wk)[95] == 1191);
  }
  const auto with = [&](int32_t first_layer, int32_t layers, int32_t first_head, int32_t heads) {
    LoadOptions o;
    o.first_layer = first_layer, o.layer_count = layers, o.first_kv_head = first_head, o.kv_head_count = heads;
    return error_of([&] { load_gates_dir(dir.str(), o); });
  };
  CHECK(with(0, 2, 0, 2).status() == Status::ok);
  for (const Error &error : {with(2, 0, 0, 0), with(-1, 0, 0, 0), with(1, 2, 0, 0), with(0, -1, 0, 0), with(0, 0, 2, 0),
                             with(0, 0, 1, 2), with(0, INT32_MAX, 0, 0)})
    CHECK_MESSAGE(error.status() == Status::invalid_argument, error.what());
}

TEST_CASE("gate_load: progress counts bytes and may cancel") {
  LoadOptions options;
  std::vector<uint64_t> seen;
  uint64_t total = 0;
  options.progress = [&](uint64_t done, uint64_t all) {
    seen.push_back(done);
    total = all;
  };
  load_gates_dir(golden + "llama-threshold", options);
  CHECK(seen == std::vector<uint64_t>{0, 393216, 786432});
  CHECK(total == 786432);
  options.progress = [](uint64_t done, uint64_t) {
    if (done) fail(Status::cancelled, "stop");
  };
  CHECK_FAILS(Status::cancelled, "stop", load_gates_dir(golden + "llama-threshold", options));
}

TEST_CASE("gate_load: the caller's allocator") {
  struct Counter {
    uint64_t held = 0;
    bool empty = false;
  } counter;
  LoadOptions options;
  options.allocator.user = &counter;
  options.allocator.alloc = [](void *user, uint64_t size, uint64_t align) -> void * {
    auto &c = *static_cast<Counter *>(user);
    if (c.empty) return nullptr;
    c.held += size;
    return aligned_get(size, align);
  };
  options.allocator.free = [](void *user, void *p, uint64_t size) {
    static_cast<Counter *>(user)->held -= size;
    aligned_put(p);
  };
  {
    const GateModel model = load_gates_dir(golden + "llama-threshold", options);
    CHECK(counter.held == 786432);
    options.progress = [](uint64_t done, uint64_t) {
      if (done) fail(Status::cancelled, "stop");
    };
    CHECK_FAILS(Status::cancelled, "stop", load_gates_dir(golden + "llama-threshold", options));
    CHECK(counter.held == 786432);
  }
  CHECK(counter.held == 0);
  counter.empty = true;
  CHECK_FAILS(Status::out_of_memory, "no 786432 bytes", load_gates_dir(golden + "llama-threshold", options));
}

TEST_CASE("gate_load: from arrays") {
  const GateConfig config = parse_gate_config(config_text(), "c");
  std::vector<float> data(2 * 192);
  for (size_t i = 0; i < data.size(); ++i) data[i] = float(i);
  std::vector<LayerArrays> layers(2);
  for (size_t l = 0; l < 2; ++l) layers[l].wk = {DType::f32, {4, 12, 4}, {}, data.data() + l * 192};
  const GateModel model = make_gates(config, layers);
  CHECK(f32(model.layers[1].wk)[5] == 197);
  CHECK(model.layers[1].wk.data != layers[1].wk.data);

  // rows of four inside rows of eight, heads swapped with rows
  layers[0].wk = {DType::f32, {4, 12, 4}, {8, 24, 1}, data.data()};
  const GateModel strided = make_gates(config, layers);
  CHECK(f32(strided.layers[0].wk)[(2 * 12 + 3) * 4 + 1] == 2 * 8 + 3 * 24 + 1);

  const auto with = [&](auto &&change) {
    std::vector<LayerArrays> l = layers;
    change(l);
    return error_of([&] { make_gates(config, l); });
  };
  using L = std::vector<LayerArrays>;
  const std::pair<Error, const char *> bad[] = {
      {with([](L &l) { l.pop_back(); }), "1 layers of arrays, the configuration has 2"},
      {with([](L &l) { l[1].wk.shape[0] = 2; }), "layers[1].wk is [2, 12, 4], the configuration needs [4, 12, 4]"},
      {with([](L &l) { l[1].wk.dtype = DType::i32; }), "layers[1].wk is i32"},
      {with([](L &l) { l[1].wk = {}; }), "layers[1].wk is absent"},
      {with([](L &l) { l[1].wq = l[1].wk; }), "layers[1].wq is given"},
      {with([](L &l) { l[0].wk.stride[2] = 2; }), "strides [8, 24, 2]"},
  };
  const Status expected[] = {Status::invalid_argument, Status::shape, Status::dtype, Status::invalid_argument,
                             Status::invalid_argument, Status::stride};
  for (size_t i = 0; i < std::size(bad); ++i) {
    CHECK_MESSAGE(bad[i].first.status() == expected[i], bad[i].first.what());
    CHECK_MESSAGE(std::string(bad[i].first.what()).find(bad[i].second) != std::string::npos, bad[i].first.what());
  }
}
