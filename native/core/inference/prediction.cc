#include "core/inference/prediction.h"

#include "core/data/pixels.h"
#include "core/errors.h"
#include "core/losses/segmentation.h"
#include "core/tensor_cores.h"

namespace bidiseg {

at::Tensor predict_logits(SegmentationNetwork& segmenter, const at::Tensor& rgb_bytes) {
  at::Tensor images = segmenter_input(rgb_bytes, segmenter.dtype());
  if (uses_tensor_cores(images.device())) images = images.contiguous(at::MemoryFormat::ChannelsLast);
  return segmenter.forward(images).to(at::kFloat);
}

namespace {

Prediction choose(const at::Tensor& logits, int64_t height, int64_t width, kernels::SoftmaxOrder order,
                  bool with_confidence, const std::vector<double>& thresholds) {
  return thresholds.empty() ? predict(logits, {height, width, /*align_corners=*/true}, order, with_confidence)
                            : predict_balanced(logits, height, width, order, thresholds);
}

}  // namespace

Prediction predict(SegmentationNetwork& segmenter, const at::Tensor& rgb_bytes, int64_t height, int64_t width,
                   kernels::SoftmaxOrder order, bool with_confidence, const std::vector<double>& thresholds) {
  const c10::InferenceMode inference;
  const EvaluationScope evaluation(segmenter);
  return choose(predict_logits(segmenter, rgb_bytes), height, width, order, with_confidence, thresholds);
}

Prediction predict_sizes(SegmentationNetwork& segmenter, const at::Tensor& rgb_bytes,
                         const std::vector<std::array<int64_t, 2>>& heights_and_widths, kernels::SoftmaxOrder order,
                         bool with_confidence, const std::vector<double>& thresholds) {
  const c10::InferenceMode inference;
  const EvaluationScope evaluation(segmenter);
  const at::Tensor logits = predict_logits(segmenter, rgb_bytes);
  std::vector<at::Tensor> labels, confidences;
  for (size_t i = 0; i < heights_and_widths.size(); ++i) {
    const auto [height, width] = heights_and_widths[i];
    const at::Tensor of_image = logits.narrow(0, static_cast<int64_t>(i), 1);
    const Prediction one = choose(of_image, height, width, order, with_confidence, thresholds);
    labels.push_back(one.labels.flatten());
    if (with_confidence) confidences.push_back(one.confidence.flatten());
  }
  return {at::cat(labels), with_confidence ? at::cat(confidences) : at::Tensor()};
}

Prediction predict(const at::Tensor& logits, const kernels::Upsampling& size, kernels::SoftmaxOrder order,
                   bool with_confidence) {
  check_logits(logits);
  Prediction prediction;
  kernels::upsampled_argmax(logits.detach().to(at::kFloat).contiguous(), size, order, prediction.labels,
                            with_confidence ? &prediction.confidence : nullptr);
  return prediction;
}

Prediction predict_balanced(const at::Tensor& logits, int64_t height, int64_t width, kernels::SoftmaxOrder order,
                            const std::vector<double>& thresholds) {
  check_logits(logits);
  const auto class_count = static_cast<size_t>(logits.size(1));
  const auto positive = [](double threshold) { return threshold > 0; };
  if (thresholds.size() != class_count || !std::all_of(thresholds.begin(), thresholds.end(), positive)) {
    throw InvalidArgument("Expected " + std::to_string(class_count) + " thresholds above 0, one per class");
  }
  const at::Tensor probabilities = upsampled_probabilities(logits.detach().to(at::kFloat), height, width, order);
  const at::Tensor by_class = at::tensor(thresholds, probabilities.options()).view({1, -1, 1, 1});
  const at::Tensor labels = (probabilities / by_class).argmax(1, /*keepdim=*/true);
  return {labels.squeeze(1).to(at::kByte), probabilities.gather(1, labels).squeeze(1)};
}

at::Tensor upsampled_probabilities(const at::Tensor& logits, int64_t height, int64_t width,
                                   kernels::SoftmaxOrder order) {
  if (order == kernels::SoftmaxOrder::kAfterUpsampling) return class_probabilities(logits, height, width);
  return resize_bilinear(at::softmax(logits, 1), height, width);
}

}  // namespace bidiseg
