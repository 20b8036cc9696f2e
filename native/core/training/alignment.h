#pragma once

#include "core/losses/segmentation.h"
#include "core/models/network.h"

namespace bidiseg {

/// Method that aligns a segmenter's features or outputs of both domains.
enum class Alignment {
  kOutputs,       ///< a discriminator on class probabilities: BDL, after AdaptSegNet (Tsai et al. 2018)
  kEntropies,     ///< a discriminator on self-information: ADVENT (Vu et al. 2019)
  kFeatures,      ///< a discriminator on features (Hoffman et al. 2016)
  kMeans,         ///< mean_distance() of features
  kCorrelations,  ///< correlation_distance() of features
  kNone,
};

inline bool has_discriminator(Alignment alignment) {
  return alignment == Alignment::kOutputs || alignment == Alignment::kEntropies || alignment == Alignment::kFeatures;
}
inline bool compares_moments(Alignment alignment) {
  return alignment == Alignment::kMeans || alignment == Alignment::kCorrelations;
}

/// Input of the discriminator, for images of [height, width]; only for alignments that have one.
at::Tensor discriminator_input(Alignment alignment, const SegmentationOutput& output, int64_t height, int64_t width);

/// Distance of moments; only for alignments that compare them.
at::Tensor moment_distance(Alignment alignment, const at::Tensor& source_features, const at::Tensor& target_features);

}  // namespace bidiseg
