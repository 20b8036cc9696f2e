// Test of the compute thread with a fake Node, for ThreadSanitizer: jobs are posted, canceled and settled while others
// run, predictions run within steps, and the thread is stopped at random moments. usage: compute_thread [TRIALS]
#include "binding/compute_thread.h"

#include <cstdio>
#include <cstdlib>
#include <random>

#include "binding/error_translation.h"

// Node's thread-safe function as the compute thread uses it: calls that wait for the JavaScript thread.
struct napi_threadsafe_function__ {
  std::mutex mutex;
  int calls = 0;
  bool closing = false;
  bool holds_loop = true;  // JavaScript thread only
  napi_threadsafe_function_call_js call_js = nullptr;
  void* context = nullptr;
};

namespace {

napi_env const kEnv = reinterpret_cast<napi_env>(1);
napi_threadsafe_function notifier = nullptr;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "compute_thread: %s\n", what);
  std::exit(1);
}

// Runs one turn of the event loop. Returns whether there was work.
bool turn() {
  {
    const std::lock_guard lock(notifier->mutex);
    if (notifier->calls == 0 || notifier->closing) return false;
    --notifier->calls;
  }
  notifier->call_js(kEnv, nullptr, notifier->context, nullptr);
  return true;
}

}  // namespace

extern "C" {

napi_status napi_create_threadsafe_function(napi_env, napi_value, napi_value, napi_value, size_t, size_t, void*,
                                            napi_finalize, void* context, napi_threadsafe_function_call_js call_js,
                                            napi_threadsafe_function* result) {
  notifier = *result = new napi_threadsafe_function__;
  notifier->call_js = call_js;
  notifier->context = context;
  return napi_ok;
}

napi_status napi_call_threadsafe_function(napi_threadsafe_function function, void*,
                                          napi_threadsafe_function_call_mode) {
  const std::lock_guard lock(function->mutex);
  if (function->closing) return napi_closing;
  ++function->calls;
  return napi_ok;
}

napi_status napi_release_threadsafe_function(napi_threadsafe_function function, napi_threadsafe_function_release_mode) {
  const std::lock_guard lock(function->mutex);
  function->closing = true;
  return napi_ok;
}

napi_status napi_ref_threadsafe_function(napi_env, napi_threadsafe_function function) {
  function->holds_loop = true;
  return napi_ok;
}

napi_status napi_unref_threadsafe_function(napi_env, napi_threadsafe_function function) {
  function->holds_loop = false;
  return napi_ok;
}

// The linker uses this for all other functions of Node-API, which the compute thread does not call.
void unexpected_call() { require(false, "a function of Node-API was called that has no stand-in"); }

napi_status napi_create_string_utf8(napi_env, const char*, size_t, napi_value*) { return napi_ok; }

}  // extern "C"

namespace bidiseg::binding {

Napi::Error make_error(Napi::Env, const char*, const std::string& message) { throw std::runtime_error(message); }

namespace {

// Shared by jobs without a lock, since only one computes at a time.
struct Shared {
  std::vector<JobRole> roles;  // in the order of calls; written before the thread starts
  std::vector<bool> ended;
  size_t ran = 0, within_steps = 0;
  int in_step = -1;  // the step that has begun and has not ended
};

// Networks are only compared.
const std::array<const Network*, 2> kNetworks = {reinterpret_cast<const Network*>(8),
                                                 reinterpret_cast<const Network*>(16)};

JobRole random_role(std::mt19937& random) {
  switch (random() % 3) {
    case 0: return {};
    case 1: return {JobRole::Kind::kStep, {kNetworks[random() % 2]}};
    default: return {JobRole::Kind::kPrediction, {kNetworks[random() % 2]}};
  }
}

bool may_overtake(const JobRole& later, const JobRole& earlier) {
  if (later.kind != JobRole::Kind::kPrediction) return false;
  if (earlier.kind == JobRole::Kind::kPrediction) return true;
  return earlier.kind == JobRole::Kind::kStep && earlier.networks != later.networks;
}

struct Tally {
  int alive = 0, settled = 0, canceled = 0;
};

class TestJob final : public Job {
 public:
  TestJob(Shared& shared, Tally& tally, int number, bool waits_for_cancellation, bool runs_twice)
      : shared_(shared), tally_(tally), number_(number), waits_(waits_for_cancellation), is_hungry_(runs_twice) {
    role = shared.roles[static_cast<size_t>(number)];
    ++tally_.alive;
  }
  ~TestJob() override { --tally_.alive; }

