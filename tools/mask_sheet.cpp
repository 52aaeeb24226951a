#include "mask_sheet.h"

#include <algorithm>
#include <cmath>

#include "block_mask.h"
#include "report.h"
#include "status.h"

namespace seer::tool {
namespace {

constexpr Color paper = {16, 18, 24}, above_diagonal = {24, 27, 35}, line = {74, 80, 96}, ink = {232, 234, 240},
                faint = {160, 166, 180};

// Dropped blocks stay in dark blues, kept ones in bright ambers. The lightest dropped block is darker than the darkest
// kept one, so that the mask also reads in greyscale and with any colour vision.
const ColorScale &dropped_scale() {
  static const ColorScale scale({{20, 24, 48}, {34, 52, 104}, {52, 98, 150}});
  return scale;
}
const ColorScale &kept_scale() {
  static const ColorScale scale({{226, 132, 38}, {246, 178, 70}, {255, 236, 170}});
  return scale;
}

// The range of log10(probability) that the colours span: its top is the largest, its bottom the 2nd percentile.
struct Range {
  double low = -4, high = 0;
  double at(double prob) const { return prob > 0 ? (std::log10(prob) - low) / (high - low) : 0.0; }
};

class Sheet {
public:
  explicit Sheet(const MaskSheet &sheet)
      : s_(sheet),
        rows_((s_.q_len + s_.block - 1) / s_.block),
        cols_((s_.k_len + s_.block - 1) / s_.block),
        panels_(static_cast<int>(s_.batch * s_.heads)) {
    SEER_REQUIRE(panels_ > 0 && rows_ > 0, Status::shape, "a picture needs at least one head and one token");
    const int64_t longest = std::max(rows_, cols_);
    const int target = panels_ <= 4 ? 360 : panels_ <= 12 ? 288 : 224;
    // Whole pixels per block while they fit; else several blocks share a pixel.
    const int64_t whole = target / longest;
    cell_ = whole > 0 ? static_cast<double>(whole) : static_cast<double>(target) / static_cast<double>(longest);
    width_ = std::max(1, static_cast<int>(std::lround(cell_ * static_cast<double>(cols_))));
    height_ = std::max(1, static_cast<int>(std::lround(cell_ * static_cast<double>(rows_))));
    choose_columns();
    find_range();
  }

  Picture draw() {
    const int grid_width = columns_ * width_ + (columns_ - 1) * gap_x;
    const int wanted =
        std::max({grid_width, Picture::text_width(s_.title, 3), Picture::text_width(s_.subtitle), legend_width});
    const int left = margin + axis_left;
    const int lines = (panels_ + columns_ - 1) / columns_;
    const int grid_top = margin + 3 * 8 + 12 + 16 + 28;
    const int grid_height = lines * (height_ + title_height) + (lines - 1) * gap_y;
    const int axis_bottom = grid_top + grid_height;
    Picture p(left + wanted + margin, axis_bottom + 30 + 26 + 58 + margin, paper);
    p.text(left, margin, s_.title, ink, 3);
    p.text(left, margin + 3 * 8 + 12, s_.subtitle, faint);
    for (int i = 0; i < panels_; ++i) {
      const int column = i % columns_, row = i / columns_;
      const int x = left + column * (width_ + gap_x);
      const int y = grid_top + title_height + row * (height_ + title_height + gap_y);
      panel(p, x, y, i);
      if (column == 0) ticks_down(p, x, y);
      if (i + columns_ >= panels_) ticks_across(p, x, y + height_);
    }
    const int label_width = Picture::text_width("query token");
    p.text_up(margin, grid_top + (grid_height + title_height + label_width) / 2, "query token", faint);
    p.text(left + (grid_width - Picture::text_width("key token")) / 2, axis_bottom + 30, "key token", faint);
    legend(p, left, axis_bottom + 30 + 26 + 8);
    return p;
  }

private:
  static constexpr int margin = 28, axis_left = 92, gap_x = 34, gap_y = 30, title_height = 24, bar = 150;
  static constexpr int legend_width = 840;

