// Labels and confidences from a segmenter's logits.
#pragma once

#include "core/models/network.h"
#include "kernels/upsampled_softmax.h"

namespace bidiseg {

struct Prediction {
  at::Tensor labels;      ///< uint8 [N, H, W]: argmax
  at::Tensor confidence;  ///< float [N, H, W]: probability of that class; undefined if not requested
};

/// Logits [N, C, ...] in float32 of RGB bytes [N, h, w, 3]. The segmenter must be in eval mode.
at::Tensor predict_logits(SegmentationNetwork& segmenter, const at::Tensor& rgb_bytes);

/// Segments RGB bytes [N, h, w, 3] in eval mode, at any output size. Without `thresholds` as predict() from logits,
/// with one threshold per class as predict_balanced().
Prediction predict(SegmentationNetwork& segmenter, const at::Tensor& rgb_bytes, int64_t height, int64_t width,
                   kernels::SoftmaxOrder order, bool with_confidence, const std::vector<double>& thresholds);

/// Predicts as predict() does, with an output size for each image. The images share the forward pass. Labels and
/// confidences are flat, one image after the other.
Prediction predict_sizes(SegmentationNetwork& segmenter, const at::Tensor& rgb_bytes,
                         const std::vector<std::array<int64_t, 2>>& heights_and_widths, kernels::SoftmaxOrder order,
                         bool with_confidence, const std::vector<double>& thresholds);

/// Argmax and, on request, its probability, from logits [N, C, h, w] of any floating-point dtype.
Prediction predict(const at::Tensor& logits, const kernels::Upsampling& size, kernels::SoftmaxOrder order,
                   bool with_confidence);

/// Class-balanced prediction (CBST, Zou et al. 2018): the class whose probability exceeds its own threshold by the
/// largest factor, argmax_c p_c / t_c with t_c = exp(-k_c), and its probability p_c. Keeps the probabilities of all
/// classes in memory. Throws InvalidArgument unless there is one threshold above 0 per class.
Prediction predict_balanced(const at::Tensor& logits, int64_t height, int64_t width, kernels::SoftmaxOrder order,
                            const std::vector<double>& thresholds);

/// Probabilities [N, C, height, width] in either order.
at::Tensor upsampled_probabilities(const at::Tensor& logits, int64_t height, int64_t width,
                                   kernels::SoftmaxOrder order);

}  // namespace bidiseg
