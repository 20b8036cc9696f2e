#include "core/self_training/pseudo_labels.h"

#include "core/data/labels.h"
#include "core/errors.h"

namespace bidiseg {
namespace {

void check_pair(const at::Tensor& labels, const at::Tensor& confidence) {
  if (labels.numel() != confidence.numel()) {
    throw InvalidArgument("Expected as many confidences as labels but received " + std::to_string(confidence.numel()) +
                          " and " + std::to_string(labels.numel()));
  }
}

}  // namespace

ThresholdHistogram::ThresholdHistogram(int64_t class_count, int64_t bins)
    : bins_(bins), counts_(static_cast<size_t>(class_count), std::vector<int64_t>(static_cast<size_t>(bins))) {}

void ThresholdHistogram::add(const at::Tensor& labels, const at::Tensor& confidence) {
  check_pair(labels, confidence);
  const at::Tensor flat_labels = labels.contiguous(), flat_confidence = confidence.contiguous();
  const auto* label = flat_labels.const_data_ptr<uint8_t>();
  const auto* value = flat_confidence.const_data_ptr<float>();
  const auto classes = class_count(), bins = bins_;
  std::array<int64_t*, 256> counts{};
  for (size_t c = 0; c < counts_.size(); ++c) counts[c] = counts_[c].data();
  const int64_t pixels = flat_labels.numel();
  // Checked before anything is counted. Rounding can make a mean of probabilities slightly larger than 1.
  const auto fits = [](float confidence) { return (confidence >= 0.0f) & (confidence <= 1.001f); };
  bool all_fit = true;
  for (int64_t i = 0; i < pixels; ++i) all_fit &= (label[i] < classes) & fits(value[i]);
  for (int64_t i = 0; !all_fit && i < pixels; ++i) {
    if (label[i] >= classes) throw_label_out_of_range("labels", label[i], classes);
    if (!fits(value[i])) {
      throw InvalidArgument("Expected confidences from 0 to 1 but found " + std::to_string(value[i]));
    }
  }
  for (int64_t i = 0; i < pixels; ++i) {
    const auto bin = static_cast<int64_t>(static_cast<double>(value[i]) * static_cast<double>(bins));
    ++counts[label[i]][std::min(bin, bins - 1)];
  }
}

std::vector<double> ThresholdHistogram::thresholds(double portion, double cap) const {
  std::vector<double> result;
  for (const auto& histogram : counts_) {
    int64_t pixels = 0;
    for (const int64_t count : histogram) pixels += count;
    if (pixels == 0) {
      result.push_back(0.0);
      continue;
    }
    // nearbyint rounds half to even, as numpy does.
    const auto rank = std::min<int64_t>(std::nearbyint(portion * static_cast<double>(pixels)), pixels - 1);
    int64_t below = 0, bin = 0;
    while (below + histogram[static_cast<size_t>(bin)] <= rank) below += histogram[static_cast<size_t>(bin++)];
    result.push_back(std::min(cap, static_cast<double>(bin) / static_cast<double>(bins_)));
  }
  return result;
}

std::vector<int64_t> ThresholdHistogram::class_pixels() const {
  std::vector<int64_t> result;
  for (const auto& histogram : counts_) {
    int64_t pixels = 0;
    for (const int64_t count : histogram) pixels += count;
    result.push_back(pixels);
  }
  return result;
}

PseudoLabels apply_thresholds(const at::Tensor& labels, const at::Tensor& confidence,
                              const std::vector<double>& thresholds, bool inclusive, int64_t ignore_index) {
  check_pair(labels, confidence);
  const auto class_count = static_cast<int64_t>(thresholds.size());
  const at::Tensor flat_labels = labels.contiguous(), flat_confidence = confidence.contiguous();
  PseudoLabels result{at::empty_like(flat_labels), std::vector<int64_t>(thresholds.size())};
  const auto* label = flat_labels.const_data_ptr<uint8_t>();
  const auto* value = flat_confidence.const_data_ptr<float>();
  auto* out = result.labels.mutable_data_ptr<uint8_t>();
  auto* kept = result.kept_per_class.data();
  // Without a branch, since the processor cannot predict which pixels are kept.
  for (int64_t i = 0, pixels = flat_labels.numel(); i < pixels; ++i) {
    if (label[i] >= class_count) throw_label_out_of_range("labels", label[i], class_count);
    const double threshold = thresholds[label[i]];
    const bool keep = (value[i] > threshold) | (inclusive & (value[i] == threshold));
    out[i] = keep ? label[i] : static_cast<uint8_t>(ignore_index);
    kept[label[i]] += keep;
  }
  return result;
}

Prediction pseudo_labels(const at::Tensor& logits, const kernels::Upsampling& size, kernels::SoftmaxOrder order,
                         std::vector<double> thresholds, bool inclusive, int64_t ignore_index,
                         ThresholdHistogram* histogram) {
  Prediction prediction = predict(logits, size, order, /*with_confidence=*/true);
  const auto class_count = static_cast<size_t>(logits.size(1));
  if (thresholds.size() == 1) thresholds.resize(class_count, thresholds[0]);
  if (thresholds.size() != class_count) {
    throw InvalidArgument("Expected a threshold, or " + std::to_string(class_count) + ", one per class, but received " +
                          std::to_string(thresholds.size()));
  }
  const at::Tensor labels = prediction.labels.cpu(), confidence = prediction.confidence.cpu();
  if (histogram != nullptr) histogram->add(labels, confidence);
  prediction.labels = apply_thresholds(labels, confidence, thresholds, inclusive, ignore_index).labels;
  return prediction;
}

}  // namespace bidiseg
