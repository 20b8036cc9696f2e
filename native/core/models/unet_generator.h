// The generator of pix2pix (Isola et al. 2017): an encoder and a decoder with connections between layers of equal size.
#pragma once

#include "core/models/image_generator.h"

namespace bidiseg {

struct UNetGeneratorOptions {
  int64_t depth;  ///< how often the image is halved, at least 2
  int64_t base_width;
  uint64_t seed;
};

/// 4x4 stride-2 convolutions down and up again, with base_width, 2, 4, then always 8 times as many channels; each
/// decoder layer sees the encoder layer of its size too. InstanceNorm without affine but at both ends, LeakyReLU(0.2)
/// down, ReLU up. Without pix2pix's dropout: a translation is a function of its image. Weights start N(0, 0.02).
class UNetGenerator : public ImageGenerator {
 public:
  explicit UNetGenerator(const UNetGeneratorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;
  int64_t size_multiple() const override { return int64_t{1} << down_.size(); }

 private:
  std::vector<torch::nn::Conv2d> down_;         // from the image inwards
  std::vector<torch::nn::ConvTranspose2d> up_;  // up_[i] undoes down_[i]
};

}  // namespace bidiseg
