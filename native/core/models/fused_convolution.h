// A convolution together with what follows it.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// A convolution, BatchNorm where there is one, the sum with a shortcut, and ReLU.
///
/// Where weights and statistics are constants (evaluation, and no gradient asked for them) BatchNorm is part of the
/// convolution:
///
///     w' = w·γ/√(σ² + ε),  b' = (b − μ)·γ/√(σ² + ε) + β.
///
/// Without a gradient for the input either, all of it is one operation of oneDNN's on CPUs that have it, and its weights
/// are kept in the layout and dtype that this wants. What is kept follows the modules by the versions of their tensors:
/// whatever changes one behind autograd's back has to bump its version, as Optimizer::step() does.
///
/// The modules stay registered with their owner under the names of the state dict.
class FusedConvolution {
 public:
  explicit FusedConvolution(torch::nn::Conv2d convolution, torch::nn::BatchNorm2d norm = nullptr);

  at::Tensor operator()(const at::Tensor& x) { return forward(x, {}, false); }
  at::Tensor relu(const at::Tensor& x) { return forward(x, {}, true); }

  /// `sum` is given up: it may hold the result.
  at::Tensor add(const at::Tensor& x, const at::Tensor& sum) { return forward(x, sum, false); }
  at::Tensor add_relu(const at::Tensor& x, const at::Tensor& sum) { return forward(x, sum, true); }

 private:
  struct Constants {
    uint64_t version;
    at::Tensor weight, bias;  // bias may be undefined
  };

  at::Tensor forward(const at::Tensor& x, const at::Tensor& sum, bool relu);
  at::Tensor forward_packed(const at::Tensor& x, const at::Tensor& sum, bool relu);
  bool is_constant() const;
  uint64_t version() const;
  Constants folded() const;

  torch::nn::Conv2d convolution_;
  torch::nn::BatchNorm2d norm_;
  std::optional<Constants> folded_, packed_;
};

}  // namespace bidiseg
