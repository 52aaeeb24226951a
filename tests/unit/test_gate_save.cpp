#include "gate_save.h"

#if !defined(_WIN32)
#include <sys/resource.h>
#endif

#include <csignal>

#include "files.h"
#include "gate_config.h"
#include "gate_load.h"

using namespace seer;
using seer::test::get;
using seer::test::put;
using seer::test::TempDir;

namespace {

const std::string golden = SEER_TEST_DATA "/golden/";

std::string_view bytes(const GateMatrix &m) {
  return {static_cast<const char *>(m.data), static_cast<size_t>(m.bytes())};
}

void check_equal(const GateModel &a, const GateModel &b) {
  CHECK(gate_config_json(a.config) == gate_config_json(b.config));
  REQUIRE(a.layers.size() == b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    CHECK(a.layers[i].wk.dtype == b.layers[i].wk.dtype);
    CHECK(bytes(a.layers[i].wk) == bytes(b.layers[i].wk));
    CHECK(bytes(a.layers[i].wq) == bytes(b.layers[i].wq));
  }
}

}  // namespace

TEST_CASE("gate_save: every golden checkpoint comes back equal") {
  size_t saved = 0;
  for (const auto &entry : std::filesystem::directory_iterator(golden)) {
    if (!entry.is_directory()) continue;
    CAPTURE(entry.path().string());
    TempDir dir;
    const GateModel model = load_gates_dir(entry.path().string());
    save_gates_dir(model, dir.str());
    CHECK(dir.count() == 2);
    const GateModel again = load_gates_dir(dir.str());
    check_equal(model, again);
    CHECK(again.config.select.threshold == model.config.select.threshold);
    CHECK(again.config.rope.kind == model.config.rope.kind);
    ++saved;
  }
  CHECK(saved == 10);
}

TEST_CASE("gate_save: dtypes of the matrices are kept") {
  GateConfig config = parse_gate_config(R"({"num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 2,
      "seerattn_gate_hidden_size": 2, "seerattn_gate_force_double": true})",
                                        "c");
  const std::vector<float> q = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<f16> k(24);
  for (size_t i = 0; i < k.size(); ++i) k[i] = from_f32<f16>(float(i));
  const std::vector<LayerArrays> layers = {
      {{DType::f32, {2, 2, 2}, {}, q.data()}, {DType::f16, {2, 6, 2}, {}, k.data()}}};
  const GateModel model = make_gates(config, layers);
  TempDir dir;
  save_gates_dir(model, dir.str());
  const GateModel again = load_gates_dir(dir.str());
  check_equal(model, again);
  CHECK(again.layers[0].wq.dtype == DType::f32);
  CHECK(again.layers[0].wk.dtype == DType::f16);
}

TEST_CASE("gate_save: some layers, and a share of heads") {
  TempDir dir;
  LoadOptions options;
  options.first_layer = 1;
  options.layer_count = 2;
  const GateModel part = load_gates_dir(golden + "llama-tail", options);
  save_gates_dir(part, dir.str());
  check_equal(part, load_gates_dir(dir.str(), options));
  CHECK_FAILS(Status::model_mismatch, "model.layers.0.", load_gates_dir(dir.str()));

  LoadOptions rank;
  rank.first_kv_head = 1;
  const GateModel share = load_gates_dir(golden + "double-gate", rank);
  save_gates_dir(share, dir.str());
  const GateModel again = load_gates_dir(dir.str());
  check_equal(share, again);
  CHECK(again.config.kv_heads == 1);
  CHECK(again.config.q_heads == 2);
}

TEST_CASE("gate_save: saving over a checkpoint keeps the keys that are not ours") {
  TempDir dir;
  for (const auto &entry : std::filesystem::directory_iterator(golden + "llama-threshold"))
    std::filesystem::copy(entry.path(), dir.str());
  const GateModel model = load_gates_dir(dir.str());
  save_gates_dir(model, dir.str());
  check_equal(model, load_gates_dir(dir.str()));
  CHECK(get(dir / "config.json").find("SeerAttnLlamaForCausalLM") != std::string::npos);
}

TEST_CASE("gate_save: failure changes nothing and leaves nothing") {
  const GateModel model = load_gates_dir(golden + "llama-threshold");
  TempDir dir;
  CHECK_FAILS(Status::io, "cannot be written", (save_gates_dir(model, dir / "none"), 0));
  CHECK(dir.count() == 0);

  put(dir / "config.json", "not json");
  CHECK_FAILS(Status::format, "config.json: not JSON", (save_gates_dir(model, dir.str()), 0));
  CHECK(get(dir / "config.json") == "not json");
  CHECK(dir.count() == 1);
  std::filesystem::remove(dir / "config.json");

  GateModel bad = model;
  bad.config.block_size = 48;
  CHECK_FAILS(Status::model_mismatch, "gate_block_size is 48", (save_gates_dir(bad, dir.str()), 0));
  bad = model;
  bad.layers[1].wk = {};
  CHECK_FAILS(Status::invalid_argument, "layer 1", (save_gates_dir(bad, dir.str()), 0));
  CHECK(dir.count() == 0);

  std::filesystem::create_directories(dir / "attn_gate_weights.safetensors/in-the-way");
  CHECK_FAILS(Status::io, "rename", (save_gates_dir(model, dir.str()), 0));
  CHECK(dir.count() == 1);
}

#if !defined(_WIN32)  // no limit on the size of files there
TEST_CASE("gate_save: a write that fails half-way") {
  const GateModel model = load_gates_dir(golden + "llama-threshold");
  TempDir dir;
  put(dir / "attn_gate_weights.safetensors", "old");
  put(dir / "config.json", "{}");
  rlimit before;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small = {100'000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  const Error error = seer::test::error_of([&] { save_gates_dir(model, dir.str()); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(error.status() == Status::io);
  CHECK_MESSAGE(std::string(error.what()).find("attn_gate_weights.safetensors: write: ") != std::string::npos,
                error.what());
  CHECK(dir.count() == 2);
  CHECK(get(dir / "attn_gate_weights.safetensors") == "old");
  CHECK(get(dir / "config.json") == "{}");
}
#endif
