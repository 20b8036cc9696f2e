// DeepLab-v2 (Chen et al. 2017) on a dilated ResNet, as BDL uses it: output stride 8, and a head that sums dilated 3x3
// convolutions. State-dict names are those of the published weights.
#pragma once

#include "core/models/fused_convolution.h"
#include "core/models/network.h"

namespace bidiseg {

enum class Backbone { kResNet18, kResNet34, kResNet50, kResNet101 };

/// Convolution of a bottleneck that has the block's stride: the first, 1x1, as in Caffe and DeepLab, or the one in the
/// middle, 3x3, as in torchvision.
enum class BottleneckStride { kFirst, kMiddle };

struct DeepLabV2Options {
  Backbone backbone;
  double width;  ///< factor of every channel count
  int64_t class_count;
  /// Number of the head's branches (dilations 6, 12, 18, 24) that are summed: 4, or 2 as in the code that made the
  /// released weights. All four have parameters either way.
  int64_t branches;
  BottleneckStride bottleneck_stride;  ///< without effect in ResNet-18 and -34
  Initialization initialization;
  uint64_t seed;
};

/// [N, 3, H, W] -> logits [N, class_count, (H + 1)/8 + 1, (W + 1)/8 + 1] (integer division).
class DeepLabV2 : public SegmentationNetwork {
 public:
  explicit DeepLabV2(const DeepLabV2Options& options);
  SegmentationOutput forward_with_features(const at::Tensor& input) override;
  std::vector<TrainedParameter> trained_parameters(double head_factor) const override;
  int64_t class_count() const override { return class_count_; }

  /// Channels of layer4.
  int64_t feature_count() const override { return feature_count_; }

 private:
  int64_t class_count_;
  int64_t feature_count_ = 0;
  size_t branches_;
  std::optional<FusedConvolution> stem_;
  std::array<torch::nn::Sequential, 4> layers_{nullptr, nullptr, nullptr, nullptr};
  std::vector<FusedConvolution> head_;
};

}  // namespace bidiseg
