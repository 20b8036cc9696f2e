// Discriminators of outputs (D_M), of features (instead of D_M) and of images (D_F).
#pragma once

#include "core/models/network.h"

namespace bidiseg {

struct OutputDiscriminatorOptions {
  int64_t class_count;
  int64_t base_width;
  uint64_t seed;
};

/// D_M of AdaptSegNet and BDL: five 4x4 stride-2 convolutions over class probabilities, with LeakyReLU(0.2) between
/// them and without normalization. [N, class_count, H, W] -> one logit per position, [N, 1, H/32, W/32].
class OutputDiscriminator : public Network {
 public:
  explicit OutputDiscriminator(const OutputDiscriminatorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;

 private:
  std::array<torch::nn::Conv2d, 4> convs_{nullptr, nullptr, nullptr, nullptr};
  torch::nn::Conv2d classifier_{nullptr};
};

struct FeatureDiscriminatorOptions {
  int64_t feature_count;
  int64_t base_width;
  uint64_t seed;
};

/// Discriminator of single positions of a segmenter's features (after Hoffman et al. 2016, "FCNs in the Wild"): 1x1
/// convolutions to 8 base_width, 8 base_width and 1 channels, with LeakyReLU(0.2) between them. [N, feature_count, h,
/// w] of any size -> one logit per position, [N, 1, h, w].
class FeatureDiscriminator : public Network {
 public:
  explicit FeatureDiscriminator(const FeatureDiscriminatorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;

 private:
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, classifier_{nullptr};
};

struct PatchDiscriminatorOptions {
  int64_t input_channels;
  int64_t base_width;
  uint64_t seed;
};

/// D_F: the 70x70 PatchGAN (Isola et al. 2017), with InstanceNorm without affine part after the middle three
/// convolutions. RGB in [-1, 1], [N, input_channels, H, W] -> one score per patch, [N, 1, H/8 - 2, W/8 - 2]. Initial
/// weights are N(0, 0.02). With 6 input channels it is conditional: its input is an image and the original of its
/// translation.
class PatchDiscriminator : public Network {
 public:
  explicit PatchDiscriminator(const PatchDiscriminatorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;

 private:
  std::array<torch::nn::Conv2d, 5> convs_{nullptr, nullptr, nullptr, nullptr, nullptr};
};

}  // namespace bidiseg
