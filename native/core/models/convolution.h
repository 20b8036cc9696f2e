// Convolutions of forward passes that may need gradients.
#pragma once

#include <torch/nn/modules/conv.h>

namespace bidiseg {

/// How convolutions on the CPU are computed.
enum class ConvolutionMethod {
  kAuto,    ///< wide 3x3 convolutions in float32 by Winograd's algorithm (kernels/winograd.h), others directly
  kDirect,  ///< all of them as LibTorch does
};

/// Sets the method of this thread for the lifetime of the scope. Backward passes use that of their forward pass.
class ConvolutionScope {
 public:
  explicit ConvolutionScope(ConvolutionMethod method);
  ~ConvolutionScope();
  ConvolutionScope(const ConvolutionScope&) = delete;
  ConvolutionScope& operator=(const ConvolutionScope&) = delete;

 private:
  ConvolutionMethod before_;
};

/// convolution(x). By Winograd's algorithm, rounding errors are about twice as large. Which algorithm it is depends on
/// the scope, the shapes and the dtype alone, so that passes with and without gradients round equally.
at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x);

}  // namespace bidiseg