  void run() noexcept override {
    const auto own = static_cast<size_t>(number_);
    for (size_t earlier = 0; earlier < own; ++earlier) {
      require(shared_.ended[earlier] || may_overtake(shared_.roles[own], shared_.roles[earlier]),
              "a job ran before one that it may not overtake");
    }
    const bool is_within = shared_.in_step >= 0;
    require(!is_within || shared_.roles[own].kind == JobRole::Kind::kPrediction, "a step paused for another job");
    // Like a prediction that needs the memory of the step.
    ran_out_ = is_hungry_ && is_within;
    if (ran_out_) return;
    const bool is_step = shared_.roles[own].kind == JobRole::Kind::kStep;
    if (is_step) shared_.in_step = number_;
    try {
      int points = 0;
      do cancellation_point(at::Tensor());
      while (waits_ || (is_step && ++points < 20));
      result_ = number_;
    } catch (const std::exception&) {
      canceled_ = true;
    }
    if (is_step) shared_.in_step = -1;
    ++shared_.ran;
    shared_.within_steps += is_within;
    shared_.ended[own] = true;
  }

  bool ran_out_of_memory() const override { return ran_out_; }

  void settle(Napi::Env) override {
    ++tally_.settled;
    tally_.canceled += canceled_;
    require(canceled_ || result_ == number_, "a result is not what was computed");
  }

 private:
  Shared& shared_;
  Tally& tally_;
  int number_;
  bool waits_, is_hungry_;
  bool ran_out_ = false;
  int result_ = -1;
  bool canceled_ = false;
};

// Returns the number of predictions that ran within steps.
size_t try_once(std::mt19937& random) {
  Shared shared;
  Tally tally;
  const int jobs = static_cast<int>(random() % 30);
  for (int i = 0; i <= jobs; ++i) shared.roles.push_back(random_role(random));
  shared.ended.resize(shared.roles.size());
  const bool to_the_end = random() % 2 == 0;
  int posted = 0;
  {
    ComputeThread thread(kEnv, [] {});
    std::vector<CancellationFlag> flags;
    for (; posted < jobs; ++posted) {
      const bool waits = random() % 4 == 0;
      auto job = std::make_unique<TestJob>(shared, tally, posted, waits, random() % 4 == 0);
      if (waits || random() % 4 == 0) {
        job->cancellation = std::make_shared<std::atomic<bool>>(false);
        flags.push_back(job->cancellation);
      }
      thread.post(std::move(job));
      require(notifier->holds_loop, "a pending job does not hold the event loop");
      if (random() % 3 == 0) turn();
      if (!flags.empty() && random() % 2 == 0) flags[random() % flags.size()]->store(true);
      if (random() % 8 == 0) std::this_thread::yield();
    }
    if (to_the_end) {
      for (const auto& flag : flags) flag->store(true);
      while (tally.settled < posted) {
        if (!turn()) std::this_thread::yield();
      }
      require(!notifier->holds_loop, "the event loop is held by nothing");
    }
    if (random() % 2 == 0) thread.stop();
    thread.stop();
    require(shared.ran <= static_cast<size_t>(posted), "more jobs ran than were posted");
    bool refused = false;
    try {
      thread.post(std::make_unique<TestJob>(shared, tally, posted, false, false));
    } catch (const std::runtime_error&) {
      refused = true;
    }
    require(refused, "a stopped thread takes jobs");
  }
  require(tally.alive == 0, "a job was not released");
  require(!to_the_end || tally.settled == posted, "a job did not settle");
  delete std::exchange(notifier, nullptr);
  return shared.within_steps;
}

}  // namespace
}  // namespace bidiseg::binding

int main(int count, char** arguments) {
  const int trials = count > 1 ? std::atoi(arguments[1]) : 2000;
  std::mt19937 random(1);
  size_t within_steps = 0;
  for (int i = 0; i < trials; ++i) within_steps += bidiseg::binding::try_once(random);
  require(trials < 100 || within_steps > 0, "no prediction ran within a step");
  std::printf("compute_thread: %d trials, %zu predictions within steps\n", trials, within_steps);
}
