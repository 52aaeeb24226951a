// The subcommands. Each adds itself to the parser; its callback runs it and throws Error where it fails.
#pragma once
#include <CLI/CLI.hpp>

namespace seer::tool {

// What a shell sees.
enum Exit : int {
  exit_ok = 0,
  exit_failed = 1,  // a computation, a file or a check failed
  exit_usage = 2,   // the command line is wrong, or `check` found nothing to check
};

// `exit_code` is what main returns if the callback comes back.
void add_devices(CLI::App &app, int &exit_code);
void add_info(CLI::App &app, int &exit_code);
void add_prefill(CLI::App &app, int &exit_code);
void add_check(CLI::App &app, int &exit_code);
void add_convert(CLI::App &app, int &exit_code);
void add_gate_init(CLI::App &app, int &exit_code);
void add_bench(CLI::App &app, int &exit_code);

}  // namespace seer::tool
