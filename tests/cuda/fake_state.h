// What the fake driver is made of: streams that run when somebody waits, memory, contexts. Its entry points are in
// fake_driver.cpp.
#pragma once
#include "fake_driver.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <thread>

#include "cuda/driver.h"

namespace fake::driver {

using namespace seer::cuda;

constexpr int kSharedBase = 213000;  // attend_*_shared

struct Op {
  std::function<void()> run;  // null: a record of `event`, or a wait for it
  struct Event *record = nullptr;
  struct Event *wait = nullptr;
  uint64_t version = 0;
};

constexpr int kDevices = 2;
inline int contexts_of[kDevices];                       // a device's primary context is the address of one
inline thread_local std::vector<int> current_contexts;  // this thread's stack of them, by device

inline uint64_t next_stream_id = 1;

struct Stream {
  explicit Stream(int device_) : device(device_) {}
  const int device;
  uint64_t id = next_stream_id++;
  std::deque<Op> ops{};
  uint64_t added = 0;
  bool capturing = false;
};

struct Event {
  int device = 0;
  Stream *stream = nullptr;  // of the last record
  uint64_t recorded = 0, done = 0;
};

struct Function {
  std::string name;
  int device = 0;
};
struct Module {
  int device = 0;
  std::map<std::string, std::unique_ptr<Function>> functions;
  int shared = kSharedBase;
};

struct Failure {
  std::string function;
  int left = 0;
  int error = 0;
  bool sticky = false;
};

class Driver : public Control {
public:
  std::recursive_mutex mutex;
  std::vector<Failure> failures;
  int sticky = 0;
  std::map<std::string, uint64_t> called;
  std::vector<Launch> launched;
  std::vector<Map> mapped;
  Lookup looked_up;
  std::vector<std::string> wrong;
  std::map<uintptr_t, uint64_t> device, pinned;
  std::set<Stream *> streams{};
  std::set<Event *> events;
  std::set<Module *> modules;
  int64_t contexts = 0, peak = 0, limit = INT64_MAX;
  uint64_t waited = 0;
  int sm = 90, device_count = 1;
  Stream legacy[kDevices] = {Stream(0), Stream(1)};
  std::vector<std::unique_ptr<Stream>> own_streams{};  // of threads
  std::map<uintptr_t, int> device_of;                  // memory's

  // 0, or what this call is to give.
  CUresult enter(const char *name) {
    ++called[name];
    ++called[""];
    if (sticky) return CUresult(sticky);
    for (Failure &f : failures) {
      if (!f.function.empty() && f.function != name) continue;
      if (f.left <= 0 || --f.left > 0) continue;
      if (f.sticky) sticky = f.error;
      return CUresult(f.error);
    }
    return CUDA_SUCCESS;
  }

  static bool within(const std::map<uintptr_t, uint64_t> &blocks, uintptr_t at, uint64_t bytes) {
    auto after = blocks.upper_bound(at);
    if (after == blocks.begin()) return false;
    const auto &[start, size] = *--after;
    return at - start <= size && bytes <= size - (at - start);
  }
  void expect(bool ok, const std::string &what) {
    if (!ok) wrong.push_back(what);
  }
  int current() const { return current_contexts.empty() ? -1 : current_contexts.back(); }
  void expect_current(int wanted, const char *what) {
    expect(current() == wanted, std::string(what) + (current() < 0 ? " without a context" : " of another device"));
  }
  Stream &find(CUstream stream) {
    const auto on = size_t(std::max(current(), 0));
    if (!stream) return legacy[on];
    if (stream == reinterpret_cast<CUstream>(2)) {  // the thread's own, which all threads know by one name
      static thread_local Stream *own[kDevices] = {};
      if (!own[on]) own[on] = own_streams.emplace_back(std::make_unique<Stream>(int(on))).get();
      return *own[on];
    }
    auto *s = reinterpret_cast<Stream *>(stream);
    expect(streams.count(s), "a stream that is not there");
    return *s;
  }
  Stream &of(CUstream stream) {
    Stream &s = find(stream);
    expect_current(s.device, "work on a stream");
    return s;
  }

