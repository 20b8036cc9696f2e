#include "core/losses/translation.h"

#include "core/models/normalization.h"

namespace bidiseg {

at::Tensor gan_loss(const at::Tensor& scores, bool real, GanMode mode) {
  const at::Tensor target = at::full_like(scores, real ? 1.0 : 0.0);
  return mode == GanMode::kLeastSquares ? at::mse_loss(scores, target)
                                        : at::binary_cross_entropy_with_logits(scores, target);
}

at::Tensor perceptual_loss(const at::Tensor& logits, const at::Tensor& other, PerceptualForm form) {
  return form == PerceptualForm::kL1 ? at::l1_loss(logits, other)
                                     : at::mse_loss(instance_norm(logits), instance_norm(other));
}

}  // namespace bidiseg
