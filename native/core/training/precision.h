// What convolutions compute in: the precision of a training step.
#pragma once

#include "core/models/network.h"

namespace bidiseg {

enum class Precision {
  kFloat32,   ///< the networks' own dtype, TensorFloat-32 not allowed
  kTf32,      ///< CUDA: float32 whose products keep 10 bits of mantissa
  kBfloat16,  ///< convolutions and what lies between them in bfloat16
  kFloat16,   ///< CUDA: the same in float16, whose gradients want a LossScaler
};

/// `fp32`, `tf32`, `bf16` or `fp16`.
const char* precision_name(Precision precision);

/// Those that `device` has instructions for; kFloat32 comes first and is always there. On a CPU bfloat16 needs AMX or
/// AVX-512's bf16, on CUDA it and TensorFloat-32 need compute capability 8.0, float16 7.0.
std::vector<Precision> precisions_of(at::Device device);

/// Throws InvalidArgument where the network's device lacks `precision`, or where the network is not of float32.
void require_precision(Precision precision, const Network& network);

/// The memory format that a segmenter's training is faster in. Measured on the CPU, where bfloat16 gains 3 to 10 % from
/// channels_last and float32 loses 4 to 30 %; on CUDA, unmeasured, what tensor cores want.
inline at::MemoryFormat fastest_format(Precision precision) {
  const bool half = precision == Precision::kBfloat16 || precision == Precision::kFloat16;
  return half ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

/// Autocasting for the lifetime of the scope, forward and backward. Parameters, their gradients, running statistics and
/// losses stay float32; a parameter is cast once, so none may change before the scope ends. Autocasting belongs to this
/// thread, whether TensorFloat-32 is allowed to the process.
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
