#include "core/models/discriminators.h"

#include "core/cancellation.h"
#include "core/errors.h"
#include "core/models/convolution.h"
#include "core/models/normalization.h"

namespace bidiseg {
namespace {

using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;

constexpr double kLeak = 0.2;

// Smaller images have no position left after the convolutions.
void require_size(const at::Tensor& input, int64_t side) {
  const int64_t height = input.size(2), width = input.size(3);
  if (std::min(height, width) >= side) return;
  std::ostringstream text;
  text << "Expected images of at least " << side << "x" << side
       << " (width x height) for the discriminator but received " << width << "x" << height;
  throw InvalidArgument(text.str());
}

}  // namespace

OutputDiscriminator::OutputDiscriminator(const OutputDiscriminatorOptions& options) : Network("OutputDiscriminator") {
  int64_t in = options.class_count;
  int64_t out = options.base_width;
  for (size_t i = 0; i < convs_.size(); ++i) {
    convs_[i] = register_module("conv" + std::to_string(i + 1), Conv2d(Conv2dOptions(in, out, 4).stride(2).padding(1)));
    in = out;
    out *= 2;
  }
  classifier_ = register_module("classifier", Conv2d(Conv2dOptions(in, 1, 4).stride(2).padding(1)));
  initialize_uniform(*this, make_cpu_generator(options.seed));
}

at::Tensor OutputDiscriminator::forward(const at::Tensor& input) {
  require_size(input, 32);
  at::Tensor x = input;
  for (auto& conv : convs_) {
    x = convolve(conv, x);
    x = cancellation_point(at::leaky_relu_(x, kLeak));
  }
  return convolve(classifier_, x).type_as(input);
}

FeatureDiscriminator::FeatureDiscriminator(const FeatureDiscriminatorOptions& options)
    : Network("FeatureDiscriminator") {
  const int64_t hidden = 8 * options.base_width;
  conv1_ = register_module("conv1", Conv2d(Conv2dOptions(options.feature_count, hidden, 1)));
  conv2_ = register_module("conv2", Conv2d(Conv2dOptions(hidden, hidden, 1)));
  classifier_ = register_module("classifier", Conv2d(Conv2dOptions(hidden, 1, 1)));
  initialize_uniform(*this, make_cpu_generator(options.seed));
}

at::Tensor FeatureDiscriminator::forward(const at::Tensor& input) {
  at::Tensor x = convolve(conv1_, input);
  x = convolve(conv2_, at::leaky_relu_(x, kLeak));
  return convolve(classifier_, cancellation_point(at::leaky_relu_(x, kLeak))).type_as(input);
}

PatchDiscriminator::PatchDiscriminator(const PatchDiscriminatorOptions& options) : Network("PatchDiscriminator") {
  // Positions of the convolutions in the usual Sequential, which also counts norms and activations. They name the
  // weights.
  constexpr std::array<const char*, 5> kNames = {"0", "2", "5", "8", "11"};
  auto model = std::make_shared<torch::nn::Module>("Model");
  int64_t in = options.input_channels;
  for (size_t i = 0; i < convs_.size(); ++i) {
    const bool last = i + 1 == convs_.size();
    const int64_t out = last ? 1 : options.base_width << std::min<size_t>(i, 3);
    const int64_t stride = i < 3 ? 2 : 1;
    convs_[i] = model->register_module(kNames[i], Conv2d(Conv2dOptions(in, out, 4).stride(stride).padding(1)));
    in = out;
  }
  register_module("model", model);
  initialize_normal(*this, 0.02, make_cpu_generator(options.seed));
}

at::Tensor PatchDiscriminator::forward(const at::Tensor& input) {
  require_size(input, 24);
  at::Tensor x = convolve(convs_[0], input);
  at::leaky_relu_(x, kLeak);
  for (size_t i = 1; i + 1 < convs_.size(); ++i) {
    x = cancellation_point(instance_norm(convolve(convs_[i], x), {.slope = kLeak}));
  }
  return convolve(convs_.back(), x).type_as(input);
}

}  // namespace bidiseg
