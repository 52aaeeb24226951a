// A picture being drawn: pixels, rectangles, text, colour scales, PNG.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace seer::tool {

struct Color {
  uint8_t r = 0, g = 0, b = 0;
  bool operator==(const Color &) const = default;
};

// A scale through colours that are evenly spaced in lightness as seen: interpolated in Oklab (Ottosson 2020).
class ColorScale {
public:
  explicit ColorScale(const std::vector<Color> &stops);
  Color at(double t) const;  // t outside 0..1 is clamped

private:
  std::array<Color, 256> table_;
};

class Picture {
public:
  Picture(int width, int height, Color background);
  int width() const { return width_; }
  int height() const { return height_; }

  void set(int x, int y, Color color);  // outside: ignored
  void fill(int x, int y, int width, int height, Color color);
  void frame(int x, int y, int width, int height, Color color);  // a 1 pixel line around the rectangle's inside

  // Text by its top left corner; scale is the pixels per font unit, capitals are 7 units high. ASCII.
  void text(int x, int y, const std::string &text, Color color, int scale = 2);
  // Rotated to read from bottom to top; (x, y) is its lower left corner as seen.
  void text_up(int x, int y, const std::string &text, Color color, int scale = 2);
  static int text_width(const std::string &text, int scale = 2);
  static int text_height(int scale = 2) { return 8 * scale; }

  std::vector<uint8_t> png() const;
  // Complete or absent: written beside the file, then renamed over it.
  void save_png(const std::string &path) const;

private:
  int width_, height_;
  std::vector<uint8_t> rgb_;
};

}  // namespace seer::tool
