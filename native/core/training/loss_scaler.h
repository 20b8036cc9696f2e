// Loss scaling for float16 gradients.
#pragma once

#include "core/named_tensors.h"

namespace bidiseg {

/// Factor of losses whose gradients are computed in float16, where many gradients would otherwise be 0. The gradients
/// are divided by it. It follows torch.amp.GradScaler: the scale starts at 65536, doubles after 2000 consecutive finite
/// steps and halves after an overflow, whose step is not applied. It is a power of two, so that scaling does not round.
class LossScaler {
 public:
  /// Without `dynamic` the scale is always 1 and there is no state. `share` is the share of each loss in the step's
  /// loss. `options` are those of the losses.
  LossScaler(bool dynamic, double share, at::TensorOptions options);

  /// Prepares a step. To be called before each step, since the state may have been replaced.
  void prepare();

  /// Gradient that the backward pass of each loss starts with: share times scale. Undefined if that is always 1.
  const at::Tensor& loss_gradient() const { return loss_gradient_; }

  /// Factor of the gradients after the backward pass: 1 / scale, a float on the device of the losses.
  const at::Tensor& inverse() const { return inverse_; }

  /// Whether gradients that are not finite can be due to the scale, so that a later step may succeed. They cannot if
  /// the scale is at most 1 or after 20 consecutive overflows.
  bool may_overflow() const;

  /// Updates the scale after a step whose gradients were finite or not. If they were not, may_overflow() was true.
  void update(bool finite);

  /// `scale` and the numbers of consecutive finite steps (`good_steps`) and overflows. Shares storage.
  NamedTensors state() const;

 private:
  bool dynamic() const { return scale_.defined(); }

  double share_;
  at::Tensor scale_, good_steps_, overflows_;  // 0-dim, on the CPU
  at::Tensor loss_gradient_, inverse_;         // 0-dim, on the device of the losses
};

}  // namespace bidiseg
