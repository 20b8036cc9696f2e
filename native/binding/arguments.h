// Conversion of JavaScript arguments to C++ values. They are copied before another thread sees them.
#pragma once

#include "binding/handle.h"
#include "core/cancellation.h"
#include "core/data/uploaded_batch.h"
#include "core/distributed/process_group.h"
#include "core/host_memory.h"
#include "core/models/network.h"
#include "core/self_training/pseudo_labels.h"
#include "core/training/paired_translation_step.h"
#include "core/training/segmentation_step.h"
#include "core/training/translation_step.h"

namespace bidiseg::binding {

BIDISEG_HANDLE(at::Tensor, "Tensor", 1);
BIDISEG_HANDLE(Network, "Network", 2);
BIDISEG_HANDLE(Optimizer, "Optimizer", 3);
BIDISEG_HANDLE(SegmentationStep, "SegmentationStep", 4);
BIDISEG_HANDLE(TranslationStep, "TranslationStep", 5);
BIDISEG_HANDLE(ThresholdHistogram, "ThresholdHistogram", 6);
BIDISEG_HANDLE(std::atomic<bool>, "CancellationToken", 7);
BIDISEG_HANDLE(PairedTranslationStep, "PairedTranslationStep", 8);
BIDISEG_HANDLE(UploadedBatch, "UploadedBatch", 9);
BIDISEG_HANDLE(ProcessGroup, "ProcessGroup", 10);
BIDISEG_HANDLE(HostMemoryReservation, "MemoryReservation", 11);

/// Plain object of options. lib/ has already validated it, with messages for users. The checks here only make sure that
/// no value causes undefined behavior; they throw InvalidArgument.
class Options {
 public:
  explicit Options(const Napi::Value& value);

  double number(const char* key) const;
  double number(const char* key, double min, double max) const;
  int64_t integer(const char* key) const;
  int64_t integer(const char* key, int64_t min, int64_t max) const;
  /// One of two values; anything else is an InvalidArgument.
  int64_t either_integer(const char* key, int64_t first, int64_t second) const;
  std::optional<int64_t> optional_integer(const char* key, int64_t min, int64_t max) const;
  bool boolean(const char* key) const;
  std::string string(const char* key) const;
  std::vector<double> numbers(const char* key) const;

  /// The value that belongs to one of these names; another name is an InvalidArgument.
  template <typename T>
  T choice(const char* key, std::initializer_list<std::pair<const char*, T>> choices) const {
    const std::string value = string(key);
    for (const auto& [name, result] : choices) {
      if (value == name) return result;
    }
    throw InvalidArgument("Unknown " + std::string(key) + " '" + value + "'");
  }

 private:
  Napi::Value get(const char* key) const;
  Napi::Object object_;
};

/// Size that logits are upsampled to, from the options of these names. The kernels make tables of this length, which
/// the limit keeps small.
inline kernels::Upsampling upsampling_option(const Options& options, const char* height = "height",
                                             const char* width = "width") {
  constexpr int64_t kMaxExtent = int64_t{1} << 20;
  return {.height = options.integer(height, 1, kMaxExtent),
          .width = options.integer(width, 1, kMaxExtent),
          .align_corners = true};
}

/// Label of pixels that do not count, for labels of one byte.
inline int64_t ignore_index_option(const Options& options) { return options.integer("ignoreIndex", 0, 255); }

/// Order of softmax and upsampling: `logits` are upsampled before the softmax, `probabilities` after it.
inline kernels::SoftmaxOrder softmax_order_option(const Options& options) {
  return options.choice<kernels::SoftmaxOrder>("order", {{"logits", kernels::SoftmaxOrder::kAfterUpsampling},
                                                         {"probabilities", kernels::SoftmaxOrder::kBeforeUpsampling}});
}

/// Histogram, or null for undefined.
inline std::shared_ptr<ThresholdHistogram> optional_histogram_argument(const Napi::Value& value) {
  return value.IsUndefined() ? nullptr : Handle<ThresholdHistogram>::get(value, "histogram");
}

at::Tensor tensor_argument(const Napi::Value& value, const char* name);

/// Network of type T; a network of another type is an InvalidArgument.
template <typename T>
std::shared_ptr<T> network_argument(const Napi::Value& value, const char* name) {
  auto network = std::dynamic_pointer_cast<T>(Handle<Network>::get(value, name));
  if (!network) throw InvalidArgument(std::string("Expected a network of another kind for ") + name);
  return network;
}

/// Network of type T, or null for null and undefined.
template <typename T>
std::shared_ptr<T> optional_network_argument(const Napi::Value& value, const char* name) {
  return value.IsNull() || value.IsUndefined() ? nullptr : network_argument<T>(value, name);
}

/// Copy of a typed array as a tensor of `shape` on the CPU; its length must be the product of `shape`. The elements are
/// copied because JavaScript may transfer the buffer to another thread while a job reads it. `pinned`: in page-locked
/// memory, from which a CUDA device can copy asynchronously.
at::Tensor typed_array_copy(const Napi::Value& value, const std::vector<int64_t>& shape, const char* name,
                            bool pinned = false);

/// Named tensors from an array of names and an array of as many tensors.
NamedTensors named_tensors_argument(const Napi::Value& names, const Napi::Value& tensors);

/// Path of a file. A path with a null byte is an InvalidArgument: C would read it as another path.
std::string path_argument(const Napi::Value& value);

std::vector<int64_t> shape_argument(const Napi::Value& value, const char* name);

/// Cancellation flag. Undefined gives null, for a job that only the end of the environment cancels.
CancellationFlag cancellation_argument(const Napi::Value& value);

/// Device 'cpu', 'cuda' or 'cuda:N'. A device that does not exist is an InvalidArgument.
at::Device device_argument(const std::string& name);

/// New object, made by a job, and the tensors that it keeps alive.
template <typename T>
struct Created {
  std::shared_ptr<T> value;
  std::vector<at::Tensor> tensors;

  Created(std::shared_ptr<T> value, const NamedTensors& state) : value(std::move(value)) {
    for (const auto& [name, tensor] : state) tensors.push_back(tensor);
  }
};

template <typename T>
Napi::Value created_to_js(Napi::Env env, const Created<T>& created) {
  return Handle<T>::create(env, created.value, created.tensors);
}

/// Handle of a tensor.
Napi::Value tensor_to_js(Napi::Env env, const at::Tensor& tensor);

/// Array of { name, tensor }.
Napi::Array named_tensors_to_js(Napi::Env env, const NamedTensors& tensors);

/// Contiguous CPU tensor as a typed array, which shares its memory and keeps it alive.
Napi::Value typed_array_to_js(Napi::Env env, const at::Tensor& tensor);

Napi::Value numbers_to_js(Napi::Env env, const std::vector<double>& values);
Napi::Value numbers_to_js(Napi::Env env, const std::vector<int64_t>& values);

/// JavaScript name of a dtype.
const char* dtype_name(at::ScalarType dtype);
at::ScalarType dtype_argument(const std::string& name);

}  // namespace bidiseg::binding
