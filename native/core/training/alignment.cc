#include "core/training/alignment.h"

#include "core/losses/alignment.h"

namespace bidiseg {

at::Tensor discriminator_input(Alignment alignment, const SegmentationOutput& output, int64_t height, int64_t width) {
  if (alignment == Alignment::kFeatures) return output.features.to(output.logits.scalar_type());
  const at::Tensor probabilities = class_probabilities(output.logits, height, width);
  return alignment == Alignment::kEntropies ? self_information(probabilities) : probabilities;
}

at::Tensor moment_distance(Alignment alignment, const at::Tensor& source_features, const at::Tensor& target_features) {
  return alignment == Alignment::kMeans ? mean_distance(source_features, target_features)
                                        : correlation_distance(source_features, target_features);
}

}  // namespace bidiseg
