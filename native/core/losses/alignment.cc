#include "core/losses/alignment.h"

#include "core/errors.h"
#include "core/losses/segmentation.h"

namespace bidiseg {
namespace {

// [N, C, h, w] -> [C, N h w], in a dtype that is wide enough for sums.
at::Tensor by_channel(const at::Tensor& features) {
  const auto dtype = features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return features.to(dtype).transpose(0, 1).flatten(1);
}

void check_features(const at::Tensor& source, const at::Tensor& target) {
  if (source.dim() == 4 && target.dim() == 4 && source.size(1) == target.size(1)) return;
  std::ostringstream text;
  text << "Expected features [N, C, h, w] of equal C but received " << source.sizes() << " and " << target.sizes();
  throw InvalidArgument(text.str());
}

at::Tensor covariance(const at::Tensor& features) {
  const at::Tensor x = by_channel(features);
  if (x.size(1) < 2) throw InvalidArgument("Expected features of at least two positions but received one");
  const at::Tensor centered = x - x.mean(1, /*keepdim=*/true);
  return at::mm(centered, centered.t()) / static_cast<double>(x.size(1) - 1);
}

}  // namespace

at::Tensor mean_distance(const at::Tensor& source_features, const at::Tensor& target_features) {
  check_features(source_features, target_features);
  return (by_channel(source_features).mean(1) - by_channel(target_features).mean(1)).square().sum();
}

at::Tensor correlation_distance(const at::Tensor& source_features, const at::Tensor& target_features) {
  check_features(source_features, target_features);
  // The sum of squares over C^2 is a mean.
  return (covariance(source_features) - covariance(target_features)).square().mean() / 4;
}

at::Tensor self_information(const at::Tensor& probabilities) {
  if (probabilities.dim() != 4 || probabilities.size(1) < 2) {
    std::ostringstream text;
    text << "Expected probabilities [N, C, H, W] with C of at least 2 but received " << probabilities.sizes();
    throw InvalidArgument(text.str());
  }
  // p may be 0 in float. This term keeps p log p and its derivative finite and changes no other value.
  constexpr double kTiny = 1e-30;
  return probabilities * (probabilities + kTiny).log() * (-1 / std::log(static_cast<double>(probabilities.size(1))));
}

at::Tensor entropy_loss(const at::Tensor& logits, int64_t height, int64_t width) {
  const at::Tensor information = self_information(class_probabilities(logits, height, width));
  return information.mean() * static_cast<double>(logits.size(1));
}

}  // namespace bidiseg
