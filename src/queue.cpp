#include "queue.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

namespace seer {
namespace {

struct Callback {
  Queue::Done done;
  Status status = Status::ok;
};

struct Work {
  Queue::Run run;
  Outcome outcome;
  std::list<Callback> callbacks;
};

Outcome failure(Status status, const char *message) noexcept {
  Outcome outcome;
  outcome.status = status;
  try {
    outcome.message = message;
  } catch (...) {  // the status alone has to do
  }
  return outcome;
}

}  // namespace

Outcome current_failure() noexcept {
  try {
    throw;
  } catch (const Error &error) {
    return failure(error.status(), error.what());
  } catch (const std::bad_alloc &) {
    return failure(Status::out_of_memory, "host memory is exhausted");
  } catch (const std::length_error &) {
    return failure(Status::out_of_memory, "a size is beyond what host memory can hold");
  } catch (const std::system_error &error) {  // a thread could not be started
    return failure(Status::out_of_memory, error.what());
  } catch (const std::exception &error) {
    return failure(Status::internal, error.what());
  } catch (...) {
    return failure(Status::internal, "an unknown exception");
  }
}

// Lists and deques of nodes made when something is submitted: completion, which must not fail, only relinks them.
struct Queue::State {
  mutable std::mutex mutex;
  std::condition_variable work_there, callback_there;
  mutable std::condition_variable completion;
  std::deque<std::shared_ptr<Work>> pending;  // front() is running; its ticket is completed + 1
  std::vector<std::shared_ptr<Work>> kept = std::vector<std::shared_ptr<Work>>(kKept);  // slot ticket % kKept
  uint64_t submitted = 0, completed = 0;
  std::list<Callback> callbacks;
  bool stop = false;
  std::thread runner, notifier;

  void run_all();
  void notify_all();
};

void Queue::State::run_all() {
  std::unique_lock lock(mutex);
  for (;;) {
    work_there.wait(lock, [&] { return stop || !pending.empty(); });
    if (pending.empty()) return;
    const std::shared_ptr<Work> work = pending.front();
    lock.unlock();
    try {
      work->run(work->outcome.stats);
    } catch (...) {
      const CallStats stats = work->outcome.stats;
      work->outcome = current_failure();
      work->outcome.stats = stats;
    }
    // Before the ticket counts as complete, so that who has waited finds nothing held by this call. This may drop the
    // last reference to the queue's owner and so run ~Queue here; the state lives on.
    work->run = nullptr;
    lock.lock();
    pending.pop_front();
    completed++;
    kept[completed % kKept] = work;
    if (!work->callbacks.empty()) {
      for (Callback &callback : work->callbacks) callback.status = work->outcome.status;
      callbacks.splice(callbacks.end(), work->callbacks);
      callback_there.notify_one();
    }
    completion.notify_all();
  }
}

void Queue::State::notify_all() {
  std::unique_lock lock(mutex);
  for (;;) {
    callback_there.wait(lock, [&] { return stop || !callbacks.empty(); });
    if (callbacks.empty()) return;
    std::list<Callback> one;
    one.splice(one.begin(), callbacks, callbacks.begin());
    lock.unlock();
    one.front().done(one.front().status);
    one.clear();  // may run ~Queue here
    lock.lock();
  }
}

Queue::Queue() : state_(std::make_shared<State>()) {
  state_->runner = std::thread([state = state_] { state->run_all(); });
}

Queue::~Queue() {
  State &state = *state_;
  {
    std::lock_guard lock(state.mutex);
    state.stop = true;
    state.work_there.notify_all();
    state.callback_there.notify_all();
  }
  // The other threads are idle: a queue goes only when nothing refers to its owner, and work and callbacks do.
  for (std::thread *thread : {&state.runner, &state.notifier}) {
    if (!thread->joinable()) continue;
    if (thread->get_id() == std::this_thread::get_id())
      thread->detach();
    else
      thread->join();
  }
}

uint64_t Queue::submit(Run run) {
  auto work = std::make_shared<Work>();
  work->run = std::move(run);
  std::lock_guard lock(state_->mutex);
  state_->pending.push_back(std::move(work));
  state_->work_there.notify_one();
  return ++state_->submitted;
}

uint64_t Queue::submitted() const {
  std::lock_guard lock(state_->mutex);
  return state_->submitted;
}

bool Queue::wait(uint64_t ticket, uint64_t timeout_ns) const {
  const State &state = *state_;
  std::unique_lock lock(state.mutex);
  const auto complete = [&] { return state.completed >= ticket; };
  constexpr uint64_t kLongest = uint64_t{1} << 62;  // 146 years; beyond it the clock's arithmetic would overflow
  if (timeout_ns >= kLongest) {
    state.completion.wait(lock, complete);
    return true;
  }
  if (timeout_ns == 0) return complete();
  return state.completion.wait_for(lock, std::chrono::nanoseconds(timeout_ns), complete);
}

Outcome Queue::outcome(uint64_t ticket) const {
  std::lock_guard lock(state_->mutex);
  if (ticket == 0 || ticket > state_->completed || state_->completed - ticket >= kKept) return {};
  return state_->kept[ticket % kKept]->outcome;
}

void Queue::on_done(uint64_t ticket, Done done) {
  std::list<Callback> one(1);
  one.front().done = std::move(done);
  std::lock_guard lock(state_->mutex);
  State &state = *state_;
  if (!state.notifier.joinable()) state.notifier = std::thread([keep = state_] { keep->notify_all(); });
  if (ticket > state.completed) {
    std::list<Callback> &callbacks = state.pending[ticket - state.completed - 1]->callbacks;
    callbacks.splice(callbacks.end(), one);
    return;
  }
  if (ticket && state.completed - ticket < kKept) one.front().status = state.kept[ticket % kKept]->outcome.status;
  state.callbacks.splice(state.callbacks.end(), one);
  state.callback_there.notify_one();
}

}  // namespace seer
