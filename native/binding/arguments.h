// From JavaScript arguments to C++ values, copied, before any other thread sees them.
#pragma once

#include "binding/handle.h"
#include "core/cancellation.h"
#include "core/data/uploaded_batch.h"
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

/// A plain object of options. lib/ has validated it with messages for people; these checks are the last line, so that
/// no value whatever is undefined behavior.
class Options {
 public:
  explicit Options(const Napi::Value& value);

  double number(const char* key) const;
  double number(const char* key, double min, double max) const;
  int64_t integer(const char* key) const;
  int64_t integer(const char* key, int64_t min, int64_t max) const;
  /// One of two values.
  int64_t either_integer(const char* key, int64_t first, int64_t second) const;
  std::optional<int64_t> optional_integer(const char* key, int64_t min, int64_t max) const;
  bool boolean(const char* key) const;
  std::string string(const char* key) const;
  std::vector<double> numbers(const char* key) const;

  /// One of a few names.
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

/// Size that logits are upsampled to, from the options of these names. The kernels make tables of this length, which the
/// limit keeps small.
inline kernels::Upsampling upsampling_option(const Options& options, const char* height = "height",
                                             const char* width = "width") {
  constexpr int64_t kMaxExtent = int64_t{1} << 20;
  return {.height = options.integer(height, 1, kMaxExtent),
          .width = options.integer(width, 1, kMaxExtent),
          .align_corners = true};
}

/// The label of pixels that do not count, where labels are bytes.
inline int64_t ignore_index_option(const Options& options) { return options.integer("ignoreIndex", 0, 255); }

/// What is upsampled: the logits, before the softmax, or the probabilities, after it.
inline kernels::SoftmaxOrder softmax_order_option(const Options& options) {
  return options.choice<kernels::SoftmaxOrder>("order",
                                               {{"logits", kernels::SoftmaxOrder::kAfterUpsampling},
                                                {"probabilities", kernels::SoftmaxOrder::kBeforeUpsampling}});
}

/// Undefined gives an empty pointer.
inline std::shared_ptr<ThresholdHistogram> optional_histogram_argument(const Napi::Value& value) {
  return value.IsUndefined() ? nullptr : Handle<ThresholdHistogram>::get(value, "histogram");
}

at::Tensor tensor_argument(const Napi::Value& value, const char* name);

/// The network as the kind that is needed; another kind is an error.
template <typename T>
std::shared_ptr<T> network_argument(const Napi::Value& value, const char* name) {
  auto network = std::dynamic_pointer_cast<T>(Handle<Network>::get(value, name));
  if (!network) throw InvalidArgument(std::string("Expected a network of another kind for ") + name);
  return network;
}

/// Null or undefined give an empty pointer.
template <typename T>
std::shared_ptr<T> optional_network_argument(const Napi::Value& value, const char* name) {
  return value.IsNull() || value.IsUndefined() ? nullptr : network_argument<T>(value, name);
}

/// A copy of a typed array's elements as a tensor of `shape` on the CPU; its length must be the product of `shape`.
/// Copied, not shared: JavaScript may transfer the buffer to another thread while a job reads it.
/// `pinned`: in memory that a CUDA device can copy from by itself.
at::Tensor typed_array_copy(const Napi::Value& value, const std::vector<int64_t>& shape, const char* name,
                            bool pinned = false);

/// From an array of names and one of as many tensors.
NamedTensors named_tensors_argument(const Napi::Value& names, const Napi::Value& tensors);

/// The name of a file. One with a null byte would name another file.
std::string path_argument(const Napi::Value& value);

std::vector<int64_t> shape_argument(const Napi::Value& value, const char* name);

/// Undefined gives null: a job that only the end of the environment cancels.
CancellationFlag cancellation_argument(const Napi::Value& value);

/// 'cpu', 'cuda' or 'cuda:N', and there is one.
at::Device device_argument(const std::string& name);

/// A new object and the tensors that it keeps alive, from the job that makes it.
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

/// A tensor's handle.
Napi::Value tensor_to_js(Napi::Env env, const at::Tensor& tensor);

/// [{ name, tensor }]
Napi::Array named_tensors_to_js(Napi::Env env, const NamedTensors& tensors);

/// A contiguous CPU tensor as a typed array that takes over its memory without a copy.
Napi::Value typed_array_to_js(Napi::Env env, const at::Tensor& tensor);

Napi::Value numbers_to_js(Napi::Env env, const std::vector<double>& values);
Napi::Value numbers_to_js(Napi::Env env, const std::vector<int64_t>& values);

/// The JavaScript name of a dtype.
const char* dtype_name(at::ScalarType dtype);
at::ScalarType dtype_argument(const std::string& name);

}  // namespace bidiseg::binding
