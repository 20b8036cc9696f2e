// Softmax over the classes of bilinearly upsampled logits, and losses and predictions from it. The kernels never store
// the upsampled logits: they work per cell of the low-resolution grid. See cpu/cell_sweep.h for the CPU and
// cuda/upsampled_softmax_kernels.cuh for CUDA.
//
// Logits are [N, C, h, w] with 2 <= C <= 256, contiguous, float or (CPU only) double; callers convert. Output size is H
// >= h, W >= w. All sums have a fixed order: the same input gives the same bits for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace bidiseg::kernels {

/// Bilinear upsampling to [height, width], with the source index arithmetic of at::upsample_bilinear2d.
struct Upsampling {
  int64_t height;
  int64_t width;
  bool align_corners;
};

struct CrossEntropyInput {
  at::Tensor logits;
  Upsampling size;
  at::Tensor labels;  ///< [N, H, W], uint8 or int64, contiguous. Undefined: see `thresholds`.
  int64_t ignore_index;
  /// [C], dtype of the logits. Without labels a pixel's label is its argmax. It counts if its probability exceeds
  /// thresholds[label] (`inclusive`: or equals it).
  at::Tensor thresholds;
  bool inclusive;
  at::Tensor class_weights;  ///< [C], dtype of the logits; undefined: 1
  at::Tensor pixel_weights;  ///< [N, H, W], dtype of the logits, contiguous; undefined: 1
  bool with_gradient;
  bool with_prediction;  ///< without labels: return each pixel's argmax and its probability too
};

struct CrossEntropyOutput {
  at::Tensor loss;        ///< 0-dim: sum of weight * -log softmax[label] over the pixels that count
  at::Tensor weight;      ///< 0-dim: sum of their weights
  at::Tensor gradient;    ///< of `loss`, shape of the logits; only with_gradient
  at::Tensor predicted;   ///< uint8 [N, H, W]; only with_prediction
  at::Tensor confidence;  ///< [N, H, W]; only with_prediction
  /// int64, 0-dim, on the device of the logits: the largest label that is neither a class nor the ignore index, or
  /// kNoInvalidLabel. Pixels with such a label do not count.
  at::Tensor invalid_label;
};

inline constexpr int64_t kNoInvalidLabel = INT64_MIN;

/// Cross-entropy and its gradient in one pass.
CrossEntropyOutput upsampled_cross_entropy(const CrossEntropyInput& input);

enum class SoftmaxOrder {
  kAfterUpsampling,   ///< of the upsampled logits: training, and the paper
  kBeforeUpsampling,  ///< of the logits; the probabilities are upsampled: the reference's pseudo-labels
};

/// Argmax, uint8 [N, H, W], and if `confidence` is not null its probability, [N, H, W]. Of equal classes the first
/// wins.
void upsampled_argmax(const at::Tensor& logits, const Upsampling& size, SoftmaxOrder order, at::Tensor& predicted,
                      at::Tensor* confidence);

/// Probabilities [N, C, H, W].
at::Tensor upsampled_softmax(const at::Tensor& logits, const Upsampling& size);

/// Gradient of sum(upstream * upsampled_softmax(logits)) with respect to `logits`.
at::Tensor upsampled_softmax_backward(const at::Tensor& logits, const Upsampling& size, const at::Tensor& upstream);

}  // namespace bidiseg::kernels
