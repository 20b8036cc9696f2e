// Conversions between images as bytes and the input and output of networks, on the device of the argument.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Input of an M of that dtype: RGB bytes [N, H, W, 3] -> BGR [N, 3, H, W] minus the Caffe mean (104.00698793,
/// 116.66876762, 122.67891434), not divided.
at::Tensor segmenter_input(const at::Tensor& rgb_bytes, at::ScalarType dtype = at::kFloat);

/// Input of an F of that dtype: RGB bytes [N, H, W, 3] -> RGB [N, 3, H, W] in [-1, 1].
at::Tensor translator_input(const at::Tensor& rgb_bytes, at::ScalarType dtype = at::kFloat);

/// Input of M from the output of F; differentiable.
at::Tensor segmenter_input_from_translator(const at::Tensor& rgb);

/// Output of F as RGB bytes [N, H, W, 3], rounded to nearest.
at::Tensor translator_output_bytes(const at::Tensor& rgb);

}  // namespace bidiseg
