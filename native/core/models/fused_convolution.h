// Convolution with the operations that follow it.
#pragma once

#include <mutex>

#include "core/models/packed_convolution.h"

namespace bidiseg {

/// Convolution, optional BatchNorm, optional sum with a shortcut, and optional ReLU.
///
/// In c10::InferenceMode, used for predictions, weights and statistics are constants, and BatchNorm is part of the
/// convolution:
///
///     w' = w·γ/√(σ² + ε),  b' = (b − μ)·γ/√(σ² + ε) + β.
///
/// All of it is then one oneDNN operation, on CPUs that support it, and its weights are kept in oneDNN's layouts and
/// dtype (PackedWeights). Wide 3x3 convolutions in float32 use Winograd's algorithm (kernels/winograd.h). Their weights
/// take four times the memory, and their rounding errors are larger, about 2e-6 of the largest value. Kept weights are
/// renewed when the version of a module's tensor changes. Code that changes a tensor without autograd must bump its
/// version, as Optimizer::step() does. Several threads may predict at a time.
///
/// The owner registers the modules under the names of the state dict.
class FusedConvolution {
 public:
  explicit FusedConvolution(torch::nn::Conv2d convolution, torch::nn::BatchNorm2d norm = nullptr);

  at::Tensor operator()(const at::Tensor& x) { return forward(x, {}, false); }
  at::Tensor relu(const at::Tensor& x) { return forward(x, {}, true); }

  /// Consumes `sum`, which may hold the result.
  at::Tensor add_relu(const at::Tensor& x, const at::Tensor& sum) { return forward(x, sum, true); }

  int64_t out_channels() const { return convolution_->options.out_channels(); }

 private:
  // Weights and bias derived from the modules, in one dtype.
  template <typename Weights>
  struct Constants {
    uint64_t version;
    at::ScalarType dtype;
    Weights weights;
    at::Tensor bias;  // may be undefined
  };

  struct Layer {
    at::Tensor weight, bias;  // bias may be undefined
  };

  at::Tensor forward(const at::Tensor& x, const at::Tensor& sum, bool relu);
  at::Tensor forward_packed(const at::Tensor& x, const at::Tensor& sum, bool relu);
  at::Tensor forward_cudnn(const at::Tensor& x, const at::Tensor& sum);
  bool is_constant() const;
  uint64_t version() const;

  // Returns what `choose` takes of `kept`, which is renewed from the folded weight if the modules have changed.
  // `arrange` gives the weights to keep, in `dtype`, from the folded one, which is in double.
  template <typename Weights, typename Arrange, typename Choose>
  Layer current(std::optional<Constants<Weights>>& kept, at::ScalarType dtype, Arrange arrange, Choose choose) const;
  template <typename Arrange>
  Layer current(std::optional<Constants<at::Tensor>>& kept, at::ScalarType dtype, Arrange arrange) const;

  torch::nn::Conv2d convolution_;
  torch::nn::BatchNorm2d norm_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();  // for what is kept
  std::optional<Constants<at::Tensor>> folded_, winograd_;
  std::optional<Constants<PackedWeights>> packed_;
};

}  // namespace bidiseg
