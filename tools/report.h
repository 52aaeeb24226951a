// How the commands write: numbers a person reads at once, tables, JSON.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include <seerattn/seerattn.h>

namespace seer::tool {

using Json = nlohmann::ordered_json;

std::string format(const char *format, ...) __attribute__((format(printf, 1, 2)));
std::string human_time(double seconds);                    // "3.21 ms"
std::string human_bytes(uint64_t bytes);                   // "503 MB"
std::string human_percent(double share);                   // "12.3 %", "0.52 %"
std::string human_select(const seer_select_spec &select);  // "threshold 0.005; always kept: last 2 rows"
std::string gate_type(int32_t q_pool, int32_t k_pool);     // "Qavg_Kmaxminavg"

// Left-aligned first column, right-aligned others, two spaces between.
class Table {
public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

private:
  std::vector<std::vector<std::string>> rows_;
};

void print(const std::string &text);  // to stdout, with a newline
void print_json(const Json &json);

// Seconds of several runs of one thing.
struct Spread {
  double p10 = 0, median = 0, p90 = 0;
};
Spread spread(std::vector<double> samples);  // linear interpolation between samples; none: zeros
Json spread_json(const Spread &spread);      // in seconds

Json device_json(const seer_device_info &info);
Json select_json(const seer_select_spec &select);
Json build_json();  // version, compiler, flags that matter to timings

// CRC-32 as zlib, gzip and PNG have it: most languages carry it, so all can compare outputs bit for bit.
uint32_t checksum(std::span<const std::byte> bytes);

}  // namespace seer::tool
