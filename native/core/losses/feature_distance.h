// Distance of a network's features from those that it began with.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Which positions feature_distance() looks at.
struct FeatureDistanceOptions {
  std::vector<int64_t> classes;  ///< of things
  double minimum_share;          ///< of the pixels of a position's cell that a class must exceed
  double weight;                 ///< of the loss
};

/// Mean Euclidean distance of features on things (DAFormer, Hoyer et al. 2022):
///
///     l = sum_j m_j || f_j - g_j || / sum_j m_j,
///
/// over images and positions j. `labels`, uint8 [N, H, W], are divided into as many cells as features [N, C, h, w] have
/// positions, as adaptive average pooling does it. m_j is 1 if one of the classes exceeds the minimum share of cell j,
/// and else 0. l is 0 if no position counts. `anchor` g gets no gradient.
at::Tensor feature_distance(const at::Tensor& features, const at::Tensor& anchor, const at::Tensor& labels,
                            const FeatureDistanceOptions& options);

}  // namespace bidiseg
