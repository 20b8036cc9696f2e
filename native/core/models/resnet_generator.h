// F and F⁻¹: the ResNet generator of CycleGAN (Zhu et al. 2017, after Johnson et al. 2016).
#pragma once

#include "core/models/image_generator.h"

namespace bidiseg {

struct ResnetGeneratorOptions {
  int64_t blocks = 9;
  int64_t base_width = 64;
  /// y = tanh(f(x) + atanh(a x)) / a with a = 0.9, which starts as the identity, in place of y = tanh(f(x)). It may go beyond
  /// white and black, to +-1/a.
  bool residual = false;
  uint64_t seed = 1;
};

/// RGB in [-1, 1] -> RGB in [-1, 1], [N, 3, H, W]; H and W must be multiples of 4. Weights start N(0, 0.02).
class ResnetGenerator : public ImageGenerator {
 public:
  explicit ResnetGenerator(const ResnetGeneratorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;
  int64_t size_multiple() const override { return 4; }

 private:
  struct Block {
    torch::nn::Conv2d first{nullptr}, second{nullptr};
  };
  torch::nn::Conv2d stem_{nullptr}, down1_{nullptr}, down2_{nullptr}, output_{nullptr};
  std::vector<Block> blocks_;
  torch::nn::ConvTranspose2d up1_{nullptr}, up2_{nullptr};
  bool residual_;
};

}  // namespace bidiseg
