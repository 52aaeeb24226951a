// seer: the command. One subcommand per file, seer_<command>.cpp.
#include <algorithm>
#include <cstdio>
#include <new>

#include "command.h"
#include "report.h"
#include "status.h"

namespace {

constexpr const char *about =
    "Learned block-sparse attention (SeerAttention) from the command line.\n"
    "Small trained gates predict which blocks of the attention matrix matter; only those are computed.";

constexpr const char *closing =
    "First steps:\n"
    "  seer devices                                    what this machine can compute on\n"
    "  seer info MODEL_DIR                             what gates a folder holds\n"
    "  seer prefill qkv.safetensors --model MODEL_DIR --layer 0 --compare-dense --mask-png mask.png\n"
    "\n"
    "Exit codes: 0 done; 1 something failed, said on stderr; 2 wrong usage, or nothing to check.\n"
    "Each command has its own --help with an example.";

int run(int argc, char **argv) {
  using namespace seer::tool;
  CLI::App app(about, "seer");
  app.allow_windows_style_options(false);  // the same command line everywhere; "/name" is a path
  app.footer(closing);
  app.require_subcommand(1);
  app.set_version_flag("--version", [] { return "seer " + build_json()["version"].get<std::string>(); });
  int exit_code = exit_ok;
  add_devices(app, exit_code);
  add_info(app, exit_code);
  add_prefill(app, exit_code);
  add_check(app, exit_code);
  add_convert(app, exit_code);
  add_gate_init(app, exit_code);
  add_bench(app, exit_code);
  const auto commands = app.get_subcommands([](CLI::App *) { return true; });
  const auto is_first = [&](const CLI::App *command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && std::none_of(commands.begin(), commands.end(), is_first)) {
    std::fprintf(stderr, "seer: no command %s\nTry: seer --help\n", argv[1]);
    return exit_usage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success &request) {
    return app.exit(request);  // --help, --version
  } catch (const CLI::ParseError &error) {
    std::fprintf(stderr, "seer: %s\n", error.what());
    const auto chosen = app.get_subcommands();
    std::fprintf(stderr, "Try: seer %s--help\n", chosen.empty() ? "" : (chosen.front()->get_name() + " ").c_str());
    return exit_usage;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char **argv) {
  try {
    return run(argc, argv);
  } catch (const seer::Error &error) {
    std::fprintf(stderr, "seer: %s\n", error.what());
  } catch (const std::bad_alloc &) {
    std::fprintf(stderr, "seer: out of memory\n");
  } catch (const std::exception &error) {
    std::fprintf(stderr, "seer: %s\n", error.what());
  }
  return seer::tool::exit_failed;
}
