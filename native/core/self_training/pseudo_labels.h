// Pseudo-labels: which of a segmenter's predictions are kept as labels.
#pragma once

#include "core/inference/prediction.h"

namespace bidiseg {

/// Confidence histograms over a whole data set, one per predicted class. Their memory does not depend on the size of
/// the set.
class ThresholdHistogram {
 public:
  ThresholdHistogram(int64_t class_count, int64_t bins);

  /// Counts pixels: `labels` uint8 and `confidence` float in [0, 1], of equal shape, on the CPU. Throws InvalidArgument
  /// for a value out of range, and then counts nothing.
  void add(const at::Tensor& labels, const at::Tensor& confidence);

  /// Threshold of each class c with n_c pixels:
  ///
  ///     t_c = min(cap, p_sorted[round(portion n_c)]),   p_sorted ascending,
  ///
  /// rounded half to even; 0 for a class that never occurred. The result is exact to one bin: it is the lower edge of
  /// the bin, 1/bins wide, that holds p_sorted[...].
  std::vector<double> thresholds(double portion, double cap) const;

  int64_t class_count() const { return static_cast<int64_t>(counts_.size()); }
  std::vector<int64_t> class_pixels() const;
  int64_t bytes() const { return class_count() * bins_ * static_cast<int64_t>(sizeof(int64_t)); }

 private:
  int64_t bins_;
  std::vector<std::vector<int64_t>> counts_;  // [class][bin]
};

struct PseudoLabels {
  at::Tensor labels;  ///< uint8, `ignore_index` where not kept
  std::vector<int64_t> kept_per_class;
};

/// Keeps the pixels predicted as class c whose confidence exceeds thresholds[c]. With `inclusive`, the reference's
/// comparison, a confidence equal to the threshold is kept too. `labels` are uint8, `confidence` float, on the CPU.
PseudoLabels apply_thresholds(const at::Tensor& labels, const at::Tensor& confidence,
                              const std::vector<double>& thresholds, bool inclusive, int64_t ignore_index);

/// predict() and apply_thresholds() from logits; `thresholds` holds one for all classes or one per class. `histogram`
/// counts the confidence of every pixel; it may be null.
Prediction pseudo_labels(const at::Tensor& logits, const kernels::Upsampling& size, kernels::SoftmaxOrder order,
                         std::vector<double> thresholds, bool inclusive, int64_t ignore_index,
                         ThresholdHistogram* histogram);

}  // namespace bidiseg
