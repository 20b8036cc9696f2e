#include "binding/prediction_lane.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

namespace bidiseg::binding {

PredictionLane::PredictionLane() : thread_([this] { loop(); }) {}

PredictionLane::~PredictionLane() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool PredictionLane::start(const std::function<void()>& work, int threads) {
  const std::lock_guard lock(mutex_);
  work_ = &work;
  const int before = std::exchange(threads_, threads);
  changed_.notify_all();
  return before != threads;
}

void PredictionLane::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return work_ == nullptr; });
}

void PredictionLane::loop() {
  // All threads share the cache of casts, and the step that waits still needs its casts.
  at::autocast::set_autocast_cache_enabled(false);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || work_ != nullptr; });
    if (work_ == nullptr) return;
    if (at::get_num_threads() != threads_) at::set_num_threads(threads_);
    lock.unlock();
    (*work_)();
    lock.lock();
    work_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace bidiseg::binding
