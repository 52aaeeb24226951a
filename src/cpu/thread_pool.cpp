#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../os.h"

namespace seer {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The loops of one call follow each other within microseconds, and waking a sleeping thread takes tens of them.
constexpr int kSpins = 2000;

}  // namespace

struct ThreadPool::Impl {
  // The iterations a worker has left. The owner takes from the front, thieves from the back.
  struct alignas(64) Share {
    std::mutex mutex;
    int64_t begin = 0, end = 0;
  };

  std::vector<Share> shares;

  std::mutex mutex;  // guards sleeping, `stop` and `error`
  std::condition_variable start, done;
  std::atomic<uint64_t> generation{0};  // of the loop; a change starts the workers
  std::atomic<int> running{0};          // workers still in the loop, the caller not counted
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  bool stop = false;
  const std::function<void(int64_t, int)> *body = nullptr;  // published by `generation`

  std::vector<std::thread> threads;  // started last: they use all of the above

  explicit Impl(int n) : shares(static_cast<size_t>(n)) {
    try {
      for (int w = 1; w < n; w++) threads.emplace_back([this, w] { thread_main(w); });
    } catch (...) {
      join();
      throw;
    }
  }
  ~Impl() { join(); }

  void join() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    start.notify_all();
    for (std::thread &t : threads) t.join();
    threads.clear();
  }

  bool take(int worker, int64_t &i) {
    Share &own = shares[static_cast<size_t>(worker)];
    const std::lock_guard lock(own.mutex);
    if (own.begin >= own.end) return false;
    i = own.begin++;
    return true;
  }

  // Moves half of the largest remaining share to `worker`. False: nothing left anywhere.
  bool steal(int worker) {
    for (;;) {
      Share *victim = nullptr;
      int64_t most = 0;
      for (Share &s : shares) {
        const std::lock_guard lock(s.mutex);
        if (s.end - s.begin > most) {
          most = s.end - s.begin;
          victim = &s;
        }
      }
      if (!victim) return false;
      int64_t begin, end;
      {
        const std::lock_guard lock(victim->mutex);
        const int64_t left = victim->end - victim->begin;
        if (left <= 0) continue;  // drained since we looked
        end = victim->end;
        begin = end - (left + 1) / 2;
        victim->end = begin;
      }
      Share &own = shares[static_cast<size_t>(worker)];
      const std::lock_guard lock(own.mutex);
      own.begin = begin;
      own.end = end;
      return true;
    }
  }

  void work(int worker) {
    int64_t i;
    try {
      while (!failed.load(std::memory_order_relaxed)) {
        if (take(worker, i)) {
          (*body)(i, worker);
        } else if (!steal(worker)) {
          break;
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      failed.store(true, std::memory_order_relaxed);
    }
  }

  void thread_main(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int s = 0; s < kSpins && generation.load(std::memory_order_acquire) == seen; s++) relax();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        start.wait(lock, [&] { return stop || generation.load(std::memory_order_acquire) != seen; });
        if (stop) return;
      }
      seen = generation.load(std::memory_order_acquire);
      work(worker);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard lock(mutex);  // or the caller could miss it between its test and its wait
        done.notify_one();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>(threads > 0 ? threads : os::usable_cores())) {}
ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const { return static_cast<int>(impl_->shares.size()); }

void ThreadPool::parallel_for(int64_t n, const std::function<void(int64_t, int)> &body) {
  if (n <= 0) return;
  Impl &p = *impl_;
  const int workers = size();
  if (workers == 1 || n == 1) {
    for (int64_t i = 0; i < n; i++) body(i, 0);
    return;
  }
  for (int w = 0; w < workers; w++) {
    Impl::Share &s = p.shares[static_cast<size_t>(w)];
    const std::lock_guard lock(s.mutex);
    // n / workers * w + ... rather than n * w / workers: cannot overflow.
    s.begin = n / workers * w + std::min<int64_t>(w, n % workers);
    s.end = n / workers * (w + 1) + std::min<int64_t>(w + 1, n % workers);
  }
  p.body = &body;
  p.failed.store(false, std::memory_order_relaxed);
  p.running.store(workers - 1, std::memory_order_relaxed);
  {
    const std::lock_guard lock(p.mutex);
    p.generation.fetch_add(1, std::memory_order_release);
  }
  p.start.notify_all();
  p.work(0);
  for (int s = 0; s < kSpins && p.running.load(std::memory_order_acquire) != 0; s++) relax();
  std::unique_lock lock(p.mutex);
  p.done.wait(lock, [&] { return p.running.load(std::memory_order_acquire) == 0; });
  p.body = nullptr;
  if (p.error) std::rethrow_exception(std::exchange(p.error, nullptr));
}

}  // namespace seer
