// DeepLab-v2 (Chen et al. 2017) on a dilated ResNet, as BDL uses it, or on a dilated VGG-16: output stride 8, and a
// head that sums dilated 3x3 convolutions. State-dict names are those of the published weights.
#pragma once

#include "core/models/network.h"
#include "core/models/vgg16.h"

namespace bidiseg {

enum class Backbone { kResNet18, kResNet34, kResNet50, kResNet101, kVgg16 };

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
  BottleneckStride bottleneck_stride;  ///< of ResNet-50 and -101
  Initialization initialization;
  uint64_t seed;
};

/// [N, 3, H, W] -> logits [N, class_count, h, w]. h is (H + 1)/8 + 1 on a ResNet and (H + 7)/8 on VGG-16 (integer
/// division), and w likewise.
///
/// VGG-16 has no fully connected layers here. Its last two poolings have stride 1 and a window of 3x3 instead of 2x2,
/// which keeps the size. Its last three convolutions have dilation 2.
class DeepLabV2 : public SegmentationNetwork {
 public:
  explicit DeepLabV2(const DeepLabV2Options& options);
  SegmentationOutput forward_with_features(const at::Tensor& input) override;
  std::vector<TrainedParameter> trained_parameters(double head_factor) const override;
  int64_t class_count() const override { return class_count_; }

  /// Channels of layer4, or of conv5_3.
  int64_t feature_count() const override { return feature_count_; }

 private:
  int64_t make_resnet(const DeepLabV2Options& options);
  at::Tensor resnet_features(const at::Tensor& input);
  at::Tensor vgg_features(const at::Tensor& input);

  int64_t class_count_;
  int64_t feature_count_ = 0;
  size_t branches_;
  std::vector<VggStage> stages_;  // of VGG-16; empty on a ResNet, which has a stem and layers
  std::optional<FusedConvolution> stem_;
  std::array<torch::nn::Sequential, 4> layers_{nullptr, nullptr, nullptr, nullptr};
  std::vector<FusedConvolution> head_;
};

}  // namespace bidiseg
