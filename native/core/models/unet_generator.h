// Generator of pix2pix (Isola et al. 2017): encoder and decoder, with connections between layers of equal size.
#pragma once

#include "core/models/image_generator.h"

namespace bidiseg {

struct UNetGeneratorOptions {
  int64_t depth;  ///< number of times that the image is halved, at least 2
  int64_t base_width;
  uint64_t seed;
};

/// 4x4 stride-2 convolutions down and up again, with 1, 2, 4 and then 8 times base_width channels. The input of each
/// decoder layer includes the encoder layer of its size. InstanceNorm without affine part, except at both ends;
/// LeakyReLU(0.2) down, ReLU up. There is no dropout, unlike in pix2pix, so that a translation depends on its image
/// only. Initial weights are N(0, 0.02).
class UNetGenerator : public ImageGenerator {
 public:
  explicit UNetGenerator(const UNetGeneratorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;
  int64_t size_multiple() const override { return int64_t{1} << down_.size(); }

 private:
  std::vector<torch::nn::Conv2d> down_;         // from the image inward
  std::vector<torch::nn::ConvTranspose2d> up_;  // up_[i] has the size of down_[i]'s input
};

}  // namespace bidiseg
