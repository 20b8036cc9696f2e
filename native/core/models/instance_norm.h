#pragma once

#include "core/torch.h"

namespace bidiseg {

/// InstanceNorm without affine part or running statistics: normalizes each [H, W] plane to mean 0 and variance 1
/// (Ulyanov et al. 2016).
inline at::Tensor instance_norm(const at::Tensor& x) {
  at::Tensor one, zero;
  if (at::isReducedFloatingType(x.scalar_type())) {
    // LibTorch keeps mean and variance in the dtype of the affine part; without one, in the dtype of the planes.
    one = at::ones({x.size(1)}, x.options().dtype(at::kFloat));
    zero = at::zeros_like(one);
  }
  return at::instance_norm(x, one, zero, {}, {}, /*use_input_stats=*/true, /*momentum=*/0.0, /*eps=*/1e-5,
                           /*cudnn_enabled=*/true);
}

}  // namespace bidiseg
