#include "core/losses/feature_distance.h"

namespace bidiseg {
namespace {

// Positions that one of the classes covers, bool [N, h, w].
at::Tensor covered(const at::Tensor& labels, const FeatureDistanceOptions& options, at::IntArrayRef size) {
  std::vector<at::Tensor> shares;
  for (const int64_t of_class : options.classes) {
    shares.push_back(at::adaptive_avg_pool2d((labels == of_class).to(at::kFloat), size));
  }
  return at::stack(shares).amax(0) > options.minimum_share;
}

}  // namespace

at::Tensor feature_distance(const at::Tensor& features, const at::Tensor& anchor, const at::Tensor& labels,
                            const FeatureDistanceOptions& options) {
  const auto dtype = features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor counts = covered(labels, options, {features.size(2), features.size(3)}).to(dtype);
  const at::Tensor difference = features.to(dtype) - anchor.detach().to(dtype);
  const at::Tensor distances = at::linalg_vector_norm(difference, 2, at::IntArrayRef{1});
  return (distances * counts).sum() / counts.sum().clamp_min(1);
}

}  // namespace bidiseg
