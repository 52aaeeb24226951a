// prefill: one layer's attention through its gate. usage: prefill GATE_FOLDER TENSORS.safetensors [LAYER]
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <seerattn/seerattn.hpp>
#include <string>
#include <vector>

#include "../c/tensors.h"

namespace sa = seerattn;

int main(int argc, char **argv) try {
  if (argc < 3) return std::cerr << "usage: prefill GATE_FOLDER TENSORS.safetensors [LAYER]\n", 2;
  const std::map<std::string, sa::Backend> backends = {{"auto", sa::Backend::automatic},
                                                       {"cuda", sa::Backend::cuda},
                                                       {"vulkan", sa::Backend::vulkan},
                                                       {"cpu", sa::Backend::cpu}};
  const char *backend = std::getenv("SEER_BACKEND");

  std::ifstream stream(argv[2], std::ios::binary);
  std::string file{std::istreambuf_iterator<char>(stream), {}};
  const auto tensor = [&](const char *name) { return sa::Input(find_tensor(file.data(), file.size(), name)); };

  const sa::Context context({.backend = backends.at(backend ? backend : "auto")});
  const sa::Model model = sa::Model::load(context, argv[1]);

  const sa::Input q = tensor("q");
  std::vector<std::byte> out(q.get().size);
  const sa::Stats stats = context.run(sa::Prefill{
      .model = model,
      .layer = argc > 3 ? std::stoi(argv[3]) : 0,
      .q = q,
      .k = tensor("k"),
      .v = tensor("v"),
      .out = sa::Output(q.dtype(), out, q.shape()),
  });

  std::printf("density  %.1f %%\n", 100 * stats.density());
  std::printf("time     %.2f ms\n", static_cast<double>(stats.device_ns) / 1e6);
  std::printf("checksum %08x\n", static_cast<unsigned>(crc32_of(out.data(), out.size())));
} catch (const std::exception &e) {
  std::cerr << e.what() << '\n';
  return 1;
}
