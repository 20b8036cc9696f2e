// Operations whose sizes come from another tensor. LibTorch's tracer records plain numbers as constants. These
// functions tell it where the numbers come from, so that the recorded module works for images of any size.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Slice of `x` along `dim` from `start`, of the length of `reference`.
at::Tensor narrow_like(const at::Tensor& x, int64_t dim, int64_t start, const at::Tensor& reference);

/// `x` resized to the height and width of `reference`, bilinear with aligned corners.
at::Tensor resize_like(const at::Tensor& x, const at::Tensor& reference);

}  // namespace bidiseg