  void add(Stream &stream, Op op) {
    stream.ops.push_back(std::move(op));
    stream.added++;
  }
  bool step(Stream &stream) {
    if (stream.ops.empty()) return false;
    Op op = std::move(stream.ops.front());
    stream.ops.pop_front();
    if (op.run) op.run();
    if (op.record) op.record->done = std::max(op.record->done, op.version);
    if (op.wait) run_to(*op.wait, op.version);
    return true;
  }
  void run_to(Event &event, uint64_t version) {
    while (event.done < version && event.stream && step(*event.stream)) {
    }
  }
  void run(Stream &stream) {
    while (step(stream)) {
    }
  }
  void no_capture(const Stream &stream, const char *what) {
    expect(!stream.capturing, std::string(what) + " on a stream that is captured");
  }

  void reset_errors() override {
    std::lock_guard lock(mutex);
    failures.clear();
    sticky = 0;
  }
  void reset() override {
    std::lock_guard lock(mutex);
    reset_errors();
    called.clear();
    launched.clear();
    mapped.clear();
    looked_up = {};
    wrong.clear();
    waited = 0;
    limit = INT64_MAX;
    sm = 90;
    device_count = 1;
  }
  void fail(const std::string &function, int nth, int error, bool is_sticky) override {
    std::lock_guard lock(mutex);
    failures.push_back({function, nth, error, is_sticky});
  }
  uint64_t calls(const std::string &function) const override {
    const auto found = called.find(function);
    return found == called.end() ? 0 : found->second;
  }
  std::vector<Launch> launches() const override { return launched; }
  std::vector<Map> maps() const override { return mapped; }
  Lookup lookup() const override { return looked_up; }
  int64_t bytes() const {
    int64_t sum = 0;
    for (const auto &[at, size] : device) sum += int64_t(size);
    return sum;
  }
  Counts counts() const override {
    return {int64_t(device.size()),
            int64_t(pinned.size()),
            int64_t(streams.size()),
            int64_t(events.size()),
            int64_t(modules.size()),
            contexts,
            bytes(),
            peak};
  }
  std::vector<std::string> violations() const override { return wrong; }
  void *make_stream(int on) override {
    std::lock_guard lock(mutex);
    auto *s = new Stream(on);
    streams.insert(s);
    return s;
  }
  void destroy_stream(void *stream) override {
    std::lock_guard lock(mutex);
    auto *s = static_cast<Stream *>(stream);
    run(*s);
    streams.erase(s);
    delete s;
  }
  void renew_stream(void *stream) override {
    std::lock_guard lock(mutex);
    static_cast<Stream *>(stream)->id = next_stream_id++;  // its work goes on
  }
  void capture(void *stream, bool on) override { static_cast<Stream *>(stream)->capturing = on; }
  uint64_t enqueued(void *stream) const override { return static_cast<Stream *>(stream)->added; }
  uint64_t left(void *stream) const override {
    uint64_t count = 0;
    for (const Op &op : static_cast<Stream *>(stream)->ops) count += op.run != nullptr;
    return count;
  }
  void *allocate(uint64_t size, int on) override {
    std::lock_guard lock(mutex);
    void *made = ::operator new(size, std::align_val_t(256));
    device[reinterpret_cast<uintptr_t>(made)] = size;
    device_of[reinterpret_cast<uintptr_t>(made)] = on;
    peak = std::max(peak, bytes());
    return made;
  }
  void release(void *memory) override {
    std::lock_guard lock(mutex);
    run_all();
    expect(device.erase(reinterpret_cast<uintptr_t>(memory)) == 1, "memory freed that is not there");
    ::operator delete(memory, std::align_val_t(256));
  }
  void run_all() override {
    std::lock_guard lock(mutex);
    for (Stream &s : legacy) run(s);
    for (const auto &s : own_streams) run(*s);
    for (Stream *s : streams) run(*s);
  }
  uint64_t waits() const override { return waited; }
  void limit_memory(int64_t size) override { limit = size; }
  void chip(int which) override { sm = which; }
  void devices(int count) override { device_count = count; }
};

}  // namespace fake::driver
