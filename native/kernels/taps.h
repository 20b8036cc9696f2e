// 3x3 convolutions to few channels, such as a segmenter's classes, with a matrix product before the shifts.
#pragma once

#include <ATen/core/Tensor.h>

namespace bidiseg::kernels {

/// A convolution with stride 1 and padding equal to its dilation is the sum of nine 1x1 convolutions whose outputs are
/// shifted by `dilation`. The 1x1 convolutions are one matrix product [pixels, C]·[C, 9 K], which the caller computes.
/// oneDNN's convolutions to 19 channels leave most of their vectors empty, above all for the gradient of the weights.
///
/// `taps` is [N, H, W, 9, K], the nine outputs of each pixel. `image` is [N, H, W, K]. Both are float32 on the CPU.

/// image = sum over the taps, each shifted to where it belongs, + `bias` [K], which may be undefined.
void sum_taps(const at::Tensor& taps, int64_t dilation, const at::Tensor& bias, at::Tensor& image);

/// The gradient of sum_taps() for `taps`, from that of the image.
void spread_taps(const at::Tensor& image, int64_t dilation, at::Tensor& taps);

/// sum = sum [K] over the pixels of an image.
void sum_pixels(const at::Tensor& image, at::Tensor& sum);

}  // namespace bidiseg::kernels
