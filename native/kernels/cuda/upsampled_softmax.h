// kernels/upsampled_softmax.h on CUDA, for float logits only.
#pragma once

#include "kernels/upsampled_softmax.h"

namespace bidiseg::kernels::cuda {

CrossEntropyOutput upsampled_cross_entropy(const CrossEntropyInput& input);
void upsampled_argmax(const at::Tensor& logits, const Upsampling& size, SoftmaxOrder order, at::Tensor& predicted,
                      at::Tensor* confidence);
at::Tensor upsampled_softmax(const at::Tensor& logits, const Upsampling& size);
at::Tensor upsampled_softmax_backward(const at::Tensor& logits, const Upsampling& size, const at::Tensor& upstream);

}  // namespace bidiseg::kernels::cuda
