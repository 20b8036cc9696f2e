// Test of the compute thread with a fake Node, for ThreadSanitizer: jobs are posted, canceled and settled while others
// run, and the thread is stopped at random moments. usage: compute_thread [TRIALS]
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

// Shared by jobs without a lock, since the compute thread runs them one after the other.
struct Shared {
  int next = 0;
  std::vector<int> ran;
};

struct Tally {
  int alive = 0, settled = 0, canceled = 0;
};

class TestJob final : public Job {
 public:
  TestJob(Shared& shared, Tally& tally, int number, bool waits_for_cancellation)
      : shared_(shared), tally_(tally), number_(number), waits_(waits_for_cancellation) {
    ++tally_.alive;
  }
  ~TestJob() override { --tally_.alive; }

  void run() noexcept override {
    require(shared_.next++ == number_, "jobs ran out of order");
    shared_.ran.push_back(number_);
    try {
      do throw_if_canceled();
      while (waits_);
      result_ = number_;
    } catch (const std::exception&) {
      canceled_ = true;
    }
  }

  void settle(Napi::Env) override {
    ++tally_.settled;
    tally_.canceled += canceled_;
    require(canceled_ || result_ == number_, "a result is not what was computed");
  }

 private:
  Shared& shared_;
  Tally& tally_;
  int number_;
  bool waits_;
  int result_ = -1;
  bool canceled_ = false;
};

void try_once(std::mt19937& random) {
  Shared shared;
  Tally tally;
  const int jobs = static_cast<int>(random() % 30);
  const bool to_the_end = random() % 2 == 0;
  int posted = 0;
  {
    ComputeThread thread(kEnv, [] {});
    std::vector<CancellationFlag> flags;
    for (; posted < jobs; ++posted) {
      const bool waits = random() % 4 == 0;
      auto job = std::make_unique<TestJob>(shared, tally, posted, waits);
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
    require(shared.ran.size() <= static_cast<size_t>(posted), "more jobs ran than were posted");
    bool refused = false;
    try {
      thread.post(std::make_unique<TestJob>(shared, tally, posted, false));
    } catch (const std::runtime_error&) {
      refused = true;
    }
    require(refused, "a stopped thread takes jobs");
  }
  require(tally.alive == 0, "a job was not released");
  require(!to_the_end || tally.settled == posted, "a job did not settle");
  delete std::exchange(notifier, nullptr);
}

}  // namespace
}  // namespace bidiseg::binding

int main(int count, char** arguments) {
  const int trials = count > 1 ? std::atoi(arguments[1]) : 2000;
  std::mt19937 random(1);
  for (int i = 0; i < trials; ++i) bidiseg::binding::try_once(random);
  std::printf("compute_thread: %d trials\n", trials);
}
