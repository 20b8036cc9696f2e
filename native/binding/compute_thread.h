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

namespace bidiseg {
class Network;
}

namespace bidiseg::binding {

/// What decides whether a job may run within another one.
struct JobRole {
  enum class Kind {
    kOther,       ///< runs in its turn
    kStep,        ///< training step that lets predictions run at its cancellation points
    kPrediction,  ///< may run within steps that use none of its networks, and before them
  };
  Kind kind = Kind::kOther;
  std::vector<const Network*> networks;  ///< used by the job; identities, not owned
  bool beside_others = false;            ///< prediction that runs on a lane, beside another such one
};

/// Work for the compute thread. Its promise is the only JavaScript value that it holds. Its inputs are copies or shared
/// native objects, so that no JavaScript value has to be kept alive or released on another thread.
class Job {
 public:
  virtual ~Job() = default;
  virtual void run() noexcept = 0;  ///< on the compute thread or the other lane; a prediction may run twice
  virtual bool ran_out_of_memory() const { return false; }  ///< after run()
  virtual void settle(Napi::Env env) = 0;                   ///< on the JavaScript thread
  CancellationFlag cancellation;                            ///< may be null
  JobRole role;
};

/// The thread of an environment that runs all of its jobs, with the results of the order of calls.
///
/// It replaces libuv's pool for four reasons. LibTorch keeps worker threads, grad mode and other state per thread.
/// Image decoding has the pool to itself. Jobs on one object never race. At exit there is one thread to stop.
///
/// Jobs run one after the other, with two exceptions. A training step pauses at its cancellation points for predictions
/// that wait (docs/design/boundary.md#predictions-beside-a-training). Predictions that ask for it run two at a time,
/// each with half of the threads (docs/design/boundary.md#two-segmentations-at-a-time).
class ComputeThread {
 public:
  /// `on_idle` is called on the thread after ten seconds without a job, and again ten seconds after memory_was_freed().
  ComputeThread(Napi::Env env, std::function<void()> on_idle);
  ~ComputeThread();
  ComputeThread(const ComputeThread&) = delete;
  ComputeThread& operator=(const ComputeThread&) = delete;

  /// JavaScript thread. Keeps the event loop alive until the job has settled.
  void post(std::unique_ptr<Job> job);

  /// Tells the thread that memory was freed, so that `on_idle` has work again. Any thread.
  void memory_was_freed();

  /// Total time spent in jobs. Any thread.
  std::chrono::nanoseconds busy() const { return std::chrono::nanoseconds(busy_ns_.load(std::memory_order_relaxed)); }

  /// JavaScript thread. Cancels the running jobs at their next cancellation point, waits for the thread and drops the
  /// queued jobs, whose promises never settle. Idempotent.
  void stop();

 private:
  using Clock = std::chrono::steady_clock;

  void loop();
  void run(Job& job);
  bool is_for_lanes() const;
  void run_lanes();
  void run_predictions();
  std::unique_ptr<Job> take_prediction();
  bool run_on_lane(std::unique_ptr<Job> job);
  void pause(const Job& step);
  std::unique_ptr<Job> take_prediction(const Job& step);
  void finish(std::unique_ptr<Job> job);
  void settle_finished(Napi::Env env);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_, finished_;
  CancellationFlag stopping_ = std::make_shared<std::atomic<bool>>(false);
  bool is_idle_ = false;  // on_idle has been called and nothing has happened since
  size_t unsettled_ = 0;  // JavaScript thread only
  bool stopped_ = false;  // JavaScript thread only
  std::atomic<int64_t> busy_ns_ = 0;
  int predicting_ = 0;      // lanes that run a prediction between jobs
  bool lanes_end_ = false;  // there is no further prediction for them
  // Time in steps less the time of predictions within them, and when the step went on; compute thread only.
  std::chrono::nanoseconds credit_{0};
  Clock::time_point step_resumed_;
  napi_env env_;
  std::function<void()> on_idle_;
  napi_threadsafe_function notify_ = nullptr;
  std::thread thread_;
};

}  // namespace bidiseg::binding
