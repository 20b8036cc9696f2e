#include "core/metrics/confusion.h"

#include "core/data/labels.h"
#include "core/errors.h"

namespace bidiseg {

at::Tensor confusion_counts(const at::Tensor& truth, const at::Tensor& prediction, int64_t class_count,
                            int64_t ignore_index) {
  if (truth.numel() != prediction.numel()) {
    throw InvalidArgument("Expected as many predictions as truths but received " + std::to_string(prediction.numel()) +
                          " and " + std::to_string(truth.numel()));
  }
  at::Tensor counts = at::zeros({class_count * class_count}, at::kLong);
  const at::Tensor flat_truth = truth.contiguous(), flat_prediction = prediction.contiguous();
  const auto* expected = flat_truth.const_data_ptr<uint8_t>();
  const auto* found = flat_prediction.const_data_ptr<uint8_t>();
  auto* count = counts.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < flat_truth.numel(); ++i) {
    if (expected[i] == ignore_index) continue;
    if (expected[i] >= class_count) throw_label_out_of_range("true labels", expected[i], class_count);
    if (found[i] >= class_count) throw_label_out_of_range("predicted labels", found[i], class_count);
    ++count[expected[i] * class_count + found[i]];
  }
  return counts;
}

}  // namespace bidiseg
