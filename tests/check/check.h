// The check-and-bench harness: every kernel of every backend through its function table, on the same call site for
// checking against the truth and for timing.
//
// A stage's file lists functions (a kernel on one kind of input). Each runs on every target: "ref", the reference
// kernels, which the others are timed against, and one target per backend that has a device. The truth is computed in
// double (support/naive.h); a target may be twice as far from it as a naive kernel of the same precision.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "support/compare.h"
#include "support/image.h"
#include "support/naive.h"

namespace seer::test {

struct Options {
  std::string stage, function, backend;  // empty: all. function may be a part of a name
  bool bench = false, list = false;
  uint64_t seed = 1;
};

struct Target {
  std::string name;
  std::unique_ptr<Device> device;
  const BackendFns &fns() const { return *device->fns; }
};

class Checker {
public:
  Checker(Options options, std::vector<Target> targets);

  // Starts a function. False: it is not wanted, or only listed.
  bool begin(const char *stage, const std::string &function);
  Random random() const;  // the same for a function whatever ran before it
  bool bench() const { return options_.bench; }

  // Runs `on` for each target. What it throws is a failure of that target.
  void each_target(const std::function<void(Target &)> &on);
  // Within each_target:
  void expect(bool ok, const char *what);
  // `got` against the truth, in units of what `naive` reaches; slack and floor as in as_good_as.
  void expect_close(const std::vector<double> &truth, const std::vector<double> &naive, const std::vector<double> &got,
                    double slack, const char *what, double floor = 0);
  // Runs the stage once, or under --bench until its time is known.
  void run(const std::function<void(Exec &)> &stage);

  // 0: all passed, 1: something failed or nothing was checked, 77: the backend asked for is missing (main).
  int finish();

private:
  struct Timing {
    double median = 0, low = 0, high = 0;  // seconds; the middle half of the runs
  };
  void fail(const std::string &what);
  Timing time(const std::function<void()> &call);

  Options options_;
  std::vector<Target> targets_;
  std::string stage_, function_;
  Target *target_ = nullptr;
  double ref_median_ = 0;
  int64_t functions_ = 0, checks_ = 0, failures_ = 0;
  bool printed_header_ = false;
};

// From now on, a crash names the function that ran and its target.
void blame_crashes();

// Bytes on a device, freed at the end.
class DeviceCopy {
public:
  DeviceCopy(Target &target, const std::vector<std::byte> &bytes);
  DeviceCopy(Target &target, Image &image) : DeviceCopy(target, image.bytes()) {}
  ~DeviceCopy();
  DeviceCopy(const DeviceCopy &) = delete;
  DeviceCopy &operator=(const DeviceCopy &) = delete;

  void *address() const { return memory_.address; }
  uint64_t handle() const { return memory_.handle; }
  template <class T>
  T *as() const {
    return static_cast<T *>(memory_.address);
  }
  void read(std::vector<std::byte> &bytes) const;
  void read(Image &image) const { read(image.bytes()); }

private:
  Target &target_;
  Memory memory_;
};

// Fills of the inputs that q, k and v have.
enum class Fill { normal, tiny, large, equal };
constexpr const char *fill_names[] = {"normal", "tiny", "large", "equal"};
void fill(Image &image, Fill kind, Random &random);

// RoPE tables in host memory, as the pipeline makes them.
struct RopeOwner {
  RopeFreqs freqs;
  std::shared_ptr<const RopeTables> tables;
  RopeOwner(int64_t dim, int64_t positions, int64_t step);
  RopeView view() const;
};

// Kinds of batches, by name: tails, chunks, sequences that are empty.
struct Shape {
  const char *name;
  bool packed;
  std::vector<Lengths> lengths;
};
// aligned: chunks start on block borders only, as the gate's stages need.
std::vector<Shape> shapes(int64_t block, bool aligned);

constexpr DType float_dtypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr Layout layouts[] = {Layout::packed, Layout::padded, Layout::swapped};

// The stages.
void check_pool(Checker &);
void check_project(Checker &);
void check_vectors(Checker &);
void check_score(Checker &);
void check_select(Checker &);
void check_attend(Checker &);

}  // namespace seer::test
