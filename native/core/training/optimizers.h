// SGD and Adam over parameter groups, on LibTorch's fused kernels (torch::optim never calls them).
#pragma once

#include "core/models/network.h"
#include "core/torch.h"

namespace bidiseg {

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates the parameters that have a gradient, at `learning_rate` times their own factors.
  void step(double learning_rate);

  /// Drops all gradients.
  void zero_grad();

  const std::vector<TrainedParameter>& parameters() const { return parameters_; }

  /// Buffers of the optimizer. Names are PyTorch's name of the buffer and the name of the parameter, such as
  /// `exp_avg.conv1.weight`. Shares storage with the optimizer.
  virtual NamedTensors state() const = 0;

 protected:
  /// Parameters with the same learning rate factor and repeat count, by their indices in parameters().
  struct Group {
    double learning_rate_factor;
    int repeats;
    std::vector<size_t> indices;
  };

  explicit Optimizer(std::vector<TrainedParameter> parameters);
  virtual void step_group(const std::vector<size_t>& indices, int repeats, double learning_rate) = 0;

  /// `tensors`, one for each parameter in order, with names as in state().
  NamedTensors named(const std::string& kind, const std::vector<at::Tensor>& tensors) const;

  /// The tensors at `indices` of `all`.
  static std::vector<at::Tensor> select(const std::vector<at::Tensor>& all, const std::vector<size_t>& indices);

  std::vector<at::Tensor> values_;

 private:
  std::vector<TrainedParameter> parameters_;
  std::vector<Group> groups_;
};

struct SgdOptions {
  double momentum;
  double weight_decay;
  /// Update each parameter TrainedParameter::reference_repeats times a step, as the reference's PyTorch does. There the
  /// decay is added to the gradient itself, so that the r-th update contains it r times.
  bool repeated_step;
};

/// v <- momentum v + (g + decay w); w <- w - lr v. The first v is g + decay w.
class Sgd : public Optimizer {
 public:
  Sgd(std::vector<TrainedParameter> parameters, const SgdOptions& options);
  NamedTensors state() const override;

 private:
  void step_group(const std::vector<size_t>& indices, int repeats, double learning_rate) override;

  SgdOptions options_;
  std::vector<at::Tensor> momentum_;
};

struct AdamOptions {
  double beta1;
  double beta2;
  double eps;
  double weight_decay;  ///< added to the gradient (L2), not decoupled
  /// As PyTorch 0.4 does: eps is added to √v before the bias correction, not after it.
  bool early_epsilon;
};

/// Adam (Kingma & Ba 2015) with bias correction, as torch.optim.Adam.
class Adam : public Optimizer {
 public:
  Adam(std::vector<TrainedParameter> parameters, const AdamOptions& options);
  NamedTensors state() const override;

 private:
  void step_group(const std::vector<size_t>& indices, int repeats, double learning_rate) override;

  AdamOptions options_;
  std::vector<at::Tensor> mean_, square_, steps_;
};

}  // namespace bidiseg
