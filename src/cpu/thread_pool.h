// A fixed set of threads that share loops of uneven iterations.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>

namespace seer {

class ThreadPool {
public:
  // threads 0 = the cores this process may run on. The caller's thread works too, so threads - 1 are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  int size() const;
  // Runs body(i, worker) for i in 0 .. n - 1, in any order, worker in 0 .. size() - 1. Each thread starts with a
  // contiguous share and steals half of the largest remaining one when its own is done. Returns when all are done;
  // the first exception stops the loop and is rethrown. One loop at a time.
  void parallel_for(int64_t n, const std::function<void(int64_t i, int worker)> &body);

private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace seer
