// Between images as bytes and what the networks take and give. Conversion runs on the device of the bytes.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// RGB bytes [N, H, W, 3] -> BGR [N, 3, H, W] minus the Caffe mean (104.00698793, 116.66876762, 122.67891434), not
/// divided: what an M of that dtype takes.
at::Tensor segmenter_input(const at::Tensor& rgb_bytes, at::ScalarType dtype = at::kFloat);

/// RGB bytes [N, H, W, 3] -> RGB [N, 3, H, W] in [-1, 1]: what an F of that dtype takes.
at::Tensor translator_input(const at::Tensor& rgb_bytes, at::ScalarType dtype = at::kFloat);

/// What F gives -> what M takes; differentiable.
at::Tensor segmenter_input_from_translator(const at::Tensor& rgb);

/// What F gives -> RGB bytes [N, H, W, 3], rounded to nearest.
at::Tensor translator_output_bytes(const at::Tensor& rgb);

}  // namespace bidiseg
