// Softmax over the classes of bilinearly upsampled logits, and what self-training makes of it, without the
// full-resolution logits ever existing: work is done per cell of the low-resolution grid. On the CPU see
// cpu/cell_sweep.h, on CUDA cuda/upsampled_softmax.cu.
//
// Logits are [N, C, h, w] with 2 <= C <= 256, contiguous, float or (CPU) double; callers convert. Output size H >= h,
// W >= w. All sums have a fixed order: the same input gives the same bits, whatever the number of threads.
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
  at::Tensor loss;        ///< 0-dim: the sum over counting pixels of weight * -log softmax[label]
  at::Tensor weight;      ///< 0-dim: the sum of their weights
  at::Tensor gradient;    ///< of `loss`, shape of the logits, where wanted
  at::Tensor predicted;   ///< uint8 [N, H, W], where wanted
  at::Tensor confidence;  ///< [N, H, W], where wanted
  /// int64, 0-dim, on the device of the logits: the largest label that is neither a class nor the ignore index, or
  /// kNoInvalidLabel. Pixels with such a label do not count.
  at::Tensor invalid_label;
};

inline constexpr int64_t kNoInvalidLabel = INT64_MIN;

/// Loss and gradient in one pass.
CrossEntropyOutput upsampled_cross_entropy(const CrossEntropyInput& input);

enum class SoftmaxOrder {
  kAfterUpsampling,   ///< of the upsampled logits: training, and the paper
  kBeforeUpsampling,  ///< of the logits; the probabilities are upsampled: the reference's pseudo-labels
};

/// The argmax, uint8 [N, H, W], and with `confidence` its probability, [N, H, W]. Among equals the first class wins.
void upsampled_argmax(const at::Tensor& logits, const Upsampling& size, SoftmaxOrder order, at::Tensor& predicted,
                      at::Tensor* confidence);

/// Probabilities [N, C, H, W].
at::Tensor upsampled_softmax(const at::Tensor& logits, const Upsampling& size);

/// The gradient with respect to `logits` of sum(upstream * upsampled_softmax(logits)).
at::Tensor upsampled_softmax_backward(const at::Tensor& logits, const Upsampling& size, const at::Tensor& upstream);

}  // namespace bidiseg::kernels
