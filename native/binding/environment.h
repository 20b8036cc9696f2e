#pragma once

#include "binding/binding.h"
#include "binding/compute_thread.h"

namespace bidiseg::binding {

/// State of the addon in one Node environment, the main thread or a worker. The addon has no global state.
class Environment {
 public:
  explicit Environment(Napi::Env env);
  ~Environment();

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  ComputeThread& compute() { return compute_; }

  /// Constructors of the handle classes, by name.
  std::map<std::string, Napi::FunctionReference> constructors;

  /// Streams that batches are copied on, by CUDA device.
  std::map<c10::DeviceIndex, c10::Stream> copy_streams;

  /// Numbers of undisposed handles, by class.
  std::map<std::string, int64_t> live;

  /// Tells V8's garbage collector that a handle keeps `bytes` more of native memory alive, or less if negative.
  void adjust_bytes(int64_t bytes);

  /// adjust_bytes() for the storages of tensors. A storage that several handles share is counted once. The result is
  /// the argument of remove_storages(), which subtracts exactly what was added, even if the tensors have changed since.
  std::vector<const void*> add_storages(const std::vector<at::Tensor>& tensors);
  void remove_storages(const std::vector<const void*>& storages);

  int64_t bytes() const { return bytes_; }

 private:
  Napi::Env env_;
  int64_t bytes_ = 0;
  struct StorageUse {
    int64_t handles;
    int64_t bytes;
  };
  std::unordered_map<const void*, StorageUse> storages_;
  ComputeThread compute_;
};

}  // namespace bidiseg::binding
