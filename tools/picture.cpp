#include "picture.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#include <stb/stb_easy_font.h>
#include <stb/stb_image_write.h>

#include "atomic_file.h"
#include "status.h"

namespace seer::tool {
namespace {

using Lab = std::array<double, 3>;

double to_linear(uint8_t c) {
  const double x = c / 255.0;
  return x <= 0.04045 ? x / 12.92 : std::pow((x + 0.055) / 1.055, 2.4);
}

uint8_t to_srgb(double x) {
  x = std::clamp(x, 0.0, 1.0);
  const double y = x <= 0.0031308 ? 12.92 * x : 1.055 * std::pow(x, 1 / 2.4) - 0.055;
  return static_cast<uint8_t>(std::lround(255 * y));
}

Lab to_oklab(Color c) {
  const double r = to_linear(c.r), g = to_linear(c.g), b = to_linear(c.b);
  const double l = std::cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const double m = std::cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const double s = std::cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return {0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
          1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
          0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s};
}

Color from_oklab(const Lab &c) {
  const auto cube = [](double x) { return x * x * x; };
  const double l = cube(c[0] + 0.3963377774 * c[1] + 0.2158037573 * c[2]);
  const double m = cube(c[0] - 0.1055613458 * c[1] - 0.0638541728 * c[2]);
  const double s = cube(c[0] - 0.0894841775 * c[1] - 1.2914855480 * c[2]);
  return {to_srgb(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
          to_srgb(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
          to_srgb(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)};
}

// What stb_easy_font_print emits: a quad is four of these.
struct Vertex {
  float x, y, z;
  uint8_t color[4];
};

// Calls box(x0, y0, x1, y1) in font units for every stroke of the text.
template <class F>
void strokes(const std::string &text, F &&box) {
  std::string copy = text;
  std::vector<Vertex> vertices(4 * (16 * copy.size() + 1));
  const int quads = stb_easy_font_print(0, 0, copy.data(), nullptr, vertices.data(),
                                        static_cast<int>(vertices.size() * sizeof(Vertex)));
  for (int i = 0; i < quads; ++i) {
    const Vertex &a = vertices[static_cast<size_t>(i) * 4], &c = vertices[static_cast<size_t>(i) * 4 + 2];
    box(static_cast<int>(a.x), static_cast<int>(a.y), static_cast<int>(c.x), static_cast<int>(c.y));
  }
}

}  // namespace

ColorScale::ColorScale(const std::vector<Color> &stops) {
  std::vector<Lab> lab;
  for (Color c : stops) lab.push_back(to_oklab(c));
  for (size_t i = 0; i < table_.size(); ++i) {
    const double position = static_cast<double>(i) / 255.0 * static_cast<double>(lab.size() - 1);
    const size_t below = std::min(static_cast<size_t>(position), lab.size() - 1);
    const size_t above = std::min(below + 1, lab.size() - 1);
    const double t = position - static_cast<double>(below);
    Lab mixed;
    for (size_t k = 0; k < 3; ++k) mixed[k] = std::lerp(lab[below][k], lab[above][k], t);
    table_[i] = from_oklab(mixed);
  }
}

Color ColorScale::at(double t) const { return table_[static_cast<size_t>(std::lround(255 * std::clamp(t, 0.0, 1.0)))]; }

Picture::Picture(int width, int height, Color background)
    : width_(width), height_(height), rgb_(static_cast<size_t>(width) * static_cast<size_t>(height) * 3) {
  fill(0, 0, width, height, background);
}

void Picture::set(int x, int y, Color color) {
  if (x < 0 || y < 0 || x >= width_ || y >= height_) return;
  uint8_t *p = &rgb_[(static_cast<size_t>(y) * static_cast<size_t>(width_) + static_cast<size_t>(x)) * 3];
  p[0] = color.r, p[1] = color.g, p[2] = color.b;
}

void Picture::fill(int x, int y, int width, int height, Color color) {
  for (int j = y; j < y + height; ++j)
    for (int i = x; i < x + width; ++i) set(i, j, color);
}

void Picture::frame(int x, int y, int width, int height, Color color) {
  fill(x, y, width, 1, color);
  fill(x, y + height - 1, width, 1, color);
  fill(x, y, 1, height, color);
  fill(x + width - 1, y, 1, height, color);
}

void Picture::text(int x, int y, const std::string &text, Color color, int scale) {
  strokes(text, [&](int x0, int y0, int x1, int y1) {
    fill(x + x0 * scale, y + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale, color);
  });
}

void Picture::text_up(int x, int y, const std::string &text, Color color, int scale) {
  strokes(text, [&](int x0, int y0, int x1, int y1) {
    fill(x + y0 * scale, y - x1 * scale, (y1 - y0) * scale, (x1 - x0) * scale, color);
  });
}

int Picture::text_width(const std::string &text, int scale) {
  std::string copy = text;
  return stb_easy_font_width(copy.data()) * scale;
}

std::vector<uint8_t> Picture::png() const {
  std::vector<uint8_t> bytes;
  const auto append = [](void *user, void *data, int size) {
    auto &out = *static_cast<std::vector<uint8_t> *>(user);
    const auto *begin = static_cast<const uint8_t *>(data);
    out.insert(out.end(), begin, begin + size);
  };
  SEER_REQUIRE(stbi_write_png_to_func(append, &bytes, width_, height_, 3, rgb_.data(), width_ * 3),
               Status::out_of_memory, "a picture of %d x %d pixels does not fit in memory", width_, height_);
  return bytes;
}

void Picture::save_png(const std::string &path) const {
  const std::vector<uint8_t> bytes = png();
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

}  // namespace seer::tool
