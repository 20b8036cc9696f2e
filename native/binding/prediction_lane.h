#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace bidiseg::binding {

/// Thread that computes predictions while the compute thread waits, in the middle of a step or between jobs.
///
/// Predictions within a step need a thread of their own because LibTorch keeps the grad mode, autocasting and other
/// state of the step per thread.
class PredictionLane {
 public:
  PredictionLane();
  ~PredictionLane();
  PredictionLane(const PredictionLane&) = delete;
  PredictionLane& operator=(const PredictionLane&) = delete;

  /// Begins `work`, which must not throw and must live until wait() returns, with this number of LibTorch threads.
  /// Returns whether the number is another one than before.
  bool start(const std::function<void()>& work, int threads);

  /// Waits until the work has ended.
  void wait();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;  // null when there is nothing to do
  int threads_ = 0;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace bidiseg::binding
