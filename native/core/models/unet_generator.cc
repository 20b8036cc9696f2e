#include "core/models/unet_generator.h"

#include "core/cancellation.h"
#include "core/models/convolution.h"
#include "core/models/normalization.h"

namespace bidiseg {
namespace {

using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;
using torch::nn::ConvTranspose2d;
using torch::nn::ConvTranspose2dOptions;

}  // namespace

UNetGenerator::UNetGenerator(const UNetGeneratorOptions& options) : ImageGenerator("UNetGenerator") {
  const auto depth = static_cast<size_t>(options.depth);
  const auto channels = [&](size_t level) { return options.base_width << std::min<size_t>(level, 3); };
  // Weights have the names of the usual nesting. Each level is a Sequential, which counts activations and norms too,
  // with the next level in its middle.
  torch::nn::Module* parent = this;
  std::string name = "model";
  std::vector<std::shared_ptr<torch::nn::Module>> levels;
  for (size_t i = 0; i < depth; ++i) {
    const bool outermost = i == 0, innermost = i + 1 == depth;
    auto block = std::make_shared<torch::nn::Module>("UNetLevel");
    parent->register_module(name, block);
    auto level = block->register_module("model", std::make_shared<torch::nn::Module>("Model"));
    down_.push_back(level->register_module(
        outermost ? "0" : "1",
        Conv2d(Conv2dOptions(outermost ? 3 : channels(i - 1), channels(i), 4).stride(2).padding(1))));
    levels.push_back(level);
    parent = level.get();
    name = outermost ? "1" : "3";
    up_.push_back(ConvTranspose2d(
        ConvTranspose2dOptions(innermost ? channels(i) : 2 * channels(i), outermost ? 3 : channels(i - 1), 4)
            .stride(2)
            .padding(1)));
  }
  for (size_t i = depth; i-- > 0;) {
    levels[i]->register_module(i == 0 || i + 1 == depth ? "3" : "5", up_[i]);
  }
  initialize_normal(*this, 0.02, make_cpu_generator(options.seed));
}

at::Tensor UNetGenerator::forward(const at::Tensor& input) {
  check_size(input);
  std::vector<at::Tensor> encoded = {convolve(down_.front(), input)};
  for (size_t i = 1; i < down_.size(); ++i) {
    const at::Tensor x = cancellation_point(convolve(down_[i], at::leaky_relu(encoded.back(), 0.2)));
    encoded.push_back(i + 1 < down_.size() ? instance_norm(x) : x);
  }
  at::Tensor x = encoded.back();
  for (size_t i = up_.size() - 1; i > 0; --i) {
    x = instance_norm(up_[i](at::relu(x)));
    x = cancellation_point(at::cat({encoded[i - 1], x}, 1));
  }
  return up_.front()(at::relu(x)).type_as(input).tanh_();
}

}  // namespace bidiseg