  // A sheet about as wide as a screen, whose lines hold whole KV groups if that fits.
  void choose_columns() {
    double best = 1e9;
    for (int c = 1; c <= panels_; ++c) {
      const int lines = (panels_ + c - 1) / c;
      const double aspect = double(c * (width_ + gap_x)) / double(lines * (height_ + title_height + gap_y));
      double cost = std::abs(std::log(aspect / 1.6)) + 0.15 * (lines * c - panels_);
      if (c % s_.group != 0 && s_.group % c != 0) cost += 0.4;
      if (cost < best) best = cost, columns_ = c;
    }
  }

  void find_range() {
    std::vector<float> seen;
    const int64_t offset = s_.k_len - s_.q_len;
    for (int64_t h = 0; h < panels_; ++h)
      for (int64_t i = 0; i < rows_; ++i)
        for (int64_t j = 0; j < causal_blocks(i, s_.q_len, offset, s_.block); ++j)
          if (const float x = s_.probs[(h * rows_ + i) * cols_ + j]; x > 0) seen.push_back(x);
    if (seen.empty()) return;
    const auto low = seen.begin() + static_cast<std::ptrdiff_t>(seen.size() / 50);
    std::nth_element(seen.begin(), low, seen.end());
    range_.low = std::floor(std::log10(static_cast<double>(*low)));
    range_.high =
        std::max(range_.low + 1, std::ceil(std::log10(static_cast<double>(*std::max_element(low, seen.end())))));
  }

  // Several blocks in a pixel show as the largest score among them; kept if any is, in proportion to how many are.
  Color pixel(int panel, int64_t r0, int64_t r1, int64_t c0, int64_t c1) const {
    float dropped = 0, kept = 0;
    int64_t visible = 0, count = 0;
    for (int64_t i = r0; i < r1; ++i) {
      const int64_t limit = std::min(c1, causal_blocks(i, s_.q_len, s_.k_len - s_.q_len, s_.block));
      for (int64_t j = c0; j < limit; ++j) {
        const int64_t at = (panel * rows_ + i) * cols_ + j;
        ++visible;
        if (s_.mask[at])
          ++count, kept = std::max(kept, s_.probs[at]);
        else
          dropped = std::max(dropped, s_.probs[at]);
      }
    }
    if (!visible) return above_diagonal;
    if (!count) return dropped_scale().at(range_.at(dropped));
    const Color k = kept_scale().at(range_.at(kept));
    if (count == visible) return k;
    const Color d = dropped_scale().at(range_.at(dropped));
    const double t = 0.45 + 0.55 * static_cast<double>(count) / static_cast<double>(visible);
    const auto mix = [&](uint8_t a, uint8_t b) {
      return static_cast<uint8_t>(std::lround(std::lerp(double(a), double(b), t)));
    };
    return {mix(d.r, k.r), mix(d.g, k.g), mix(d.b, k.b)};
  }

  void panel(Picture &p, int x, int y, int index) const {
    const bool shared = cell_ < 1;
    // A hairline between blocks, once they are large enough to afford it.
    const bool grid = cell_ >= 6;
    const auto block_of = [&](int px) { return static_cast<int64_t>(px / cell_); };
    for (int py = 0; py < height_; ++py)
      for (int px = 0; px < width_; ++px) {
        const int64_t r = std::min(block_of(py), rows_ - 1), c = std::min(block_of(px), cols_ - 1);
        const int64_t r1 = shared ? std::clamp(block_of(py + 1), r + 1, rows_) : r + 1;
        const int64_t c1 = shared ? std::clamp(block_of(px + 1), c + 1, cols_) : c + 1;
        Color color = pixel(index, r, r1, c, c1);
        const int cell = static_cast<int>(cell_);
        if (grid && (px % cell == cell - 1 || py % cell == cell - 1) && !(color == above_diagonal))
          color = {uint8_t(color.r * 3 / 4), uint8_t(color.g * 3 / 4), uint8_t(color.b * 3 / 4)};
        p.set(x + px, y + py, color);
      }
    p.frame(x - 1, y - 1, width_ + 2, height_ + 2, line);
    p.text(x, y - title_height + 4, caption(index), ink);
  }

