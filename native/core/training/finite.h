#pragma once

#include "core/errors.h"
#include "core/losses/segmentation.h"
#include "core/training/loss_scaler.h"
#include "core/training/optimizers.h"

namespace bidiseg {

/// What decides whether a step may be applied. It is gathered on the device and read back in one transfer, the only
/// time that a step waits for its device.
class StepChecks {
 public:
  /// `share`: of each given loss in what read() says of it.
  explicit StepChecks(double share = 1.0) : share_(share) {}

  /// A scalar loss, or a batch's part of one: read() writes to `value` the sum of what was given for it, times the share.
  void loss(const char* name, const at::Tensor& loss, double& value);

  /// Labels that must be in range.
  void labels(const LabelCheck& check) { labels_.push_back(check); }

  /// The gradients of an optimizer's parameters, as they are now; null: none. `name` is for the message.
  void gradients(const char* name, const Optimizer* optimizer);

  /// Gives the parameters these gradients again, which they have lost where a graph was replayed (see StepGraphs).
  void restore_gradients();

  /// Divides the gradients by the scale and tells whether they are finite. Throws InvalidArgument for a label out of range,
  /// NonFiniteLoss naming the first loss, or else, where the scale cannot be the reason, a parameter whose gradient, is NaN or
  /// infinite. To be called once a step, after all else.
  bool read(const LossScaler& scaler);

 private:
  struct Loss {
    const char* name;
    at::Tensor tensor;
    double* value;
  };
  [[noreturn]] void throw_non_finite_gradient() const;

  double share_;
  std::vector<Loss> losses_;
  std::vector<LabelCheck> labels_;
  std::vector<std::string> gradient_names_;
  std::vector<at::Tensor> parameters_, gradients_;
};

}  // namespace bidiseg
