// Convolutions of forward passes that may need gradients.
#pragma once

#include <torch/nn/modules/conv.h>

#include <optional>

#include "core/models/pass_settings.h"

namespace bidiseg {

/// Stride 1, 3x3, and the same padding and dilation in both directions.
struct SquareConvolution {
  int64_t dilation, padding;
};

/// None for other convolutions.
std::optional<SquareConvolution> square_convolution(const torch::nn::Conv2d& convolution);

/// True if Winograd's algorithm is faster for an input of `size`. It does not depend on the number of images, so that a
/// batch may be divided.
bool pays_with_winograd(const SquareConvolution& square, const at::Tensor& weight, at::IntArrayRef size);

/// What follows a convolution: sum, bias, then ReLU.
struct Epilogue {
  at::Tensor bias = {};  ///< may be undefined
  at::Tensor sum = {};   ///< consumed, and may hold the result; may be undefined
  bool relu = false;
};

/// Convolution by Winograd's algorithm, without gradients. `points`: WinogradTiles' weights.
at::Tensor convolve_winograd(const at::Tensor& x, const SquareConvolution& square, const at::Tensor& points,
                             const Epilogue& epilogue);

/// True if convolve() may choose the layout of activations like `x`: in float32 on the CPU, unless PassSettings say
/// otherwise.
bool has_free_layout(const at::Tensor& x);

/// convolution(x). By Winograd's algorithm, rounding errors are about twice as large. Which algorithm it is depends on
/// the scope, the dtype, and the shapes of weights and of one image alone, so that passes with and without gradients
/// round equally.
at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x);

}  // namespace bidiseg
