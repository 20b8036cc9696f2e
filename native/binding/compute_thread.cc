#include "binding/compute_thread.h"

#include "binding/error_translation.h"

namespace bidiseg::binding {

namespace {

constexpr std::chrono::seconds kIdle{10};

}  // namespace

ComputeThread::ComputeThread(Napi::Env env, std::function<void()> on_idle) : env_(env), on_idle_(std::move(on_idle)) {
  const auto on_finished = [](napi_env env, napi_value, void* context, void*) {
    // A null environment is being torn down; no JavaScript may run.
    if (env != nullptr) static_cast<ComputeThread*>(context)->settle_finished(Napi::Env(env));
  };
  const auto status = napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "bidiseg compute thread"), /*max_queue_size=*/0,
      /*initial_thread_count=*/1, nullptr, nullptr, this, on_finished, &notify_);
  if (status != napi_ok) throw make_error(env, "ERR_NATIVE", "the compute thread's notifier cannot be created");
  napi_unref_threadsafe_function(env, notify_);
  thread_ = std::thread([this] { loop(); });
}

ComputeThread::~ComputeThread() { stop(); }

void ComputeThread::post(std::unique_ptr<Job> job) {
  if (stopped_) {
    throw make_error(env_, "ERR_NATIVE", "bidiseg has been shut down in this thread: the process is exiting");
  }
  if (unsettled_++ == 0) napi_ref_threadsafe_function(env_, notify_);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void ComputeThread::memory_was_freed() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(is_idle_, false)) wake_.notify_one();
}

void ComputeThread::stop() {
  if (std::exchange(stopped_, true)) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_->store(true);
  }
  wake_.notify_one();
  thread_.join();
  queue_.clear();
  finished_.clear();
  napi_release_threadsafe_function(notify_, napi_tsfn_abort);
}

void ComputeThread::loop() {
  const auto awaited = [this] { return stopping_->load() || !queue_.empty(); };
  while (true) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      while (!wake_.wait_for(lock, kIdle, awaited)) {
        is_idle_ = true;
        lock.unlock();
        on_idle_();
        lock.lock();
        wake_.wait(lock, [&] { return awaited() || !is_idle_; });
        is_idle_ = false;
      }
      if (stopping_->load()) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    {
      const CancellationScope scope(stopping_, job->cancellation);
      const auto start = std::chrono::steady_clock::now();
      job->run();
      const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - start;
      busy_ns_.fetch_add(took.count(), std::memory_order_relaxed);
    }
    {
      const std::lock_guard lock(mutex_);
      finished_.push_back(std::move(job));
    }
    napi_call_threadsafe_function(notify_, nullptr, napi_tsfn_nonblocking);
  }
}

void ComputeThread::settle_finished(Napi::Env env) {
  std::deque<std::unique_ptr<Job>> finished;
  {
    const std::lock_guard lock(mutex_);
    finished.swap(finished_);
  }
  for (auto& job : finished) {
    job->settle(env);
    if (--unsettled_ == 0) napi_unref_threadsafe_function(env_, notify_);
  }
}

}  // namespace bidiseg::binding
