#include "binding/compute_thread.h"

#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/autocast_mode.h>

#include <system_error>

#include "binding/error_translation.h"
#include "core/models/pass_settings.h"

namespace bidiseg::binding {

namespace {

constexpr std::chrono::seconds kIdle{10};

// Time that predictions within steps may take in a row, after steps have run as long without them.
constexpr std::chrono::seconds kMostCredit{1};

bool shares_network(const JobRole& a, const JobRole& b) {
  return std::any_of(a.networks.begin(), a.networks.end(), [&](const Network* network) {
    return std::find(b.networks.begin(), b.networks.end(), network) != b.networks.end();
  });
}

// Gives the thread the state of a new one for the lifetime of the scope. LibTorch keeps grad mode, autocasting and more
// per thread, and so do our passes. A step that has paused must find its own again.
class NewThreadScope {
 public:
  NewThreadScope() : state_(state_of_new_thread()), had_cache_(at::autocast::is_autocast_cache_enabled()) {
    // All threads share the cache of casts, and the step still needs its casts.
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~NewThreadScope() { at::autocast::set_autocast_cache_enabled(had_cache_); }
  NewThreadScope(const NewThreadScope&) = delete;
  NewThreadScope& operator=(const NewThreadScope&) = delete;

  // The first call of a thread must come before anything changes its state.
  static const at::ThreadLocalState& state_of_new_thread() {
    thread_local const at::ThreadLocalState state;
    return state;
  }

 private:
  at::ThreadLocalStateGuard state_;
  bool had_cache_;
  PassSettingsScope passes_{PassSettings()};
};

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
  NewThreadScope::state_of_new_thread();
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
      if (!is_for_lanes()) {
        job = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    if (!job) {
      run_lanes();
      continue;
    }
    run(*job);
    finish(std::move(job));
  }
}

// True if the next job is for the lanes.
bool ComputeThread::is_for_lanes() const { return queue_.front()->role.beside_others && at::get_num_threads() > 1; }

// Runs the predictions before the next other job on two lanes, this thread and a second one, until both are idle. Two
// predictions, each on half of the threads, take less time than one after the other on all of them: their threads wait
// less for each other.
//
// The second thread lives no longer, so that its OpenMP workers end. If there are more workers than cores, OpenMP lets
// them all sleep at once where they wait for each other.
void ComputeThread::run_lanes() {
  const auto start = Clock::now();
  const int threads = at::get_num_threads();
  lanes_end_ = false;
  at::set_num_threads(threads / 2);
  std::thread second;
  try {
    second = std::thread([this, threads] {
      at::set_num_threads(threads / 2);
      run_predictions();
    });
  } catch (const std::system_error&) {
    // The system has no thread left. One lane does it too.
  }
  run_predictions();
  if (second.joinable()) second.join();
  at::set_num_threads(threads);
  busy_ns_.fetch_add((Clock::now() - start).count(), std::memory_order_relaxed);
}

// On a lane.
void ComputeThread::run_predictions() {
  while (std::unique_ptr<Job> job = take_prediction()) {
    if (!run_on_lane(std::move(job))) return;
  }
}

// On a lane. Takes the next job if it is a prediction, and waits for one as long as the other lane has work.
std::unique_ptr<Job> ComputeThread::take_prediction() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return stopping_->load() || lanes_end_ || !queue_.empty() || predicting_ == 0; });
  // Both lanes end together. One that went on alone would leave half of the threads idle.
  lanes_end_ = lanes_end_ || stopping_->load() || queue_.empty() || !queue_.front()->role.beside_others;
  if (lanes_end_) return nullptr;
  std::unique_ptr<Job> job = std::move(queue_.front());
  queue_.pop_front();
  ++predicting_;
  return job;
}

// Returns false if the prediction ran out of memory. It then runs again by itself.
bool ComputeThread::run_on_lane(std::unique_ptr<Job> job) {
  {
    const CancellationScope scope(stopping_, job->cancellation);
    job->run();
  }
  const bool has_result = !job->ran_out_of_memory();
  if (has_result) {
    finish(std::move(job));
  } else {
    job->role = {};
  }
  const std::lock_guard lock(mutex_);
  if (job) queue_.push_front(std::move(job));
  --predicting_;
  wake_.notify_all();
  return has_result;
}

void ComputeThread::run(Job& job) {
  std::function<void()> pause_here;
  if (job.role.kind == JobRole::Kind::kStep) pause_here = [this, &job] { pause(job); };
  const CancellationScope scope(stopping_, job.cancellation, std::move(pause_here));
  const auto start = step_resumed_ = Clock::now();
  job.run();
  const std::chrono::nanoseconds took = Clock::now() - start;
  busy_ns_.fetch_add(took.count(), std::memory_order_relaxed);
}

// Runs predictions that wait, for as long as the step has run without them.
void ComputeThread::pause(const Job& step) {
  credit_ = std::min<std::chrono::nanoseconds>(kMostCredit, credit_ + (Clock::now() - step_resumed_));
  step_resumed_ = Clock::now();
  while (credit_.count() >= 0 && !is_canceled()) {
    std::unique_ptr<Job> job = take_prediction(step);
    if (!job) break;
    const auto start = Clock::now();
    {
      const NewThreadScope state;
      const CancellationScope scope(stopping_, job->cancellation);
      job->run();
    }
    step_resumed_ = Clock::now();
    credit_ -= step_resumed_ - start;
    if (!job->ran_out_of_memory()) {
      finish(std::move(job));
      continue;
    }
    // The step holds memory that the prediction may have once the step has ended.
    job->role = {};
    const std::lock_guard lock(mutex_);
    queue_.push_front(std::move(job));
  }
}

// Takes the first prediction that may run within the step. It may overtake other steps, but nothing else, and no step
// that uses its network. So the results are those of the order of calls.
std::unique_ptr<Job> ComputeThread::take_prediction(const Job& step) {
  const std::lock_guard lock(mutex_);
  std::vector<const Job*> steps = {&step};
  for (auto job = queue_.begin(); job != queue_.end(); ++job) {
    const JobRole& role = (*job)->role;
    if (role.kind == JobRole::Kind::kOther) break;
    if (role.kind == JobRole::Kind::kStep) {
      steps.push_back(job->get());
    } else if (std::none_of(steps.begin(), steps.end(),
                            [&](const Job* each) { return shares_network(each->role, role); })) {
      std::unique_ptr<Job> taken = std::move(*job);
      queue_.erase(job);
      return taken;
    }
  }
  return nullptr;
}

void ComputeThread::finish(std::unique_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    finished_.push_back(std::move(job));
  }
  napi_call_threadsafe_function(notify_, nullptr, napi_tsfn_nonblocking);
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
