// Between images as bytes and what the networks take and give. Conversion runs on the device of the bytes.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// RGB bytes [N, H, W, 3] -> BGR float [N, 3, H, W] minus the Caffe mean (104.00698793, 116.66876762, 122.67891434),
/// not divided: what M takes.
at::Tensor segmenter_input(const at::Tensor& rgb_bytes);

/// RGB bytes [N, H, W, 3] -> RGB float [N, 3, H, W] in [-1, 1]: what F takes.
at::Tensor translator_input(const at::Tensor& rgb_bytes);

/// What F gives -> what M takes; differentiable.
at::Tensor segmenter_input_from_translator(const at::Tensor& rgb);

/// What F gives -> RGB bytes [N, H, W, 3], rounded to nearest.
at::Tensor translator_output_bytes(const at::Tensor& rgb);

}  // namespace bidiseg
