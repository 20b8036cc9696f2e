// Losses of the segmenter M and of its discriminator D_M (Eq. 1 and Eq. 3).
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// What a sum over pixels is divided by.
enum class Normalise {
  kValid,  ///< the number of pixels that count: the reference
  kAll,    ///< N * H * W: the paper's 1/HW
};

struct CrossEntropyOptions {
  Normalise normalise = Normalise::kValid;
  int64_t ignore_index = 255;
};

/// Bilinear upsampling of `logits` [N, C, h, w] to the size of `labels` [N, H, W] (align_corners), softmax and
/// cross-entropy over the pixels whose label is not `ignore_index`:
///
///     l = - 1/D * sum_{labels[n,y,x] != ignore} log softmax(up(logits))[n, labels[n,y,x], y, x]
///
/// Labels are uint8 or int64. Where no pixel counts, the loss is 0 with a zero gradient. A label outside [0, C) that is
/// not the ignore index is an InvalidArgument that names it. With pseudo-labels whose unsure pixels carry the ignore
/// index this is the masked cross-entropy of Eq. 3.
at::Tensor masked_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, const CrossEntropyOptions& options);

/// Bilinear resize with align_corners = true, the only kind that BDL's segmentation uses.
at::Tensor resize_bilinear(const at::Tensor& x, int64_t height, int64_t width);

/// softmax(up(logits)): what D_M sees, at image resolution.
at::Tensor class_probabilities(const at::Tensor& logits, int64_t height, int64_t width);

/// The two sides of D_M.
enum class Domain { kSource = 0, kTarget = 1 };

/// Mean binary cross-entropy of discriminator logits against "all of this is `domain`". D_M's own loss is half of it on
/// each domain's detached probabilities; M's adversarial loss is it on the target's probabilities with kSource.
at::Tensor domain_loss(const at::Tensor& discriminator_logits, Domain domain);

}  // namespace bidiseg
