#include "core/models/fused_convolution.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include "core/models/convolution.h"
#include "core/models/normalization.h"
#include "core/models/pass_settings.h"
#include "core/tensor_cores.h"
#include "kernels/winograd.h"

namespace bidiseg {
namespace {

ConvolutionWindow window_of(const torch::nn::Conv2dImpl& convolution) {
  const auto pair = [](at::IntArrayRef values) { return std::array<int64_t, 2>{values[0], values[1]}; };
  return {pair(*std::get<torch::ExpandingArray<2>>(convolution.options.padding())), pair(*convolution.options.stride()),
          pair(*convolution.options.dilation()), convolution.options.groups()};
}

at::Tensor channels_last(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

bool has_packed(at::Device device, at::ScalarType dtype) {
  return device.is_cpu() && at::globalContext().userEnabledMkldnn() && at::hasMKLDNN() &&
         (dtype == at::kFloat || dtype == at::kBFloat16);
}

// cuDNN fuses on tensor cores, whose channels come in groups of eight.
bool has_cudnn_fusion(at::Device device, at::ScalarType dtype, const at::Tensor& weight) {
  return uses_tensor_cores(device) && at::globalContext().userEnabledCuDNN() && dtype != at::kDouble &&
         weight.size(0) % 8 == 0 && weight.size(1) % 8 == 0;
}

}  // namespace

FusedConvolution::FusedConvolution(torch::nn::Conv2d convolution, torch::nn::BatchNorm2d norm)
    : convolution_(std::move(convolution)), norm_(std::move(norm)) {}

bool FusedConvolution::is_constant() const {
  if (norm_ && norm_->is_training()) return false;
  // The tracer must record the weights themselves.
  if (torch::jit::tracer::isTracing()) return false;
  // Training compares passes with and without gradients, in perceptual losses. As in PyTorch, both must round equally.
  return c10::InferenceMode::is_enabled();
}

// Versions only grow, so that equal sums mean equal values.
uint64_t FusedConvolution::version() const {
  uint64_t sum = 0;
  const auto add = [&sum](const at::Tensor& tensor) { sum += tensor.defined() ? tensor._version() : 0; };
  add(convolution_->weight);
  add(convolution_->bias);
  if (norm_) {
    for (const at::Tensor& tensor : norm_->parameters()) add(tensor);
    // LibTorch's kernel updates the statistics without changing their versions, but the module counts batches.
    for (const at::Tensor& tensor : norm_->buffers()) add(tensor);
  }
  return sum;
}

template <typename Weights, typename Arrange, typename Choose>
FusedConvolution::Layer FusedConvolution::current(std::optional<Constants<Weights>>& kept, at::ScalarType dtype,
                                                  Arrange arrange, Choose choose) const {
  const std::lock_guard lock(*mutex_);
  if (kept && kept->version == version() && kept->dtype == dtype) return {choose(kept->weights), kept->bias};
  kept.reset();  // frees the old weights before the new ones are made
  // The kept tensors are ordinary ones, like the modules'.
  const c10::InferenceMode normal_mode(false);
  at::NoGradGuard no_grad;
  at::Tensor weight = convolution_->weight.detach(), bias = convolution_->bias;
  if (norm_) {
    // In double, so that the folded weights are rounded once.
    const auto wide = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
    const at::Tensor scale = wide(norm_->weight) / (wide(norm_->running_var) + norm_->options.eps()).sqrt();
    const at::Tensor mean = wide(norm_->running_mean);
    weight = wide(weight) * scale.view({-1, 1, 1, 1});
    bias = wide(norm_->bias) + scale * (bias.defined() ? wide(bias) - mean : -mean);
  }
  kept = {version(), dtype, arrange(weight), bias.defined() ? bias.detach().to(dtype) : bias};
  return {choose(kept->weights), kept->bias};
}

template <typename Arrange>
FusedConvolution::Layer FusedConvolution::current(std::optional<Constants<at::Tensor>>& kept, at::ScalarType dtype,
                                                  Arrange arrange) const {
  return current(kept, dtype, arrange, [](const at::Tensor& weight) { return weight; });
}

at::Tensor FusedConvolution::forward(const at::Tensor& x, const at::Tensor& sum, bool relu) {
  at::Tensor y;
  if (!is_constant()) {
    folded_.reset();
    packed_.reset();
    winograd_.reset();
    y = convolve(convolution_, x);
    if (norm_) {
      // Pass again, or for images that no prediction will see: without an update of the running statistics.
      const bool update = !pass_settings().keeps_statistics && pass_settings().segment_run != SegmentRun::kAgain;
      return batch_norm(norm_, y, update, {.sum = sum, .slope = relu ? 0.0 : 1.0});
    }
  } else if (!(at::GradMode::is_enabled() && x.requires_grad())) {
    const at::DeviceType device = x.device().type();
    const at::ScalarType dtype =
        at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device) : x.scalar_type();
    if (has_packed(x.device(), dtype)) return forward_packed(x.to(dtype), sum, relu);
    if (relu && has_cudnn_fusion(x.device(), dtype, convolution_->weight)) return forward_cudnn(x.to(dtype), sum);
  }
  if (!y.defined()) {
    const at::ScalarType dtype = convolution_->weight.scalar_type();
    const auto layer = current(folded_, dtype, [&](const at::Tensor& weight) { return weight.to(dtype); });
    const ConvolutionWindow window = window_of(*convolution_);
    const auto bias = layer.bias.defined() ? std::make_optional(layer.bias) : std::nullopt;
    y = at::conv2d(x, layer.weight, bias, window.stride, window.padding, window.dilation, window.groups);
  }
  if (sum.defined()) y.add_(sum);
  return relu ? y.relu_() : y;
}

at::Tensor FusedConvolution::forward_packed(const at::Tensor& x, const at::Tensor& sum, bool relu) {
  at::NoGradGuard no_grad;
  const ConvolutionWindow window = window_of(*convolution_);
  const at::Tensor input = channels_last(x);
  const auto square = square_convolution(convolution_);
  if (square && pass_settings().convolutions == ConvolutionMethod::kAuto && x.scalar_type() == at::kFloat &&
      pays_with_winograd(*square, convolution_->weight, x.sizes())) {
    const auto layer = current(winograd_, at::kFloat, kernels::WinogradTiles::weights);
    return convolve_winograd(input, *square, layer.weight, {.bias = layer.bias, .sum = sum, .relu = relu});
  }
  const auto layer = current(
      packed_, x.scalar_type(),
      [&](const at::Tensor& weight) { return PackedWeights(weight.to(x.scalar_type()), window); },
      [&](PackedWeights& weights) { return weights.for_input(x.sizes()); });
  if (!sum.defined()) return convolve_packed(input, layer.weight, layer.bias, window, relu);
  return convolve_packed_and_add(input, layer.weight, layer.bias, window, channels_last(sum.to(x.scalar_type())), relu);
}

// Convolution, bias, sum and ReLU are one operation of cuDNN.
at::Tensor FusedConvolution::forward_cudnn(const at::Tensor& x, const at::Tensor& sum) {
  at::NoGradGuard no_grad;
  const auto layer = current(folded_, x.scalar_type(),
                             [&](const at::Tensor& weight) { return channels_last(weight.to(x.scalar_type())); });
  const ConvolutionWindow window = window_of(*convolution_);
  const auto bias = layer.bias.defined() ? std::make_optional(layer.bias) : std::nullopt;
  if (!sum.defined()) {
    return at::cudnn_convolution_relu(channels_last(x), layer.weight, bias, window.stride, window.padding,
                                      window.dilation, window.groups);
  }
  return at::cudnn_convolution_add_relu(channels_last(x), layer.weight, channels_last(sum.to(x.scalar_type())),
                                        /*alpha=*/1, bias, window.stride, window.padding, window.dilation,
                                        window.groups);
}

}  // namespace bidiseg
