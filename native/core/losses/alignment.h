// Losses that align two domains, besides BDL's discriminator on outputs: moments of features and entropies of outputs.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Squared distance of mean features, MMD with a linear kernel (Tzeng et al. 2014, "Deep Domain Confusion"):
///
///     l = || mu_S - mu_T ||^2,   mu the mean over images and positions, [C].
///
/// Features are [N, C, h, w]; all but C may differ.
at::Tensor mean_distance(const at::Tensor& source_features, const at::Tensor& target_features);

/// Distance of feature covariances (Sun & Saenko 2016, "Deep CORAL"):
///
///     l = || K_S - K_T ||_F^2 / (4 C^2),   K the unbiased covariance over images and positions, [C, C].
///
/// Features are [N, C, h, w] with at least two positions in all; all but C may differ.
at::Tensor correlation_distance(const at::Tensor& source_features, const at::Tensor& target_features);

/// Weighted self-information, the input of ADVENT's discriminator (Vu et al. 2019):
///
///     I = - p log p / log C,   [N, C, H, W] -> [N, C, H, W], values in [0, 1 / (e log C)].
at::Tensor self_information(const at::Tensor& probabilities);

/// Mean over pixels of the entropy of softmax(up(logits)), divided by its largest value log C ("MinEnt", Vu et al.
/// 2019). It is 0 if every pixel has a class of probability 1, and 1 if all classes are equally probable.
at::Tensor entropy_loss(const at::Tensor& logits, int64_t height, int64_t width);

}  // namespace bidiseg
