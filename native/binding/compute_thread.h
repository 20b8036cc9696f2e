#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "binding/binding.h"
#include "core/cancellation.h"

namespace bidiseg::binding {

/// Work that leaves the event loop. It holds no JavaScript value but its promise: inputs were copied or are shared
/// native objects, so nothing has to be kept alive or released on another thread.
class Job {
 public:
  virtual ~Job() = default;
  virtual void run() noexcept = 0;              ///< on the compute thread
  virtual void settle(Napi::Env env) = 0;       ///< on the JavaScript thread
  CancellationFlag cancellation;                ///< may be null
};

/// The one thread of an environment on which everything computes, in the order in which it was asked for.
///
/// A thread of our own rather than libuv's pool: LibTorch keeps a team of workers, the grad mode and more per thread,
/// image decoding has the pool to itself, jobs on one object never race, and there is one thing to stop at exit.
class ComputeThread {
 public:
  /// `on_idle` is called on the thread when there has been nothing to do for ten seconds, and again after every stir().
  ComputeThread(Napi::Env env, std::function<void()> on_idle);
  ~ComputeThread();
  ComputeThread(const ComputeThread&) = delete;
  ComputeThread& operator=(const ComputeThread&) = delete;

  /// JavaScript thread. Keeps the event loop alive until the job has settled.
  void post(std::unique_ptr<Job> job);

  /// Something has been freed: ten seconds from now `on_idle` has work again. Any thread.
  void stir();

  /// Time spent in jobs so far. Any thread.
  std::chrono::nanoseconds busy() const { return std::chrono::nanoseconds(busy_ns_.load(std::memory_order_relaxed)); }

  /// JavaScript thread. Cancels what runs at its next cancellation point, waits for the thread and drops what is
  /// queued; those promises never settle. Idempotent.
  void stop();

 private:
  void loop();
  void settle_finished(Napi::Env env);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_, finished_;
  CancellationFlag stopping_ = std::make_shared<std::atomic<bool>>(false);
  bool resting_ = false;  // on_idle has had its turn
  size_t unsettled_ = 0;  // JavaScript thread only
  bool stopped_ = false;  // JavaScript thread only
  std::atomic<int64_t> busy_ns_ = 0;
  napi_env env_;
  std::function<void()> on_idle_;
  napi_threadsafe_function notify_ = nullptr;
  std::thread thread_;
};

}  // namespace bidiseg::binding
