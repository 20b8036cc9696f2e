// Promises for work off the event loop. All asynchronous functions of the addon use this template.
#pragma once

#include "binding/environment.h"
#include "binding/error_translation.h"

namespace bidiseg::binding {

template <typename Work, typename ToJs>
class PromiseJob final : public Job {
 public:
  PromiseJob(Napi::Env env, Work work, ToJs to_js)
      : deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), to_js_(std::move(to_js)) {}

  Napi::Value promise() const { return deferred_.Promise(); }

  void run() noexcept override {
    error_ = nullptr;
    try {
      throw_if_canceled();  // the job may have been canceled while it was queued
      result_.emplace(work_());
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  bool ran_out_of_memory() const override { return error_ && is_out_of_memory(error_); }

  void settle(Napi::Env env) override {
    try {
      if (error_) std::rethrow_exception(error_);
      deferred_.Resolve(to_js_(env, std::move(*result_)));
    } catch (...) {
      deferred_.Reject(translate(env, std::current_exception()).Value());
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  Work work_;
  ToJs to_js_;
  std::optional<std::invoke_result_t<Work>> result_;
  std::exception_ptr error_;
};

/// Runs `work` on the compute thread and resolves the returned promise with `to_js(env, result)`. `work` must own
/// everything that it uses and must not touch JavaScript values. `cancellation` may be null. Work of a prediction must
/// be repeatable.
template <typename Work, typename ToJs>
Napi::Value run_async(Napi::Env env, CancellationFlag cancellation, Work work, ToJs to_js, JobRole role = {}) {
  auto job = std::make_unique<PromiseJob<Work, ToJs>>(env, std::move(work), std::move(to_js));
  job->cancellation = std::move(cancellation);
  job->role = std::move(role);
  Napi::Value promise = job->promise();
  Environment::of(env).compute().post(std::move(job));
  return promise;
}

/// run_async() for work without a result.
template <typename Work>
Napi::Value run_async(Napi::Env env, CancellationFlag cancellation, Work work) {
  return run_async(
      env, std::move(cancellation),
      [work = std::move(work)]() mutable {
        work();
        return true;
      },
      [](Napi::Env env, bool) { return env.Undefined(); });
}

}  // namespace bidiseg::binding
