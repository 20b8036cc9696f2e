// Convolutions of oneDNN whose weights are packed in advance.
#pragma once

#include <map>

#include "core/torch.h"

namespace bidiseg {

/// Geometry of a convolution; pairs are (vertical, horizontal).
struct ConvolutionWindow {
  std::array<int64_t, 2> padding, stride, dilation;
  int64_t groups;
};

/// Weights of a convolution, packed in the layouts that oneDNN wants.
///
/// oneDNN chooses the layout by the size of the input and the number of threads. It converts weights in another layout
/// at every call, which may take longer than the convolution. Many sizes share a layout, because layouts differ in
/// nothing but the number of output channels that are side by side. So each layout that was asked for is kept once,
/// and each size remembers its own.
class PackedWeights {
 public:
  /// `weight`: [K, C / groups, h, w] in float32 or bfloat16 on the CPU.
  PackedWeights(at::Tensor weight, const ConvolutionWindow& window);

  /// The weight for an input of `size` [N, C, H, W]. The first call for a size packs it.
  const at::Tensor& for_input(at::IntArrayRef size);

 private:
  size_t find_layout(at::IntArrayRef size);

  ConvolutionWindow window_;
  at::Tensor plain_;  // until the first layout is made
  std::vector<at::Tensor> layouts_;
  std::map<std::vector<int64_t>, size_t> layout_of_;  // by size and number of threads
};

/// relu?(convolution(x, weight) + bias) for a channels_last `x` and a weight for its size; `bias` may be undefined.
at::Tensor convolve_packed(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                           const ConvolutionWindow& window, bool relu);

/// The same with `sum` added before the ReLU. The result may be in the memory of `sum`.
at::Tensor convolve_packed_and_add(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                   const ConvolutionWindow& window, at::Tensor sum, bool relu);

}  // namespace bidiseg
