// Losses of the segmenter M and of its discriminator D_M (Eq. 1 and Eq. 3).
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Divisor of a sum over pixels.
enum class Normalize {
  kValid,  ///< number of pixels that count, or the sum of their weights: the reference
  kAll,    ///< N * H * W: the paper's 1/HW
};

struct CrossEntropyOptions {
  Normalize normalize;
  int64_t ignore_index;
  bool align_corners;
  at::Tensor class_weights;  ///< [C]; undefined: 1
  at::Tensor pixel_weights;  ///< [N, H, W]; undefined: 1
};

/// Whether the labels of a loss are in range: a result that is still on the device. Reading it waits for the device, so
/// that training steps read it together with their losses. The CPU follows the same protocol.
struct LabelCheck {
  at::Tensor invalid_label;  ///< int64, 0-dim; see kernels::CrossEntropyOutput
  int64_t class_count;
  int64_t ignore_index;

  /// Throws InvalidArgument naming the largest label that is neither a class nor the ignore index, if there is one.
  void throw_if_invalid() const;
};

struct CrossEntropyLoss {
  at::Tensor loss;  ///< 0-dim
  LabelCheck labels;
};

/// Throws InvalidArgument unless there is one of `values` per class. `what` they are is part of the message.
void check_per_class(int64_t values, int64_t class_count, const char* what);

/// Throws InvalidArgument unless there is one weight per class, or none (undefined).
void check_class_weights(const at::Tensor& weights, int64_t class_count);

/// Throws InvalidArgument unless these are floating-point logits [N, C, h, w] with C from 2 to 256.
void check_logits(const at::Tensor& logits);

/// Bilinear upsampling of `logits` [N, C, h, w] to the size of `labels` [N, H, W], softmax and cross-entropy over the
/// pixels whose label is not `ignore_index`:
///
///     l = - 1/D * sum_{labels[n,y,x] != ignore} w[n,y,x] log softmax(up(logits))[n, labels[n,y,x], y, x]
///
/// in one pass that never stores the upsampled logits. Logits are of any floating-point dtype, C from 2 to 256, labels
/// uint8 or int64. The loss is float (double for double logits). If no pixel counts, loss and gradient are 0. The same
/// input gives the same bits for any number of threads. There is no second derivative. For pseudo-labels in which
/// pixels below the threshold have the ignore index, this is the masked cross-entropy of Eq. 3.
///
/// Double logits must be on the CPU. A label outside [0, C) that is not the ignore index does not count, and the caller
/// must report it with LabelCheck::throw_if_invalid().
CrossEntropyLoss masked_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                                      const CrossEntropyOptions& options);

/// Thresholds above which a segmenter's own predictions count as labels.
struct ConfidenceThresholds {
  std::vector<double> values;  ///< one for all classes, or one per class
  bool inclusive;              ///< whether a confidence equal to its threshold counts: true in the reference
};

struct SelfTrainingLoss {
  at::Tensor loss;
  at::Tensor labels;      ///< uint8 [N, H, W]: argmax, or the ignore index if it does not count
  at::Tensor predicted;   ///< uint8 [N, H, W]: argmax
  at::Tensor confidence;  ///< [N, H, W]: its probability
};

/// masked_cross_entropy() with pseudo-labels found in the same pass: the argmax of each of height * width pixels whose
/// probability exceeds the threshold. Labels and mask are constants for the derivative. Without `with_prediction` the
/// result has only the loss.
SelfTrainingLoss self_training_loss(const at::Tensor& logits, int64_t height, int64_t width,
                                    const ConfidenceThresholds& thresholds, const CrossEntropyOptions& options,
                                    bool with_prediction);

/// Bilinear resize with align_corners = true, the only kind that BDL's segmentation uses.
at::Tensor resize_bilinear(const at::Tensor& x, int64_t height, int64_t width);

/// softmax(up(logits)) [N, C, height, width], the input of D_M. The upsampled logits are never stored.
at::Tensor class_probabilities(const at::Tensor& logits, int64_t height, int64_t width);

/// Classes of D_M.
enum class Domain { kSource = 0, kTarget = 1 };

/// Mean binary cross-entropy of discriminator logits with the label `domain` everywhere. D_M's own loss is the sum over
/// both domains of half of this, on detached probabilities. M's adversarial loss is this on the target's probabilities
/// with kSource.
at::Tensor domain_loss(const at::Tensor& discriminator_logits, Domain domain);

}  // namespace bidiseg
