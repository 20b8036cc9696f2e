#include "core/self_training/pseudo_labels.h"

#include <bit>
#include <numeric>

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

// Rounding can make a mean of probabilities slightly larger than 1.
constexpr float kLargest = 1.001f;

// Bit pattern of a float of at least 0; -0 has that of 0.
uint32_t pattern(float value) { return std::bit_cast<uint32_t>(value + 0.0f); }
float value_of(uint32_t pattern) { return std::bit_cast<float>(pattern); }

}  // namespace

ThresholdHistogram::ThresholdHistogram(int64_t class_count, int64_t bins)
    : bins_(bins), classes_(static_cast<size_t>(class_count)) {
  for (Class& each : classes_) each.counts.resize(static_cast<size_t>(bins));
}

void ThresholdHistogram::add(const at::Tensor& labels, const at::Tensor& confidence) {
  check_pair(labels, confidence);
  const at::Tensor flat_labels = labels.contiguous(), flat_confidence = confidence.contiguous();
  const auto* label = flat_labels.const_data_ptr<uint8_t>();
  const auto* value = flat_confidence.const_data_ptr<float>();
  const auto classes = class_count(), bins = bins_;
  const int64_t pixels = flat_labels.numel();
  // Checked before anything is counted.
  const auto fits = [](float confidence) { return (confidence >= 0.0f) & (confidence <= kLargest); };
  bool all_fit = true;
  for (int64_t i = 0; i < pixels; ++i) all_fit &= (label[i] < classes) & fits(value[i]);
  for (int64_t i = 0; !all_fit && i < pixels; ++i) {
    if (label[i] >= classes) throw_label_out_of_range("labels", label[i], classes);
    if (!fits(value[i])) {
      throw InvalidArgument("Expected confidences from 0 to 1 but found " + std::to_string(value[i]));
    }
  }
  if (in_first_pass()) {
    for (int64_t i = 0; i < pixels; ++i) {
      Class& own = classes_[label[i]];
      const auto bin = static_cast<int64_t>(static_cast<double>(value[i]) * static_cast<double>(bins));
      ++own.pixels;
      ++own.counts[static_cast<size_t>(std::min(bin, bins - 1))];
    }
    return;
  }
  for (int64_t i = 0; i < pixels; ++i) {
    Class& own = classes_[label[i]];
    const int64_t offset = int64_t{pattern(value[i])} - own.patterns.first;
    ++own.pixels;
    own.below += offset < 0;
    if (offset >= 0 && offset < own.patterns.count) ++own.counts[static_cast<size_t>(offset >> own.shift)];
  }
}

std::vector<double> ThresholdHistogram::thresholds(double portion, double cap) const {
  require_pass(portion, cap);
  std::vector<double> result;
  for (const Class& each : classes_) {
    if (each.exact) {
      result.push_back(*each.exact);
    } else {
      const auto bin = threshold_bin(each, portion);
      result.push_back(bin ? std::min(cap, lower_edge(each, *bin)) : 0.0);
    }
  }
  return result;
}

bool ThresholdHistogram::refine(double portion, double cap) {
  require_pass(portion, cap);
  std::vector<Class> next(classes_.size());
  bool all_exact = true;
  for (size_t c = 0; c < classes_.size(); ++c) {
    const Class& now = classes_[c];
    next[c].exact = now.exact;
    if (now.exact) continue;
    const auto bin = threshold_bin(now, portion);
    const double edge = bin ? lower_edge(now, *bin) : 0.0;
    const Patterns patterns = bin ? patterns_in(now, *bin) : Patterns{};
    if (patterns.count <= 1 || edge >= cap) {
      next[c].exact = std::min(cap, edge);
      continue;
    }
    all_exact = false;
    next[c].patterns = patterns;
    while ((patterns.count - 1) >> next[c].shift >= bins_) ++next[c].shift;
  }
  if (all_exact) return false;
  if (in_first_pass()) first_pixels_ = class_pixels();
  refined_for_ = {portion, cap};
  for (size_t c = 0; c < classes_.size(); ++c) {
    next[c].counts = std::move(classes_[c].counts);
    std::fill(next[c].counts.begin(), next[c].counts.end(), 0);
  }
  classes_ = std::move(next);
  return true;
}

