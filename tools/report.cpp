#include "report.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "api.h"
#include "gate.h"

namespace seer::tool {

std::string format(const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  const int n = std::vsnprintf(nullptr, 0, format, args);
  va_end(args);
  std::string text(static_cast<size_t>(std::max(n, 0)), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  return text;
}

std::string human_time(double s) {
  if (s < 0.9995e-3) return format("%.3g us", s * 1e6);
  if (s < 0.9995) return format("%.3g ms", s * 1e3);
  return s < 999.5 ? format("%.3g s", s) : format("%.0f s", s);
}

std::string human_bytes(uint64_t bytes) {
  const char *units[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(units)) value /= 1000, ++unit;
  return format("%.3g %s", value, units[unit]);
}

std::string human_percent(double share) {
  const double percent = 100 * share;
  return percent >= 0.9995 || percent == 0 ? format("%.1f %%", percent) : format("%.2g %%", percent);
}

std::string human_select(const seer_select_spec &s) {
  std::string text;
  switch (s.method) {
    case SEER_SELECT_THRESHOLD: text = format("threshold %g", s.threshold); break;
    case SEER_SELECT_RATIO: text = format("ratio %g", s.ratio); break;
    case SEER_SELECT_BUDGET: text = format("budget of %lld tokens", static_cast<long long>(s.token_budget)); break;
    case SEER_SELECT_ALL: return "all blocks";
    default: text = "as the model says"; break;
  }
  const char *separator = "; always kept: ";
  const auto keeps = [&](const std::string &what) {
    text += separator + what;
    separator = ", ";
  };
  if (s.flags & SEER_SELECT_KEEP_FIRST) keeps("first block");
  if (s.flags & SEER_SELECT_KEEP_DIAGONAL) keeps("diagonal");
  if (s.last_dense_rows > 0)
    keeps(s.last_dense_rows == 1 ? std::string("last row") : format("last %d rows", s.last_dense_rows));
  return text;
}

std::string gate_type(int32_t q_pool, int32_t k_pool) {
  return gate_type_name(static_cast<uint32_t>(q_pool), static_cast<uint32_t>(k_pool));
}

std::string Table::text() const {
  std::vector<size_t> width;
  for (const auto &row : rows_)
    for (size_t c = 0; c < row.size(); ++c) {
      if (c == width.size()) width.push_back(0);
      width[c] = std::max(width[c], row[c].size());
    }
  std::string text;
  for (const auto &row : rows_) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string pad(width[c] - row[c].size(), ' ');
      line += (c ? "  " : "") + (c ? pad + row[c] : row[c] + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  if (!text.empty()) text.pop_back();
  return text;
}

void print(const std::string &text) {
  std::fputs(text.c_str(), stdout);
  std::fputc('\n', stdout);
}

void print_json(const Json &json) { print(json.dump(2)); }

Spread spread(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    const double position = share * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<size_t>(position);
    const size_t above = std::min(below + 1, samples.size() - 1);
    return std::lerp(samples[below], samples[above], position - static_cast<double>(below));
  };
  return {at(0.1), at(0.5), at(0.9)};
}

Json spread_json(const Spread &s) { return {{"median", s.median}, {"p10", s.p10}, {"p90", s.p90}}; }

Json device_json(const seer_device_info &info) {
  return {{"backend", backend_label(info.backend)},
          {"ordinal", info.ordinal},
          {"name", info.name},
          {"detail", info.detail},
          {"memory_bytes", info.memory_bytes}};
}

Json select_json(const seer_select_spec &s) {
  Json json;
  switch (s.method) {
    case SEER_SELECT_THRESHOLD: json = {{"method", "threshold"}, {"threshold", s.threshold}}; break;
    case SEER_SELECT_RATIO: json = {{"method", "ratio"}, {"ratio", s.ratio}}; break;
    case SEER_SELECT_BUDGET: json = {{"method", "budget"}, {"token_budget", s.token_budget}}; break;
    case SEER_SELECT_ALL: json = {{"method", "all"}}; break;
    default: json = {{"method", "model"}}; break;
  }
  json["last_dense_rows"] = s.last_dense_rows;
  json["keep_first"] = (s.flags & SEER_SELECT_KEEP_FIRST) != 0;
  json["keep_diagonal"] = (s.flags & SEER_SELECT_KEEP_DIAGONAL) != 0;
  return json;
}

Json build_json() {
  const uint32_t v = seer_version();
  Json json = {{"version", format("%u.%u.%u", v >> 16, (v >> 8) & 255u, v & 255u)}};
#if defined(__clang__)
  json["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  json["compiler"] = "gcc " __VERSION__;
#endif
#if defined(__OPTIMIZE__)
  json["optimized"] = true;
#else
  json["optimized"] = false;
#endif
  return json;
}

uint32_t checksum(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef *>(bytes.data()), bytes.size()));
}

}  // namespace seer::tool
