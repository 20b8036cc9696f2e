// Pseudo-labels: which of a segmenter's predictions are kept as labels.
#pragma once

#include "core/distributed/process_group.h"
#include "core/inference/prediction.h"

namespace bidiseg {

/// Confidence histograms over a whole data set, one per predicted class. Their memory does not depend on the size of
/// the set.
///
/// In the first pass over the set, the bins divide [0, 1]. In a further pass, the bins of a class divide the one that
/// holds its threshold. There, floats are counted by their bit patterns, which are as ordered as positive floats. A bin
/// of one pattern gives the exact threshold. With 65536 bins, that is the second pass for all values from 1/512 on.
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
  /// the bin that holds p_sorted[...]. Throws InvalidArgument in a further pass for other arguments than refine() had,
  /// or another number of pixels than in the first pass.
  std::vector<double> thresholds(double portion, double cap) const;

  /// Starts a further pass over the same pixels. Returns false, and does nothing, if thresholds() is exact already.
  /// Throws as thresholds() does.
  bool refine(double portion, double cap);

  /// Adds the counts that the other processes of a group have made in this pass. All then hold the counts of all.
  void combine(ProcessGroup& group);

  int64_t class_count() const { return static_cast<int64_t>(classes_.size()); }

  /// Pixels of each class in the first pass.
  std::vector<int64_t> class_pixels() const;
  int64_t bytes() const { return class_count() * bins_ * static_cast<int64_t>(sizeof(int64_t)); }

 private:
  // Consecutive bit patterns of floats.
  struct Patterns {
    uint32_t first;
    int64_t count;
  };

  struct Class {
    std::vector<int64_t> counts;  // [bin]
    Patterns patterns{};          // of all bins of a further pass,
    int shift = 0;                // which hold 2^shift patterns each
    int64_t pixels = 0;           // of this pass
    int64_t below = 0;            // those of them below the first bin
    std::optional<double> exact;  // the threshold, once it is known
  };

  bool in_first_pass() const { return !refined_for_; }
  void require_pass(double portion, double cap) const;
  std::optional<int64_t> threshold_bin(const Class& of, double portion) const;
  double lower_edge(const Class& of, int64_t bin) const;
  Patterns patterns_in(const Class& of, int64_t bin) const;

  int64_t bins_;
  std::vector<Class> classes_;
  std::optional<std::pair<double, double>> refined_for_;  // portion and cap
  std::vector<int64_t> first_pixels_;                     // pixels of the first pass, once it is over
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
