// What the backward pass of a step's losses begins with.
#pragma once

#include "core/named_tensors.h"

namespace bidiseg {

/// Where gradients are computed in float16, losses are multiplied by a scale, or else many gradients would be 0, and the
/// gradients divided by it. It is found as torch.amp.GradScaler finds it: begun at 65536, doubled behind 2000 steps in a row
/// whose gradients were finite, halved behind one whose were not, which is not applied. A power of two, so that it rounds
/// nothing.
class LossScaler {
 public:
  /// One that is not dynamic has the scale 1 for ever, and no state. `share` is that of each loss that goes backward in the
  /// step's, which its gradient is to have too; `options` those of the losses.
  LossScaler(bool dynamic, double share, at::TensorOptions options);

  /// To be called before each step, as the state may have been replaced.
  void prepare();

  /// What the backward pass of each loss begins with: its share times the scale. Undefined where that is 1 for ever.
  const at::Tensor& loss_gradient() const { return loss_gradient_; }

  /// What gradients are multiplied by behind it: 1 / scale, a float on the losses' device.
  const at::Tensor& inverse() const { return inverse_; }

  /// Whether gradients that are not finite may be the scale's fault, so that a later step may do better. At a scale of 1 or
  /// below they are not, nor after 20 such steps in a row.
  bool may_overflow() const;

  /// To be called behind each step, with whether its gradients were finite; where they were not, may_overflow() was true.
  void update(bool finite);

  /// `scale`, and how many steps in a row up to now were finite (`good_steps`) or not (`overflows`). Shares storage.
  NamedTensors state() const;

 private:
  bool dynamic() const { return scale_.defined(); }

  double share_;
  at::Tensor scale_, good_steps_, overflows_;  // 0-dim, on the CPU
  at::Tensor loss_gradient_, inverse_;         // 0-dim, where the losses are
};

}  // namespace bidiseg
