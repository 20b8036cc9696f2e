// Operations whose sizes come from another tensor. LibTorch's tracer sees plain numbers as constants; these tell it where
// the numbers come from, so that what it records works for images of any size.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// `x` from `start` on along `dim`, as long as `reference` is.
at::Tensor narrow_like(const at::Tensor& x, int64_t dim, int64_t start, const at::Tensor& reference);

/// `x` at the height and width of `reference`, bilinear with aligned corners.
at::Tensor resize_like(const at::Tensor& x, const at::Tensor& reference);

}  // namespace bidiseg
