// F and F⁻¹: the ResNet generator of CycleGAN (Zhu et al. 2017, after Johnson et al. 2016).
#pragma once

#include "core/models/image_generator.h"

namespace bidiseg {

struct ResnetGeneratorOptions {
  int64_t blocks;
  int64_t base_width;
  /// Computes y = tanh(f(x) + w IN(x) + b) instead of y = tanh(f(x)), with w and b per channel. Details of the input
  /// bypass f. The last layer of f starts at 0.
  bool residual;
  /// Doubles the size by nearest neighbors, reflection padding and a convolution instead of a transposed convolution,
  /// whose outputs overlap unevenly: 1, 2 or 4 weights of 3x3 meet in a pixel (Odena et al. 2016).
  bool resizes;
  uint64_t seed;
};

/// RGB in [-1, 1] -> RGB in [-1, 1], [N, 3, H, W]; H and W must be multiples of 4. Initial weights are
/// N(0, 0.02).
class ResnetGenerator : public ImageGenerator {
 public:
  explicit ResnetGenerator(const ResnetGeneratorOptions& options);
  at::Tensor forward(const at::Tensor& input) override;
  int64_t size_multiple() const override { return 4; }

 private:
  struct Block {
    torch::nn::Conv2d first{nullptr}, second{nullptr};
  };
  /// Doubles the size. One of the two is null.
  struct Doubling {
    torch::nn::ConvTranspose2d transposed{nullptr};
    torch::nn::Conv2d resized{nullptr};
    at::Tensor forward(const at::Tensor& x);
  };
  torch::nn::Conv2d stem_{nullptr}, down1_{nullptr}, down2_{nullptr}, output_{nullptr};
  std::vector<Block> blocks_;
  Doubling up1_, up2_;
  bool residual_;
  at::Tensor skip_weight_, skip_bias_;
};

}  // namespace bidiseg
