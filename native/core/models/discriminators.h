// The two discriminators: on label space (D_M) and on images (D_F).
#pragma once

#include "core/models/network.h"

namespace bidiseg {

struct OutputDiscriminatorOptions {
  int64_t class_count = 19;
  int64_t base_width = 64;
  uint64_t seed = 1;
};

/// D_M of AdaptSegNet and BDL: five 4x4 stride-2 convolutions over class probabilities, LeakyReLU(0.2) between,
/// no normalisation. [N, class_count, H, W] -> one logit per position, [N, 1, H/32, W/32].
class OutputDiscriminator : public Network {
 public:
  explicit OutputDiscriminator(const OutputDiscriminatorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;

 private:
  std::array<torch::nn::Conv2d, 4> convs_{nullptr, nullptr, nullptr, nullptr};
  torch::nn::Conv2d classifier_{nullptr};
};

struct PatchDiscriminatorOptions {
  int64_t base_width = 64;
  uint64_t seed = 1;
};

/// D_F: the 70x70 PatchGAN (Isola et al. 2017), InstanceNorm without affine on the middle three convolutions.
/// RGB in [-1, 1], [N, 3, H, W] -> one score per patch, [N, 1, H/8 - 2, W/8 - 2]. Weights start N(0, 0.02).
class PatchDiscriminator : public Network {
 public:
  explicit PatchDiscriminator(const PatchDiscriminatorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;

 private:
  std::array<torch::nn::Conv2d, 5> convs_{nullptr, nullptr, nullptr, nullptr, nullptr};
};

}  // namespace bidiseg
