// What the benchmarks ask of LibTorch about its own work: a profile, the memory of a device, and a wait for it.
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <map>

#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"

namespace bidiseg::binding {
namespace {

using torch::profiler::impl::ActivityType;

// Sum of all events of one name on one kind of device.
struct Total {
  int64_t count = 0;
  double seconds = 0;
};
using Totals = std::map<std::pair<std::string, bool>, Total>;

at::Device device_at(const Napi::Value& value) {
  if (!value.IsString()) throw InvalidArgument("Expected a string for device");
  const at::Device device = device_argument(value.As<Napi::String>().Utf8Value());
  return device.is_cuda() && !device.has_index() ? at::Device(at::kCUDA, 0) : device;
}

// startProfile(): records operations of the compute thread from now on, and the kernels that they start
Napi::Value start_profile(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr, [] {
    const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
    std::set<ActivityType> activities = {ActivityType::CPU};
    if (at::hasCUDA()) activities.insert(ActivityType::CUDA);
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
  });
}

// stopProfile(file | null): [{ name, onDevice, count, seconds }], and a trace for Chrome in `file`
Napi::Value stop_profile(const Napi::CallbackInfo& info) {
  const std::string file = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  return run_async(
      info.Env(), nullptr,
      [file] {
        const auto profile = torch::autograd::profiler::disableProfiler();
        Totals totals;
        for (const auto& event : profile->events()) {
          Total& total = totals[{event.name(), event.deviceType() != at::kCPU}];
          ++total.count;
          total.seconds += 1e-9 * static_cast<double>(event.durationNs());
        }
        if (!file.empty()) profile->save(file);
        return totals;
      },
      [](Napi::Env env, const Totals& totals) {
        Napi::Array result = Napi::Array::New(env);
        for (const auto& [key, total] : totals) {
          Napi::Object line = Napi::Object::New(env);
          line.Set("name", key.first);
          line.Set("onDevice", key.second);
          line.Set("count", static_cast<double>(total.count));
          line.Set("seconds", total.seconds);
          result.Set(result.Length(), line);
        }
        return result;
      });
}

// synchronize(device): resolves when the device has done everything that it was given
Napi::Value synchronize(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr, [device = device_at(info[0])] {
    if (device.is_cuda()) c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(device.index());
  });
}

// deviceMemory(device): { allocated, reserved, peak }, bytes of tensors on a CUDA device; the peak begins anew
Napi::Value device_memory(const Napi::CallbackInfo& info) {
  struct Bytes {
    int64_t allocated = 0, reserved = 0, peak = 0;
  };
  return run_async(
      info.Env(), nullptr,
      [device = device_at(info[0])] {
        if (!device.is_cuda()) throw InvalidArgument("Expected a CUDA device but received " + device.str());
        at::DeviceAllocator* allocator = at::getDeviceAllocator(at::kCUDA);
        if (!allocator->initialized()) return Bytes();
        const auto stats = allocator->getDeviceStats(device.index());
        allocator->resetPeakStats(device.index());
        return Bytes{stats.allocated_bytes[0].current, stats.reserved_bytes[0].current, stats.allocated_bytes[0].peak};
      },
      [](Napi::Env env, const Bytes& bytes) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("allocated", static_cast<double>(bytes.allocated));
        result.Set("reserved", static_cast<double>(bytes.reserved));
        result.Set("peak", static_cast<double>(bytes.peak));
        return result;
      });
}

}  // namespace

void export_profiling(Napi::Env env, Napi::Object exports) {
  exports.Set("startProfile", Napi::Function::New<guarded<start_profile>>(env));
  exports.Set("stopProfile", Napi::Function::New<guarded<stop_profile>>(env));
  exports.Set("synchronize", Napi::Function::New<guarded<synchronize>>(env));
  exports.Set("deviceMemory", Napi::Function::New<guarded<device_memory>>(env));
}

}  // namespace bidiseg::binding
