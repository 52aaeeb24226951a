#include "cpu/thread_pool.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

using seer::ThreadPool;

TEST_CASE("every iteration runs once, by a worker that exists") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(n));
      std::atomic<bool> worker_exists{true};
      pool.parallel_for(n, [&](int64_t i, int worker) {
        runs[static_cast<size_t>(i)]++;
        if (worker < 0 || worker >= threads) worker_exists = false;
      });
      CHECK(worker_exists);
      for (const auto &r : runs) CHECK(r == 1);
    }
  }
}

TEST_CASE("no worker is in two iterations at once") {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> alone{true};
  pool.parallel_for(2000, [&](int64_t, int worker) {
    if (inside[static_cast<size_t>(worker)].fetch_add(1) != 0) alone = false;
    inside[static_cast<size_t>(worker)].fetch_sub(1);
  });
  CHECK(alone);
}

TEST_CASE("a thread without work takes from one that is held up") {
  ThreadPool pool(2);
  // Iteration 0 waits until all others are done, the later ones of its own share included.
  constexpr int64_t n = 100;
  std::atomic<int64_t> others{0};
  bool all_seen = false;
  pool.parallel_for(n, [&](int64_t i, int) {
    if (i != 0) {
      others++;
      return;
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (others != n - 1 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    all_seen = others == n - 1;
  });
  CHECK(all_seen);
}

TEST_CASE("the first exception stops the loop and comes out; the pool lives on") {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    std::atomic<int64_t> runs{0};
    constexpr int64_t n = int64_t{1} << 40;  // would never end
    CHECK_THROWS_WITH_AS(pool.parallel_for(n,
                                           [&](int64_t, int) {
                                             if (++runs == 100) throw std::runtime_error("enough");
                                           }),
                         "enough", std::runtime_error);
    runs = 0;
    pool.parallel_for(50, [&](int64_t, int) { runs++; });
    CHECK(runs == 50);
  }
}

TEST_CASE("what a loop writes is seen after it, and by the next loop") {
  ThreadPool pool(3);
  std::vector<int64_t> values(500, 0);  // plain: ThreadSanitizer watches
  for (int round = 0; round < 20; round++)
    pool.parallel_for(500, [&](int64_t i, int) { values[static_cast<size_t>(i)] += i; });
  CHECK(std::accumulate(values.begin(), values.end(), int64_t{0}) == 20 * 499 * 500 / 2);
}

TEST_CASE("zero threads means as many as there are cores to run on") { CHECK(ThreadPool(0).size() >= 1); }
