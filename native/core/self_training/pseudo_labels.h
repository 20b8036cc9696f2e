// From a segmenter's outputs to pseudo-labels.
#pragma once

#include "core/models/network.h"
#include "kernels/upsampled_softmax.h"

namespace bidiseg {

struct Prediction {
  at::Tensor labels;      ///< uint8 [N, H, W]: argmax
  at::Tensor confidence;  ///< float [N, H, W]: the probability of that class; undefined where not asked for
};

/// Segments RGB bytes [N, h, w, 3] in eval mode, at any output size. Each class index fits a byte. With `thresholds`, one
/// per class, as predict_balanced().
Prediction predict(SegmentationNetwork& segmenter, const at::Tensor& rgb_bytes, int64_t height, int64_t width,
                   kernels::SoftmaxOrder order, bool with_confidence, const std::vector<double>& thresholds = {});

/// The same from logits [N, C, h, w] of any floating-point dtype.
Prediction predict(const at::Tensor& logits, const kernels::Upsampling& size, kernels::SoftmaxOrder order,
                   bool with_confidence);

/// The class whose probability exceeds its own threshold by the largest factor, argmax_c p_c / t_c, and its probability
/// p_c: class-balanced self-training (CBST, Zou et al. 2018), where t_c = exp(-k_c). Takes the memory of all classes'
/// probabilities.
Prediction predict_balanced(const at::Tensor& logits, int64_t height, int64_t width, kernels::SoftmaxOrder order,
                            const std::vector<double>& thresholds);

/// Probabilities [N, C, height, width] in either order.
at::Tensor upsampled_probabilities(const at::Tensor& logits, int64_t height, int64_t width, kernels::SoftmaxOrder order);

/// Confidence histograms, one per predicted class, over a whole data set: memory does not depend on the set's size.
class ThresholdHistogram {
 public:
  ThresholdHistogram(int64_t class_count, int64_t bins);

  /// `labels` uint8 and `confidence` float in [0, 1], of equal shape, on the CPU.
  void add(const at::Tensor& labels, const at::Tensor& confidence);

  /// For each class c with n_c pixels: min(cap, p_sorted[round(portion n_c)]) with p_sorted ascending, rounded half to
  /// even, and 0 for a class that never occurred. Exact to one bin: the returned value is the lower edge of the bin
  /// that holds p_sorted[...], 1/bins wide.
  std::vector<double> thresholds(double portion, double cap) const;

  int64_t class_count() const { return static_cast<int64_t>(counts_.size()); }
  std::vector<int64_t> class_pixels() const;
  int64_t bytes() const { return class_count() * bins_ * static_cast<int64_t>(sizeof(int64_t)); }

 private:
  int64_t bins_;
  std::vector<std::vector<int64_t>> counts_;  // [class][bin]
};

struct PseudoLabels {
  at::Tensor labels;                   ///< uint8, `ignore_index` where not kept
  std::vector<int64_t> kept_per_class;
};

/// Keeps a pixel predicted as class c where its confidence exceeds thresholds[c] (`inclusive`: or equals it, the
/// reference's comparison).
PseudoLabels apply_thresholds(const at::Tensor& labels, const at::Tensor& confidence,
                              const std::vector<double>& thresholds, bool inclusive, int64_t ignore_index);

/// predict() and apply_thresholds() from logits; `thresholds` are one for all classes or one per class. `histogram`, which
/// may be null, takes every pixel's confidence.
Prediction pseudo_labels(const at::Tensor& logits, const kernels::Upsampling& size, kernels::SoftmaxOrder order,
                         std::vector<double> thresholds, bool inclusive, int64_t ignore_index,
                         ThresholdHistogram* histogram);

/// counts[truth * class_count + prediction] over pixels whose truth is not `ignore_index`: int64 [C * C]. Values
/// outside [0, C) are an InvalidArgument that names them.
at::Tensor confusion_counts(const at::Tensor& truth, const at::Tensor& prediction, int64_t class_count,
                            int64_t ignore_index);

}  // namespace bidiseg
