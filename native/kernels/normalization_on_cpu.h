// The same on the CPU, for float32. Sums are over fixed blocks of pixels and added up in a fixed order, so that they do
// not depend on the number of threads.
#pragma once

#include "kernels/normalization.h"

namespace bidiseg::kernels::cpu {

bool can_normalize(const at::Tensor& x);

NormalizationOutput normalize(const at::Tensor& x, const at::Tensor& sum, const NormalizationOptions& options);

/// `forward.y` is needed unless the slope is 1. `has_sum`: whether there was one.
std::pair<at::Tensor, at::Tensor> normalize_backward(const at::Tensor& upstream, const at::Tensor& x,
                                                     const NormalizationOutput& forward, bool has_sum,
                                                     const NormalizationOptions& options);

}  // namespace bidiseg::kernels::cpu
