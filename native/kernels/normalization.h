// Normalization of activations with what follows it, and reflection padding, on CUDA. Activations are [N, C, H, W] in
// channels_last and in float, half or bfloat16, see can_normalize().
#pragma once

#include <ATen/core/Tensor.h>

namespace bidiseg::kernels {

/// Running statistics of BatchNorm, updated by a forward pass. Undefined: none.
struct RunningStatistics {
  at::Tensor mean = {}, variance = {};  ///< [C], float
  at::Tensor batches = {};              ///< 0-dim, int64; one is added
  double momentum = 0;
};

struct NormalizationOptions {
  bool per_image = false;  ///< InstanceNorm; else BatchNorm
  /// [C], float: for BatchNorm that evaluates. Undefined: the statistics of x.
  at::Tensor fixed_mean = {}, fixed_variance = {};
  at::Tensor weight = {}, bias = {};  ///< [C], float; undefined: 1 and 0
  double eps = 1e-5;
  double slope = 1;  ///< of a leaky ReLU; 0: ReLU, 1: none
  RunningStatistics running = {};
};

struct NormalizationOutput {
  at::Tensor y;           ///< leaky ReLU(weight x̂ + bias + sum)
  at::Tensor statistics;  ///< [4, images, C], float, for normalize_backward()
};

/// True if the kernels know this place, layout and type, and if a channel has more than one value.
bool can_normalize(const at::Tensor& x);

/// `sum` may be undefined.
NormalizationOutput normalize(const at::Tensor& x, const at::Tensor& sum, const NormalizationOptions& options);

/// Gradients of x, and if `forward.y` is defined of `sum`. `forward.y` is needed where there was a sum.
std::pair<at::Tensor, at::Tensor> normalize_backward(const at::Tensor& upstream, const at::Tensor& x,
                                                     const NormalizationOutput& forward,
                                                     const NormalizationOptions& options);

/// True if the kernels know this place, layout and type.
bool can_pad_reflected(const at::Tensor& x);

/// `margin` is below height and width.
at::Tensor pad_reflected(const at::Tensor& x, int64_t margin);
at::Tensor pad_reflected_backward(const at::Tensor& upstream, int64_t margin);

}  // namespace bidiseg::kernels
