#include "core/models/resnet_generator.h"

#include "core/cancellation.h"
#include "core/models/convolution.h"
#include "core/models/normalization.h"

namespace bidiseg {
namespace {

using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;
using torch::nn::ConvTranspose2d;
using torch::nn::ConvTranspose2dOptions;

// Initial skip weight: a deviation of 1 becomes tanh(0.5), about half of the range of colors on each side of gray.
constexpr double kFirstContrast = 0.5;

constexpr double kRelu = 0;  // slope

}  // namespace

ResnetGenerator::ResnetGenerator(const ResnetGeneratorOptions& options)
    : ImageGenerator("ResnetGenerator"), residual_(options.residual) {
  // Weights are named by their position in the usual Sequential, which counts paddings, norms and activations too:
  // 0 pad, 1 conv, 2 norm, 3 relu, 4 conv, ..., 10 first block, ...
  auto model = std::make_shared<torch::nn::Module>("Model");
  const int64_t width = options.base_width;
  stem_ = model->register_module("1", Conv2d(Conv2dOptions(3, width, 7)));
  down1_ = model->register_module("4", Conv2d(Conv2dOptions(width, width * 2, 3).stride(2).padding(1)));
  down2_ = model->register_module("7", Conv2d(Conv2dOptions(width * 2, width * 4, 3).stride(2).padding(1)));
  constexpr int64_t kFirstBlock = 10;
  for (int64_t i = 0; i < options.blocks; ++i) {
    auto& block = blocks_.emplace_back();
    auto sequence = std::make_shared<torch::nn::Module>("ConvBlock");
    block.first = sequence->register_module("1", Conv2d(Conv2dOptions(width * 4, width * 4, 3)));
    block.second = sequence->register_module("5", Conv2d(Conv2dOptions(width * 4, width * 4, 3)));
    auto holder = std::make_shared<torch::nn::Module>("ResnetBlock");
    holder->register_module("conv_block", sequence);
    model->register_module(std::to_string(kFirstBlock + i), holder);
  }
  const auto up = [&](int64_t index, int64_t in, int64_t out) {
    const std::string name = std::to_string(kFirstBlock + options.blocks + index);
    Doubling doubling;
    if (options.resizes) {
      doubling.resized = model->register_module(name, Conv2d(Conv2dOptions(in, out, 3)));
    } else {
      doubling.transposed = model->register_module(
          name, ConvTranspose2d(ConvTranspose2dOptions(in, out, 3).stride(2).padding(1).output_padding(1)));
    }
    return doubling;
  };
  up1_ = up(0, width * 4, width * 2);
  up2_ = up(3, width * 2, width);
  output_ =
      model->register_module(std::to_string(kFirstBlock + options.blocks + 7), Conv2d(Conv2dOptions(width, 3, 7)));
  register_module("model", model);
  initialize_normal(*this, 0.02, make_cpu_generator(options.seed));
  if (residual_) {
    at::NoGradGuard no_grad;
    output_->weight.zero_();
    skip_weight_ = register_parameter("skip_weight", at::full({3}, kFirstContrast));
    skip_bias_ = register_parameter("skip_bias", at::zeros({3}));
  }
}

at::Tensor ResnetGenerator::Doubling::forward(const at::Tensor& x) {
  if (transposed) return transposed(x);
  const at::Tensor doubled = at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)});
  return convolve(resized, reflection_pad(doubled, 1));
}

at::Tensor ResnetGenerator::forward(const at::Tensor& input) {
  check_size(input);
  at::Tensor x = instance_norm(convolve(stem_, reflection_pad(input, 3)), {.slope = kRelu});
  x = instance_norm(convolve(down1_, x), {.slope = kRelu});
  x = cancellation_point(instance_norm(convolve(down2_, x), {.slope = kRelu}));
  for (auto& block : blocks_) {
    x = run_segment(x, [&block](const at::Tensor& x) {
      const at::Tensor y = instance_norm(convolve(block.first, reflection_pad(x, 1)), {.slope = kRelu});
      return cancellation_point(instance_norm(convolve(block.second, reflection_pad(y, 1)), {.sum = x}));
    });
  }
  x = instance_norm(up1_.forward(x), {.slope = kRelu});
  x = cancellation_point(instance_norm(up2_.forward(x), {.slope = kRelu}));
  x = convolve(output_, reflection_pad(x, 3)).type_as(input);
  if (residual_) {
    const auto of_channel = [](const at::Tensor& values) { return values.view({1, 3, 1, 1}); };
    x = x + of_channel(skip_weight_) * instance_norm(input) + of_channel(skip_bias_);
  }
  return x.tanh();
}

}  // namespace bidiseg
