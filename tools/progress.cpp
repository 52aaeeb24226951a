#include "progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace seer::tool {
namespace {

constexpr auto first_draw = std::chrono::milliseconds(300);  // quicker work needs no bar
constexpr auto redraw = std::chrono::milliseconds(80);
constexpr int cells = 30;

}  // namespace

Progress::Progress(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) != 0), start_(Clock::now()), drawn_(start_) {}

Progress::~Progress() {
  if (visible_) std::fputs("\r\033[K", stderr);
}

void Progress::update(uint64_t done, uint64_t total) {
  if (!terminal_ || total == 0) return;
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  if (now - start_ < first_draw || now - drawn_ < redraw) return;
  drawn_ = now;
  visible_ = true;
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const int full = static_cast<int>(share * cells);
  std::string bar(static_cast<size_t>(full), '#');
  bar.resize(cells, '.');
  const double spent = std::chrono::duration<double>(now - start_).count();
  std::fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %.0f s left", label_.c_str(), bar.c_str(), 100 * share,
               share > 0 ? spent * (1 - share) / share : 0.0);
  std::fflush(stderr);
}

int32_t Progress::callback(void *user, uint64_t done, uint64_t total) {
  static_cast<Progress *>(user)->update(done, total);
  return 0;
}

}  // namespace seer::tool
