#pragma once

#include "core/torch.h"

namespace bidiseg {

/// InstanceNorm without affine part or running statistics: every [H, W] plane to mean 0 and variance 1
/// (Ulyanov et al. 2016).
inline at::Tensor instance_norm(const at::Tensor& x) {
  return at::instance_norm(x, {}, {}, {}, {}, /*use_input_stats=*/true, /*momentum=*/0.0, /*eps=*/1e-5,
                           /*cudnn_enabled=*/true);
}

}  // namespace bidiseg
