#include "core/inference/averaged_prediction.h"

#include "core/data/pixels.h"
#include "core/losses/segmentation.h"

namespace bidiseg {

Prediction predict_averaged(SegmentationNetwork& segmenter, const std::vector<at::Tensor>& views, bool flip,
                            int64_t height, int64_t width, kernels::SoftmaxOrder order, bool with_confidence) {
  const c10::InferenceMode inference;
  const EvaluationScope evaluation(segmenter);
  const auto probabilities = [&](const at::Tensor& rgb_bytes) {
    return upsampled_probabilities(predict_logits(segmenter, rgb_bytes), height, width, order);
  };
  at::Tensor sum;
  const auto add = [&sum](const at::Tensor& part) { sum = sum.defined() ? sum.add_(part) : part; };
  for (const at::Tensor& view : views) {
    add(probabilities(view));
    if (flip) add(probabilities(view.flip(2)).flip(3));
  }
  auto [best, index] = sum.max(/*dim=*/1);
  const auto count = static_cast<double>(views.size()) * (flip ? 2 : 1);
  return {index.to(at::kByte), with_confidence ? best / count : at::Tensor()};
}

}  // namespace bidiseg
