#include "core/models/fcn8s.h"

#include "core/cancellation.h"
#include "core/tracing.h"

namespace bidiseg {
namespace {

using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;
using torch::nn::ConvTranspose2d;
using torch::nn::ConvTranspose2dOptions;

constexpr double kDropout = 0.5;

// Transposed convolution that interpolates each channel bilinearly and is not trained.
ConvTranspose2d bilinear_upsampling(int64_t channels, int64_t kernel, int64_t stride) {
  ConvTranspose2d conv(ConvTranspose2dOptions(channels, channels, kernel).stride(stride).bias(false));
  at::NoGradGuard no_grad;
  const int64_t factor = (kernel + 1) / 2;
  const double center = kernel % 2 == 1 ? static_cast<double>(factor - 1) : static_cast<double>(factor) - 0.5;
  const at::Tensor line = 1 - (at::arange(kernel, at::kDouble) - center).abs() / static_cast<double>(factor);
  const at::Tensor filter = at::outer(line, line).to(at::kFloat);
  conv->weight.zero_();
  for (int64_t c = 0; c < channels; ++c) conv->weight[c][c].copy_(filter);
  conv->weight.requires_grad_(false);
  return conv;
}

at::Tensor crop_like(const at::Tensor& x, const at::Tensor& reference, int64_t offset) {
  return narrow_like(narrow_like(x, 2, offset, reference), 3, offset, reference);
}

}  // namespace

Fcn8s::Fcn8s(const Fcn8sOptions& options)
    : SegmentationNetwork("FCN8s"),
      class_count_(options.class_count),
      dropout_generator_(make_cpu_generator(options.seed)) {
  // Padding 100 in the first convolution keeps small images as large as fc6's 7x7 window.
  stages_ = make_vgg16(*this, {.width = options.width, .first_padding = 100, .last_dilation = 1});
  const int64_t hidden = scaled_channels(4096, options.width);
  const int64_t classes = options.class_count;
  const auto convolution = [this](const char* name, int64_t from, int64_t to, int64_t kernel) {
    return FusedConvolution(register_module(name, Conv2d(Conv2dOptions(from, to, kernel))));
  };
  fc6_ = convolution("fc6", scaled_channels(512, options.width), hidden, 7);
  fc7_ = convolution("fc7", hidden, hidden, 1);
  score_fr_ = convolution("score_fr", hidden, classes, 1);
  score_pool3_ = convolution("score_pool3", scaled_channels(256, options.width), classes, 1);
  score_pool4_ = convolution("score_pool4", scaled_channels(512, options.width), classes, 1);

  const at::Generator generator = make_cpu_generator(options.seed);
  if (options.initialization == Initialization::kKaiming) {
    initialize_kaiming(*this, generator);
  } else {
    initialize_normal(*this, 0.01, generator);
  }
  // Registered last, because their weights are computed rather than drawn.
  upscore2_ = register_module("upscore2", bilinear_upsampling(classes, 4, 2));
  upscore_pool4_ = register_module("upscore_pool4", bilinear_upsampling(classes, 4, 2));
  upscore8_ = register_module("upscore8", bilinear_upsampling(classes, 16, 8));
}

// Dropout of whole channels: one draw for each image and channel, from the network's own generator. Other threads and
// networks would advance LibTorch's global generator.
at::Tensor Fcn8s::dropout(const at::Tensor& x) {
  if (!is_training()) return x;
  at::Tensor keep = at::empty({x.size(0), x.size(1), 1, 1}, at::kFloat).bernoulli_(1 - kDropout, dropout_generator_);
  return x * keep.div_(1 - kDropout).to(x.options());
}

SegmentationOutput Fcn8s::forward_with_features(const at::Tensor& input) {
  at::Tensor x = input;
  std::vector<at::Tensor> pools;
  for (auto& stage : stages_) {
    x = run_segment(x, [&stage](const at::Tensor& x) { return run_stage(stage, x); });
    x = at::max_pool2d(x, {2, 2}, {2, 2}, {0, 0}, {1, 1}, /*ceil_mode=*/true);
    pools.push_back(x);
  }
  x = cancellation_point(dropout(fc6_->relu(x)));
  x = dropout(fc7_->relu(x));

  const at::Tensor up2 = upscore2_((*score_fr_)(x));
  const at::Tensor pool4 = crop_like((*score_pool4_)(pools[3] * 0.01), up2, 5);
  const at::Tensor up4 = upscore_pool4_(up2 + pool4);
  const at::Tensor pool3 = crop_like((*score_pool3_)(pools[2] * 0.0001), up4, 9);
  const at::Tensor up8 = upscore8_(up4 + pool3);
  return {x, crop_like(up8, input, 31).type_as(input).contiguous()};
}

std::vector<TrainedParameter> Fcn8s::trained_parameters(double head_factor) const {
  auto result = Network::trained_parameters(head_factor);
  for (auto& parameter : result) {
    if (parameter.name.ends_with(".bias")) parameter.learning_rate_factor = 2.0;
  }
  return result;
}

}  // namespace bidiseg
