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

struct Shared {
  std::vector<JobRole> roles;  // in the order of calls; written before the thread starts
  std::mutex mutex;            // of everything below
  std::vector<bool> ended;
  size_t ran = 0, within_steps = 0, beside_others = 0;
  int in_step = -1;  // the step that has begun and has not ended
  int running = 0;   // jobs that have begun and have not ended
};

// Networks are only compared.
const std::array<const Network*, 2> kNetworks = {reinterpret_cast<const Network*>(8),
                                                 reinterpret_cast<const Network*>(16)};

JobRole random_role(std::mt19937& random) {
  switch (random() % 4) {
    case 0: return {};
    case 1: return {JobRole::Kind::kStep, {kNetworks[random() % 2]}};
    default: return {JobRole::Kind::kPrediction, {kNetworks[random() % 2]}, /*beside_others=*/random() % 3 != 0};
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
    const bool is_step = role_in_order().kind == JobRole::Kind::kStep;
    if (!begin(is_step)) return;
    try {
      int points = 0;
      do cancellation_point(at::Tensor());
      while (waits_ || (is_step && ++points < 20));
      result_ = number_;
    } catch (const std::exception&) {
      canceled_ = true;
    }
    const std::lock_guard lock(shared_.mutex);
    if (is_step) shared_.in_step = -1;
    --shared_.running;
    ++shared_.ran;
    shared_.ended[static_cast<size_t>(number_)] = true;
  }

  bool ran_out_of_memory() const override { return ran_out_; }

  void settle(Napi::Env) override {
    ++tally_.settled;
    tally_.canceled += canceled_;
    require(canceled_ || result_ == number_, "a result is not what was computed");
  }

 private:
  // The role that the job was posted with; the compute thread changes that of a job that ran out of memory.
  const JobRole& role_in_order() const { return shared_.roles[static_cast<size_t>(number_)]; }

  // Checks that the job may run now. Returns false if it runs out of memory.
  bool begin(bool is_step) {
    const std::lock_guard lock(shared_.mutex);
    for (size_t earlier = 0; earlier < static_cast<size_t>(number_); ++earlier) {
      require(shared_.ended[earlier] || may_overtake(role_in_order(), shared_.roles[earlier]),
              "a job ran before one that it may not overtake");
    }
    const bool is_within = shared_.in_step >= 0, is_beside = shared_.running > is_within;
    require(!is_within || role_in_order().kind == JobRole::Kind::kPrediction, "a step paused for another job");
    require(!is_beside || (role.beside_others && !is_within && shared_.running == 1),
            "a job ran beside another one without asking for it");
    // Like a prediction that needs the memory of the step or of the other prediction.
    ran_out_ = is_hungry_ && (is_within || is_beside);
    if (ran_out_) return false;
    if (is_step) shared_.in_step = number_;
    ++shared_.running;
    shared_.within_steps += is_within;
    shared_.beside_others += is_beside;
    return true;
  }

  Shared& shared_;
  Tally& tally_;
  int number_;
  bool waits_, is_hungry_;
  bool ran_out_ = false;
  int result_ = -1;
  bool canceled_ = false;
};

// Adds the predictions that ran within steps and beside others to `totals`.
void try_once(std::mt19937& random, std::array<size_t, 2>& totals) {
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
  totals[0] += shared.within_steps;
  totals[1] += shared.beside_others;
}

}  // namespace
}  // namespace bidiseg::binding

int main(int count, char** arguments) {
  const int trials = count > 1 ? std::atoi(arguments[1]) : 2000;
  std::mt19937 random(1);
  std::array<size_t, 2> totals{};
  for (int i = 0; i < trials; ++i) bidiseg::binding::try_once(random, totals);
  const auto [within_steps, beside_others] = totals;
  require(trials < 100 || within_steps > 0, "no prediction ran within a step");
  require(trials < 100 || beside_others > 0, "no prediction ran beside another one");
  std::printf("compute_thread: %d trials, %zu predictions within steps, %zu beside others\n", trials, within_steps,
              beside_others);
}
