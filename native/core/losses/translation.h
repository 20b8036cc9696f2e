// Losses of the translators F, F⁻¹ and of their discriminators D_F (Eq. 2).
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Loss between scores of D_F and "real" (1) or "fake" (0).
enum class GanMode {
  kLeastSquares,        ///< mean squared error (Mao et al. 2017): the reference
  kBinaryCrossEntropy,  ///< with logits (Goodfellow et al. 2014)
};

at::Tensor gan_loss(const at::Tensor& scores, bool real, GanMode mode);

/// Distance between segmentation outputs of an image and of its translation.
enum class PerceptualForm {
  kL1,             ///< mean absolute difference of logits: the paper
  kNormalizedMse,  ///< mean squared difference of logits that are instance-normalized per class: the reference
};

at::Tensor perceptual_loss(const at::Tensor& logits, const at::Tensor& other, PerceptualForm form);

}  // namespace bidiseg