void ThresholdHistogram::combine(ProcessGroup& group) {
  const at::Tensor totals = at::empty({class_count(), 2}, at::kLong);
  auto* total = totals.mutable_data_ptr<int64_t>();
  std::vector<at::Tensor> counts = {totals};
  for (Class& each : classes_) {
    *total++ = each.pixels;
    *total++ = each.below;
    counts.push_back(at::from_blob(each.counts.data(), {bins_}, at::kLong));
  }
  group.add(counts);
  total = totals.mutable_data_ptr<int64_t>();
  for (Class& each : classes_) {
    each.pixels = *total++;
    each.below = *total++;
  }
}

std::vector<int64_t> ThresholdHistogram::class_pixels() const {
  if (!in_first_pass()) return first_pixels_;
  std::vector<int64_t> result;
  for (const Class& each : classes_) result.push_back(each.pixels);
  return result;
}

// A pass over other pixels would give a wrong threshold. Pixels may change their class, since predictions on a GPU may
// differ in the last bits from one pass to the next.
void ThresholdHistogram::require_pass(double portion, double cap) const {
  if (in_first_pass()) return;
  if (refined_for_ != std::pair(portion, cap)) {
    throw InvalidArgument("Expected portion and cap as in refine(), " + std::to_string(refined_for_->first) + " and " +
                          std::to_string(refined_for_->second) + ", but received " + std::to_string(portion) + " and " +
                          std::to_string(cap));
  }
  const int64_t before = std::accumulate(first_pixels_.begin(), first_pixels_.end(), int64_t{0});
  int64_t now = 0;
  for (const Class& each : classes_) now += each.pixels;
  if (now != before) {
    throw InvalidArgument("Expected the " + std::to_string(before) + " pixels of the first pass again but received " +
                          std::to_string(now));
  }
}

// The bin that holds p_sorted[round(portion n)]. None for a class without pixels.
std::optional<int64_t> ThresholdHistogram::threshold_bin(const Class& of, double portion) const {
  if (of.pixels == 0) return std::nullopt;
  // nearbyint rounds half to even, as numpy does.
  const auto rank = std::min<int64_t>(std::nearbyint(portion * static_cast<double>(of.pixels)), of.pixels - 1);
  const int64_t last = in_first_pass() ? bins_ - 1 : (of.patterns.count - 1) >> of.shift;
  int64_t below = of.below, bin = 0;
  while (bin < last && below + of.counts[static_cast<size_t>(bin)] <= rank) {
    below += of.counts[static_cast<size_t>(bin++)];
  }
  return bin;
}

double ThresholdHistogram::lower_edge(const Class& of, int64_t bin) const {
  const Patterns patterns = patterns_in(of, bin);
  if (in_first_pass() && patterns.count > 1) return static_cast<double>(bin) / static_cast<double>(bins_);
  return value_of(patterns.first);
}

ThresholdHistogram::Patterns ThresholdHistogram::patterns_in(const Class& of, int64_t bin) const {
  if (!in_first_pass()) {
    const int64_t first = bin << of.shift;
    return {of.patterns.first + static_cast<uint32_t>(first),
            std::min(int64_t{1} << of.shift, of.patterns.count - first)};
  }
  // The smallest float of a bin. The product is exact.
  const auto first_of = [this](int64_t bin) {
    const auto belongs = [&](float value) {
      return static_cast<double>(value) * static_cast<double>(bins_) >= static_cast<double>(bin);
    };
    uint32_t first = pattern(static_cast<float>(static_cast<double>(bin) / static_cast<double>(bins_)));
    while (first > 0 && belongs(value_of(first - 1))) --first;
    while (!belongs(value_of(first))) ++first;
    return first;
  };
  const uint32_t first = first_of(bin), end = bin + 1 < bins_ ? first_of(bin + 1) : pattern(kLargest) + 1;
  return {first, int64_t{end} - first};
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
