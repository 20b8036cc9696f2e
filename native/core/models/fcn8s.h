// FCN-8s (Long et al. 2015) on VGG-16.
#pragma once

#include "core/models/network.h"
#include "core/models/vgg16.h"

namespace bidiseg {

struct Fcn8sOptions {
  double width;  ///< factor of every channel count, fc6 and fc7 included
  int64_t class_count;
  Initialization initialization;
  uint64_t seed;  ///< of the initial weights and of dropout
};

/// [N, 3, H, W] -> logits [N, class_count, H, W].
class Fcn8s : public SegmentationNetwork {
 public:
  explicit Fcn8s(const Fcn8sOptions& options);
  SegmentationOutput forward_with_features(const at::Tensor& input) override;

  /// Biases have twice the learning rate (Long et al. 2015); there is no separate head.
  std::vector<TrainedParameter> trained_parameters(double head_factor) const override;
  int64_t class_count() const override { return class_count_; }

  /// Channels of fc7.
  int64_t feature_count() const override { return fc7_->out_channels(); }
  at::Generator generator() const override { return dropout_generator_; }

 private:
  at::Tensor dropout(const at::Tensor& x);

  int64_t class_count_;
  std::vector<VggStage> stages_;
  std::optional<FusedConvolution> fc6_, fc7_, score_fr_, score_pool3_, score_pool4_;
  torch::nn::ConvTranspose2d upscore2_{nullptr}, upscore_pool4_{nullptr}, upscore8_{nullptr};
  at::Generator dropout_generator_;
};

}  // namespace bidiseg
