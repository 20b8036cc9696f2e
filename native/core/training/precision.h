// Precision of the convolutions in a training step.
#pragma once

#include "core/models/network.h"

namespace bidiseg {

enum class Precision {
  kFloat32,   ///< dtype of the networks, without TensorFloat-32
  kTf32,      ///< CUDA: float32 with 10 bits of mantissa in products
  kBfloat16,  ///< convolutions and the operations between them in bfloat16
  kFloat16,   ///< CUDA: the same in float16; its gradients need a LossScaler
};

/// `fp32`, `tf32`, `bf16` or `fp16`.
const char* precision_name(Precision precision);

/// Precisions that `device` has instructions for. kFloat32 is always the first. bfloat16 needs AMX or AVX-512's bf16 on
/// a CPU. On CUDA, bfloat16 and TensorFloat-32 need compute capability 8.0 and float16 needs 7.0.
std::vector<Precision> precisions_of(at::Device device);

/// Throws InvalidArgument if the network's device lacks `precision`, or if the network is float64 and `precision` is
/// not kFloat32.
void require_precision(Precision precision, const Network& network);

/// Memory format of the images that a segmenter gets. On the CPU channels_last is 3 to 10 % faster in bfloat16, and in
/// float32 convolutions choose their own (core/models/convolution.h). On CUDA it is the format for tensor cores: an
/// H100 is 25 % faster in it with TensorFloat-32.
inline at::MemoryFormat fastest_format(Precision precision) {
  return precision == Precision::kFloat32 ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
}

/// The same for a translator and its discriminators. In bfloat16 on the CPU their paddings and normalizations favor
/// contiguous.
inline at::MemoryFormat fastest_translator_format(Precision precision, at::Device device) {
  return device.is_cuda() ? fastest_format(precision) : at::MemoryFormat::Contiguous;
}

/// Sets the precision of forward and backward passes for the lifetime of the scope. Parameters, their gradients,
/// running statistics and losses stay float32. Each parameter is cast once, so that none may change within the scope.
/// Autocasting is a setting of the thread; TensorFloat-32 is a setting of the process.
class PrecisionScope {
 public:
  PrecisionScope(Precision precision, at::Device device);
  ~PrecisionScope();
  PrecisionScope(const PrecisionScope&) = delete;
  PrecisionScope& operator=(const PrecisionScope&) = delete;

 private:
  at::DeviceType device_;
  bool had_autocast_;
  at::ScalarType had_dtype_;
  bool had_tf32_;
};

}  // namespace bidiseg
