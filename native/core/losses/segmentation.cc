#include "core/losses/segmentation.h"

#include "core/errors.h"

namespace bidiseg {
namespace {

void check_shapes(const at::Tensor& logits, const at::Tensor& labels) {
  const bool fit = logits.dim() == 4 && labels.dim() == 3 && logits.size(0) == labels.size(0) &&
                   labels.size(1) >= logits.size(2) && labels.size(2) >= logits.size(3);
  if (!fit) {
    std::ostringstream message;
    message << "Expected logits [N, C, h, w] and labels [N, H, W] with H >= h and W >= w but received "
            << logits.sizes() << " and " << labels.sizes();
    throw InvalidArgument(message.str());
  }
  if (labels.scalar_type() != at::kByte && labels.scalar_type() != at::kLong) {
    throw InvalidArgument(std::string("Expected labels of dtype uint8 or int64 but received ") +
                          at::toString(labels.scalar_type()));
  }
}

}  // namespace

at::Tensor masked_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, const CrossEntropyOptions& options) {
  check_shapes(logits, labels);
  const int64_t classes = logits.size(1);
  const at::Tensor target = labels.to(at::kLong);
  const at::Tensor counted = target != options.ignore_index;
  {
    at::NoGradGuard no_grad;
    const at::Tensor outside = counted & ((target < 0) | (target >= classes));
    if (outside.any().item<bool>()) {
      const auto value = target.masked_select(outside)[0].item<int64_t>();
      throw InvalidArgument("Expected labels from 0 to " + std::to_string(classes - 1) + " or the ignore index " +
                            std::to_string(options.ignore_index) + " but found " + std::to_string(value));
    }
  }
  const at::Tensor log_probabilities =
      at::log_softmax(resize_bilinear(logits, labels.size(1), labels.size(2)), /*dim=*/1);
  const at::Tensor sum =
      at::nll_loss2d(log_probabilities, target, /*weight=*/{}, at::Reduction::Sum, options.ignore_index);
  if (options.normalise == Normalise::kAll) return sum / static_cast<double>(labels.numel());
  return sum / counted.sum().clamp_min(1);
}

at::Tensor resize_bilinear(const at::Tensor& x, int64_t height, int64_t width) {
  if (x.size(2) == height && x.size(3) == width) return x;
  return at::upsample_bilinear2d(x, {height, width}, /*align_corners=*/true);
}

at::Tensor class_probabilities(const at::Tensor& logits, int64_t height, int64_t width) {
  return at::softmax(resize_bilinear(logits, height, width), /*dim=*/1);
}

at::Tensor domain_loss(const at::Tensor& discriminator_logits, Domain domain) {
  const auto target = at::full_like(discriminator_logits, static_cast<double>(domain));
  return at::binary_cross_entropy_with_logits(discriminator_logits, target);
}

}  // namespace bidiseg
