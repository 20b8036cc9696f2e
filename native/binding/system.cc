// Build information, live objects, memory limits and shutdown.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"
#include "core/host_memory.h"

namespace bidiseg::binding {
namespace {

struct BuildInfo {
  int threads = at::get_num_threads();
  std::string cpu_capability = at::get_cpu_capability();
  int64_t cuda_devices = at::hasCUDA() ? static_cast<int64_t>(at::detail::getCUDAHooks().deviceCount()) : 0;
};

Napi::Array precision_names(Napi::Env env, at::Device device) {
  Napi::Array result = Napi::Array::New(env);
  for (const Precision precision : precisions_of(device)) result.Set(result.Length(), precision_name(precision));
  return result;
}

Napi::Value build_info(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr, [] { return BuildInfo(); },
      [](Napi::Env env, const BuildInfo& found) {
        Napi::Object precisions = Napi::Object::New(env);
        precisions.Set("cpu", precision_names(env, at::kCPU));
        for (int64_t i = 0; i < found.cuda_devices; ++i) {
          const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(i));
          precisions.Set(device.str(), precision_names(env, device));
        }
        Napi::Object result = Napi::Object::New(env);
        result.Set("libtorchVersion", TORCH_VERSION);
        result.Set("libtorchOrigin", BIDISEG_LIBTORCH_ORIGIN);
#ifdef BIDISEG_CUDA
        result.Set("cuda", true);
#else
        result.Set("cuda", false);
#endif
        result.Set("threads", found.threads);
        result.Set("cpuCapability", found.cpu_capability);
        result.Set("precisions", precisions);
        return result;
      });
}

Napi::Value set_thread_count(const Napi::CallbackInfo& info) {
  const int64_t threads = info[0].IsNumber() ? info[0].As<Napi::Number>().Int64Value() : 0;
  if (threads < 1 || threads > 1024) throw InvalidArgument("Expected an integer from 1 to 1024 for threads");
  // The setting belongs to the thread that opens a parallel region, which is the compute thread.
  return run_async(info.Env(), nullptr, [threads] { at::set_num_threads(static_cast<int>(threads)); });
}

// Numbers of undisposed handles by class, and `bytes`, the native memory reported to V8.
Napi::Value live_objects(const Napi::CallbackInfo& info) {
  const auto& environment = Environment::of(info.Env());
  Napi::Object result = Napi::Object::New(info.Env());
  for (const auto& [name, count] : environment.live) result.Set(name, static_cast<double>(count));
  result.Set("bytes", static_cast<double>(environment.bytes()));
  return result;
}

// Milliseconds that the compute thread of this environment has spent in jobs.
Napi::Value compute_time(const Napi::CallbackInfo& info) {
  const std::chrono::duration<double, std::milli> busy = Environment::of(info.Env()).compute().busy();
  return Napi::Number::New(info.Env(), busy.count());
}

// checkDevice(name) throws the same error as functions that take a device.
Napi::Value check_device(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) throw InvalidArgument("Expected a string for device");
  device_argument(info[0].As<Napi::String>().Utf8Value());
  return info.Env().Undefined();
}

// setMemoryLimit(bytes | null)
Napi::Value set_memory_limit(const Napi::CallbackInfo& info) {
  if (info[0].IsNull()) {
    set_host_memory_limit(kNoMemoryLimit);
    return info.Env().Undefined();
  }
  const double bytes = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
  if (!(bytes >= 0 && bytes <= 9007199254740991.0)) {
    throw InvalidArgument("Expected a number of bytes or null for limit");
  }
  set_host_memory_limit(static_cast<int64_t>(bytes));
  return info.Env().Undefined();
}

Napi::Value memory_in_use(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(host_memory_in_use()));
}

Napi::Value give_back_blocks(const Napi::CallbackInfo& info) {
  give_back_large_blocks();
  return info.Env().Undefined();
}

// reserveMemory(bytes)
Napi::Value reserve_memory(const Napi::CallbackInfo& info) {
  const double bytes = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
  if (!(bytes >= 0 && bytes <= 9007199254740991.0)) throw InvalidArgument("Expected a number of bytes");
  auto reservation = std::make_shared<HostMemoryReservation>(static_cast<int64_t>(bytes));
  return Handle<HostMemoryReservation>::create(info.Env(), std::move(reservation), {});
}

// Resolves after all earlier jobs.
Napi::Value idle(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr, [] {});
}

Napi::Value shut_down(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).compute().stop();
  return info.Env().Undefined();
}

Napi::Value create_cancellation_token(const Napi::CallbackInfo& info) {
  return Handle<std::atomic<bool>>::create(info.Env(), std::make_shared<std::atomic<bool>>(false), {});
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  Handle<std::atomic<bool>>::get(info[0], "token")->store(true);
  return info.Env().Undefined();
}

}  // namespace

void export_system(Napi::Env env, Napi::Object exports) {
  Handle<std::atomic<bool>>::define(env, exports);
  Handle<HostMemoryReservation>::define(env, exports);
  exports.Set("buildInfo", Napi::Function::New<guarded<build_info>>(env));
  exports.Set("setThreadCount", Napi::Function::New<guarded<set_thread_count>>(env));
  exports.Set("liveObjects", Napi::Function::New<guarded<live_objects>>(env));
  exports.Set("computeTime", Napi::Function::New<guarded<compute_time>>(env));
  exports.Set("checkDevice", Napi::Function::New<guarded<check_device>>(env));
  exports.Set("setMemoryLimit", Napi::Function::New<guarded<set_memory_limit>>(env));
  exports.Set("memoryInUse", Napi::Function::New<guarded<memory_in_use>>(env));
  exports.Set("giveBackLargeBlocks", Napi::Function::New<guarded<give_back_blocks>>(env));
  exports.Set("reserveMemory", Napi::Function::New<guarded<reserve_memory>>(env));
  exports.Set("idle", Napi::Function::New<guarded<idle>>(env));
  exports.Set("shutDown", Napi::Function::New<guarded<shut_down>>(env));
  exports.Set("createCancellationToken", Napi::Function::New<guarded<create_cancellation_token>>(env));
  exports.Set("cancel", Napi::Function::New<guarded<cancel>>(env));
}

}  // namespace bidiseg::binding
