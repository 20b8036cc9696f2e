#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace bidiseg::binding {

/// Thread that computes while the compute thread waits in the middle of a step.
///
/// Predictions within a step need a thread of their own because LibTorch keeps the grad mode, autocasting and other
/// state of the step per thread. The two threads take turns and never compute at the same time.
class PredictionLane {
 public:
  PredictionLane();
  ~PredictionLane();
  PredictionLane(const PredictionLane&) = delete;
  PredictionLane& operator=(const PredictionLane&) = delete;

  /// Runs `work`, which must not throw, with the caller's number of LibTorch threads, and waits until it has ended.
  void run(const std::function<void()>& work);

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
