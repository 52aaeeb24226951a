// The command line of the check-and-bench harness (check.h), and which backends it runs on.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "check.h"

int main(int argc, char **argv) {
  using namespace seer;
  using namespace seer::test;
  Options options;
  CLI::App app{"Checks the kernels of every backend against the formulas, and times them."};
  app.add_option("--test", options.stage, "Only this stage: pool, project, score, select, attend")
      ->check(CLI::IsMember({"pool", "project", "score", "select", "attend"}));
  app.add_option("--function", options.function, "Only functions whose name contains this; --list names them");
  app.add_option("--backend", options.backend, "Only this backend: cuda, vulkan, cpu; or ref, the reference kernels");
  app.add_flag("--bench", options.bench, "Time each function as well");
  app.add_flag("--list", options.list, "List the functions and run none");
  app.add_option("--seed", options.seed, "Seed of the inputs")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  blame_crashes();

  std::vector<Target> targets;
  bool found = options.list;
  const auto wanted = [&](const std::string &name) { return options.backend.empty() || options.backend == name; };
  if (wanted("ref") || options.bench) {
    DeviceParams params;
    params.reference = true;
    targets.push_back({"ref", create_device(BackendKind::cpu, params)});
    found |= wanted("ref");
  }
  for (const BackendFns *fns : backends()) {
    if (!wanted(fns->name)) continue;
    if (fns->device_count() == 0) {
      if (!options.list) std::printf("SKIPPED backend %s: it has no device here\n", fns->name);
      continue;
    }
    if (options.backend.empty() && fns->not_automatic) {
      if (const std::string why = fns->not_automatic(0); !why.empty()) {
        if (!options.list) std::printf("SKIPPED backend %s unless asked for: %s\n", fns->name, why.c_str());
        continue;
      }
    }
    targets.push_back({fns->name, create_device(fns->kind, {})});
    found = true;
    const DeviceInfo &info = targets.back().device->info;
    if (!options.list) std::printf("backend %s: %s (%s)\n", fns->name, info.name.c_str(), info.detail.c_str());
  }
  if (!found) {
    std::printf("SKIPPED: no backend %s here\n", options.backend.c_str());
    return 77;
  }

  Checker checker(options, std::move(targets));
  check_pool(checker);
  check_project(checker);
  check_vectors(checker);
  check_score(checker);
  check_select(checker);
  check_attend(checker);
  return checker.finish();
}