  // All panels carry the long caption, or none does.
  std::string caption(int index) const {
    int64_t kept = 0, causal = 0;
    for (int64_t i = 0; i < rows_; ++i) {
      const int64_t limit = causal_blocks(i, s_.q_len, s_.k_len - s_.q_len, s_.block);
      causal += limit;
      for (int64_t j = 0; j < limit; ++j) kept += s_.mask[(index * rows_ + i) * cols_ + j];
    }
    const std::string density = human_percent(static_cast<double>(kept) / static_cast<double>(causal));
    const bool brief = Picture::text_width(s_.batch > 1 ? "seq 00  head 00  density 00.0 %"
                                                        : "head 00  density 00.0 %") > width_ + gap_x - 8;
    std::string text =
        format("head %d  %s%s", static_cast<int>(index % s_.heads), brief ? "" : "density ", density.c_str());
    if (s_.batch > 1) text = format("seq %d  ", static_cast<int>(index / s_.heads)) + text;
    return text;
  }

  // Block borders are multiples of a power of two, so ticks are too; as wide apart as their labels need.
  int64_t tick_step(int64_t tokens, int64_t blocks, int extent, int room) const {
    int64_t step = s_.block;
    while (tokens / step > 4 || place(step, blocks, extent) < room) step *= 2;
    return step;
  }

  // "24k" once all ticks of a long axis are multiples of 1024.
  std::string tick_label(int64_t token) const {
    return s_.k_len >= 16384 && token && token % 1024 == 0 ? format("%lldk", static_cast<long long>(token / 1024))
                                                           : std::to_string(token);
  }

  // Pixel of a token on an axis of `extent` pixels for `blocks` blocks.
  int place(int64_t token, int64_t blocks, int extent) const {
    return static_cast<int>(std::lround(static_cast<double>(token) / static_cast<double>(blocks * s_.block) * extent));
  }

  void ticks_down(Picture &p, int x, int y) const {
    const int64_t first = s_.k_len - s_.q_len;  // queries of a later chunk are named by their position
    const int64_t step = tick_step(s_.q_len, rows_, height_, 2 * Picture::text_height());
    for (int64_t t = 0; t < s_.q_len; t += step) {
      const std::string label = tick_label(first + t);
      const int at = y + place(t, rows_, height_);
      p.fill(x - 7, at, 6, 1, line);
      p.text(x - 12 - Picture::text_width(label), at - (t == 0 ? 1 : 7), label, faint);
    }
  }

  void ticks_across(Picture &p, int x, int y) const {
    const int64_t step = tick_step(s_.k_len, cols_, width_, Picture::text_width(tick_label(s_.k_len)) + 16);
    for (int64_t t = 0; t < s_.k_len; t += step) {
      const std::string label = tick_label(t);
      const int at = x + place(t, cols_, width_), w = Picture::text_width(label);
      const int text_at = t == 0 ? at : at - w / 2;
      p.fill(at, y + 1, 1, 6, line);
      p.text(text_at, y + 10, label, faint);
    }
  }

  void legend(Picture &p, int x, int y) const {
    const auto scale = [&](int at, const std::string &name, const ColorScale &colors) {
      p.text(at, y, name, ink);
      for (int i = 0; i < bar; ++i) p.fill(at + i, y + 20, 1, 12, colors.at(double(i) / (bar - 1)));
      p.frame(at - 1, y + 19, bar + 2, 14, line);
      const std::string low = format("1e%.0f", range_.low),
                        high = range_.high == 0 ? "1" : format("1e%.0f", range_.high);
      p.text(at, y + 38, low, faint);
      p.text(at + bar - Picture::text_width(high), y + 38, high, faint);
    };
    scale(x, "kept blocks", kept_scale());
    scale(x + bar + 50, "dropped blocks", dropped_scale());
    p.text(x + 2 * (bar + 50), y, "colour: gate probability, log scale", faint);
    const auto block = static_cast<int>(s_.block);
    p.text(x + 2 * (bar + 50), y + 20,
           cell_ >= 1 ? format("one cell: a block of %d x %d tokens", block, block)
                      : format("one pixel: %.1f x %.1f blocks of %d tokens", 1 / cell_, 1 / cell_, block),
           faint);
  }

  const MaskSheet &s_;
  int64_t rows_, cols_;
  int panels_;
  double cell_ = 1;  // pixels per block
  int width_ = 0, height_ = 0, columns_ = 1;
  Range range_;
};

}  // namespace

Picture draw_mask_sheet(const MaskSheet &sheet) { return Sheet(sheet).draw(); }

}  // namespace seer::tool
