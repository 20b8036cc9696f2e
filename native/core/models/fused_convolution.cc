#include "core/models/fused_convolution.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include "core/models/activation_checkpoint.h"
#include "core/models/convolution.h"
#include "core/models/running_statistics.h"
#include "core/tensor_cores.h"

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

// Limits beyond which Winograd's transforms cost more than they save (docs/design/kernels-and-speed.md has the
// figures).
constexpr int64_t kLeastChannels = 256, kLeastTiles = 128;
constexpr double kLargestCost = 0.36;

// Memory for transformed inputs and products.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

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

bool FusedConvolution::is_wide_3x3() const {
  const ConvolutionWindow window = window_of(*convolution_);
  const auto is = [](at::IntArrayRef pair, int64_t value) { return pair[0] == value && pair[1] == value; };
  const at::IntArrayRef shape = convolution_->weight.sizes();
  return shape[0] >= kLeastChannels && shape[1] >= kLeastChannels && is(shape.slice(2), 3) && is(window.stride, 1) &&
         window.groups == 1 && is(window.padding, window.dilation[0]) && is(window.dilation, window.dilation[0]);
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

template <typename Weights, typename Arrange>
FusedConvolution::Constants<Weights>& FusedConvolution::current(std::optional<Constants<Weights>>& kept,
                                                                at::ScalarType dtype, Arrange arrange) const {
  if (kept && kept->version == version() && kept->dtype == dtype) return *kept;
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
  return *kept;
}

at::Tensor FusedConvolution::forward(const at::Tensor& x, const at::Tensor& sum, bool relu) {
  at::Tensor y;
  if (!is_constant()) {
    folded_.reset();
    for (auto* kept : {&packed_, &winograd_}) kept->reset();
    y = convolve(convolution_, x);
    if (norm_) y = normalize(y);
  } else if (!(at::GradMode::is_enabled() && x.requires_grad())) {
    const at::DeviceType device = x.device().type();
    const at::ScalarType dtype =
        at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device) : x.scalar_type();
    if (has_packed(x.device(), dtype)) return forward_packed(x.to(dtype), sum, relu);
    if (relu && has_cudnn_fusion(x.device(), dtype, convolution_->weight)) return forward_cudnn(x.to(dtype), sum);
  }
  if (!y.defined()) {
    const at::ScalarType dtype = convolution_->weight.scalar_type();
    const auto& constants = current(folded_, dtype, [&](const at::Tensor& weight) { return weight.to(dtype); });
    const ConvolutionWindow window = window_of(*convolution_);
    const auto bias = constants.bias.defined() ? std::make_optional(constants.bias) : std::nullopt;
    y = at::conv2d(x, constants.weights, bias, window.stride, window.padding, window.dilation, window.groups);
  }
  if (sum.defined()) y.add_(sum);
  return relu ? y.relu_() : y;
}

at::Tensor FusedConvolution::normalize(const at::Tensor& y) {
  const bool is_kept = keeps_statistics() || segment_run() == SegmentRun::kAgain;
  if (!is_kept || !norm_->is_training()) return norm_->forward(y);
  // Normalizes with the statistics of the batch without an update, or a second one, of the running ones.
  return at::batch_norm(y, norm_->weight, norm_->bias, {}, {}, /*training=*/true, /*momentum=*/0.0,
                        norm_->options.eps(),
                        /*cudnn_enabled=*/true);
}

at::Tensor FusedConvolution::forward_packed(const at::Tensor& x, const at::Tensor& sum, bool relu) {
  at::NoGradGuard no_grad;
  const ConvolutionWindow window = window_of(*convolution_);
  const at::Tensor input = channels_last(x);
  if (c10::InferenceMode::is_enabled() && x.scalar_type() == at::kFloat && is_wide_3x3()) {
    const kernels::WinogradTiles tiles(x.sizes(), window.dilation[0], window.padding[0]);
    if (tiles.count() >= kLeastTiles && tiles.cost() <= kLargestCost) return forward_winograd(input, tiles, sum, relu);
  }
  auto& constants = current(packed_, x.scalar_type(), [&](const at::Tensor& weight) {
    return PackedWeights({weight.to(x.scalar_type())}, window);
  });
  const at::Tensor weight = constants.weights.for_input(x.sizes())[0];
  if (!sum.defined()) return convolve_packed(input, weight, constants.bias, window, relu);
  return convolve_packed_and_add(input, weight, constants.bias, window, channels_last(sum.to(x.scalar_type())), relu);
}

// Convolution, bias, sum and ReLU are one operation of cuDNN.
at::Tensor FusedConvolution::forward_cudnn(const at::Tensor& x, const at::Tensor& sum) {
  at::NoGradGuard no_grad;
  const auto& constants = current(folded_, x.scalar_type(), [&](const at::Tensor& weight) {
    return channels_last(weight.to(x.scalar_type()));
  });
  const ConvolutionWindow window = window_of(*convolution_);
  const auto bias = constants.bias.defined() ? std::make_optional(constants.bias) : std::nullopt;
  if (!sum.defined()) {
    return at::cudnn_convolution_relu(channels_last(x), constants.weights, bias, window.stride, window.padding,
                                      window.dilation, window.groups);
  }
  return at::cudnn_convolution_add_relu(channels_last(x), constants.weights, channels_last(sum.to(x.scalar_type())),
                                        /*alpha=*/1, bias, window.stride, window.padding, window.dilation,
                                        window.groups);
}

at::Tensor FusedConvolution::forward_winograd(const at::Tensor& x, const kernels::WinogradTiles& tiles,
                                              const at::Tensor& sum, bool relu) {
  const int64_t in = x.size(1), out = out_channels();
  const int64_t most = std::max(kLeastTiles, kWorkspaceBytes / (kernels::WinogradTiles::kPoints * (in + out) * 4));
  const int64_t parts = (tiles.count() + most - 1) / most, size = (tiles.count() + parts - 1) / parts;
  auto& constants = current(winograd_, at::kFloat, [&](const at::Tensor& weight) {
    std::vector<at::Tensor> points = kernels::WinogradTiles::weights(weight).unbind();
    for (at::Tensor& point : points) point = point.view({out, in, 1, 1});
    return PackedWeights(std::move(points), {.padding = {0, 0}, .stride = {1, 1}, .dilation = {1, 1}, .groups = 1});
  });
  at::Tensor result =
      sum.defined() ? channels_last(sum.to(at::kFloat))
                    : at::empty({x.size(0), out, x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast);
  for (int64_t first = 0; first < tiles.count(); first += size) {
    const int64_t count = std::min(size, tiles.count() - first);
    at::Tensor transformed = at::empty({kernels::WinogradTiles::kPoints, count, in}, x.options());
    tiles.transform_input(x, first, transformed);
    // The products are 1x1 convolutions of "images" whose height is the number of tiles.
    std::vector<at::Tensor> products;
    for (const at::Tensor& weight : constants.weights.for_input({1, in, count, 1})) {
      const auto point = static_cast<int64_t>(products.size());
      const at::Tensor factor = transformed[point].view({1, count, 1, in}).permute({0, 3, 1, 2});
      const at::Tensor each = convolve_packed(factor, weight, {}, constants.weights.window(), /*relu=*/false);
      products.push_back(each.permute({0, 2, 3, 1}).reshape({count, out}));
    }
    tiles.transform_output(products, first, constants.bias, sum.defined(), relu, result);
  }
  return result;
}

}  // namespace bidiseg
