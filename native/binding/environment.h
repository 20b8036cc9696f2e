#pragma once

#include "binding/binding.h"
#include "binding/compute_thread.h"

namespace bidiseg::binding {

/// What the addon keeps per Node environment (the main thread, or a worker): nothing is global.
class Environment {
 public:
  explicit Environment(Napi::Env env);
  ~Environment();

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  ComputeThread& compute() { return compute_; }

  /// Constructors of the handle classes by name.
  std::map<std::string, Napi::FunctionReference> constructors;

  /// By CUDA device, the stream that batches are copied on.
  std::map<c10::DeviceIndex, c10::Stream> copy_streams;

  /// How many undisposed handles there are, by class.
  std::map<std::string, int64_t> live;

  /// Tells V8's garbage collector that a handle keeps `bytes` of native memory alive (or, negative, no longer does).
  void adjust_bytes(int64_t bytes);

  /// The same for the storages of tensors, each of which is counted once however many handles share it. The result is for
  /// remove_storages(), which takes away what was added, whatever the tensors have become.
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
