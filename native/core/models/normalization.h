// Normalization with what follows it, and reflection padding. Activations in channels_last use kernels of our own, on
// CUDA (kernels/normalization.h) and in float32 on the CPU (kernels/normalization_on_cpu.h). Everything else uses
// LibTorch's operations, and so does padding on the CPU.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// What follows a normalization: a sum, then a leaky ReLU.
struct AfterNormalization {
  at::Tensor sum = {};  ///< may be undefined
  double slope = 1;     ///< of the leaky ReLU; 0: ReLU, 1: none
};

/// InstanceNorm without affine part or running statistics: normalizes each [H, W] plane to mean 0 and variance 1
/// (Ulyanov et al. 2016), and what follows.
at::Tensor instance_norm(const at::Tensor& x, const AfterNormalization& after = {});

/// BatchNorm in the mode of `norm`, and what follows. `update`: in training mode, of the running statistics.
at::Tensor batch_norm(torch::nn::BatchNorm2d& norm, const at::Tensor& x, bool update, const AfterNormalization& after);

/// Pads height and width by `margin` reflected pixels on each side.
at::Tensor reflection_pad(const at::Tensor& x, int64_t margin);

}  // namespace bidiseg
