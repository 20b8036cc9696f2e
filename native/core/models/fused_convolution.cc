#include "core/models/fused_convolution.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include "core/models/activation_checkpoint.h"

namespace bidiseg {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalScalars = c10::List<std::optional<at::Scalar>>;

// oneDNN's convolutions with prepacked weights, which torch.compile uses. LibTorch has no header for them.
template <typename Signature>
c10::TypedOperatorHandle<Signature> mkldnn_operator(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

// Geometry of a convolution. It refers to the arguments of its constructor.
struct Window {
  Window(at::IntArrayRef padding, at::IntArrayRef stride, at::IntArrayRef dilation, int64_t groups)
      : padding(padding), stride(stride), dilation(dilation), groups(groups) {}
  explicit Window(const torch::nn::Conv2dImpl& convolution)
      : padding(*std::get<torch::ExpandingArray<2>>(convolution.options.padding())),
        stride(*convolution.options.stride()),
        dilation(*convolution.options.dilation()),
        groups(convolution.options.groups()) {}

  at::IntArrayRef padding, stride, dilation;
  int64_t groups;
};

OptionalTensor optional(const at::Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

at::Tensor channels_last(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

at::Tensor pack(const at::Tensor& weight, const Window& window, at::IntArrayRef input_size) {
  static const auto reorder =
      mkldnn_operator<at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                                 at::OptionalIntArrayRef)>("mkldnn::_reorder_convolution_weight");
  return reorder.call(channels_last(weight), window.padding, window.stride, window.dilation, window.groups, input_size);
}

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Window& window,
                    bool relu) {
  static const auto convolution = mkldnn_operator<at::Tensor(
      const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
      int64_t, c10::string_view, OptionalScalars, std::optional<c10::string_view>)>("mkldnn::_convolution_pointwise");
  return convolution.call(x, weight, optional(bias), window.padding, window.stride, window.dilation, window.groups,
                          relu ? "relu" : "none", OptionalScalars(), std::nullopt);
}

// Adds the result to `sum`.
at::Tensor convolve_and_add(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Window& window,
                            at::Tensor sum, bool relu) {
  static const auto convolution = mkldnn_operator<at::Tensor&(
      at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef, at::IntArrayRef,
      at::IntArrayRef, int64_t, c10::string_view, std::optional<at::Scalar>, std::optional<c10::string_view>,
      OptionalScalars, std::optional<c10::string_view>)>("mkldnn::_convolution_pointwise_", "binary");
  return convolution.call(sum, x, weight, optional(bias), window.padding, window.stride, window.dilation, window.groups,
                          "add", 1.0, relu ? std::make_optional<c10::string_view>("relu") : std::nullopt,
                          OptionalScalars(), std::nullopt);
}

bool has_packed(at::Device device, at::ScalarType dtype) {
  return device.is_cpu() && at::globalContext().userEnabledMkldnn() && at::hasMKLDNN() &&
         (dtype == at::kFloat || dtype == at::kBFloat16);
}

// Limits beyond which Winograd's transforms cost more than they save (docs/design/kernels-and-speed.md has the figures).
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
  const Window window(*convolution_);
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

template <typename Arrange>
const FusedConvolution::Constants& FusedConvolution::current(std::optional<Constants>& kept, at::ScalarType dtype,
                                                             Arrange arrange) const {
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
    for (auto* kept : {&folded_, &packed_, &winograd_}) kept->reset();
    y = convolution_->forward(x);
    if (norm_) y = normalize(y);
  } else if (!(at::GradMode::is_enabled() && x.requires_grad())) {
    const at::DeviceType device = x.device().type();
    const at::ScalarType dtype =
        at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device) : x.scalar_type();
    if (has_packed(x.device(), dtype)) return forward_packed(x.to(dtype), sum, relu);
  }
  if (!y.defined()) {
    const at::ScalarType dtype = convolution_->weight.scalar_type();
    const auto& constants =
        current(folded_, dtype, [&](const at::Tensor& weight) { return std::vector<at::Tensor>{weight.to(dtype)}; });
    const Window window(*convolution_);
    y = at::conv2d(x, constants.weights[0], optional(constants.bias), window.stride, window.padding, window.dilation,
                   window.groups);
  }
  if (sum.defined()) y.add_(sum);
  return relu ? y.relu_() : y;
}

at::Tensor FusedConvolution::normalize(const at::Tensor& y) {
  if (segment_run() != SegmentRun::kAgain || !norm_->is_training()) return norm_->forward(y);
  // Normalizes with the statistics of the batch without a second update of the running ones.
  return at::batch_norm(y, norm_->weight, norm_->bias, {}, {}, /*training=*/true, /*momentum=*/0.0,
                        norm_->options.eps(),
                        /*cudnn_enabled=*/true);
}

at::Tensor FusedConvolution::forward_packed(const at::Tensor& x, const at::Tensor& sum, bool relu) {
  at::NoGradGuard no_grad;
  const Window window(*convolution_);
  const at::Tensor input = channels_last(x);
  if (c10::InferenceMode::is_enabled() && x.scalar_type() == at::kFloat && is_wide_3x3()) {
    const kernels::WinogradTiles tiles(x.sizes(), window.dilation[0]);
    if (tiles.count() >= kLeastTiles && tiles.cost() <= kLargestCost) return forward_winograd(input, tiles, sum, relu);
  }
  const auto& constants = current(packed_, x.scalar_type(), [&](const at::Tensor& weight) {
    return std::vector<at::Tensor>{pack(weight.to(x.scalar_type()), window, x.sizes())};
  });
  if (!sum.defined()) return convolve(input, constants.weights[0], constants.bias, window, relu);
  return convolve_and_add(input, constants.weights[0], constants.bias, window, channels_last(sum.to(x.scalar_type())),
                          relu);
}

at::Tensor FusedConvolution::forward_winograd(const at::Tensor& x, const kernels::WinogradTiles& tiles,
                                              const at::Tensor& sum, bool relu) {
  const int64_t in = x.size(1), out = out_channels();
  const int64_t most = std::max(kLeastTiles, kWorkspaceBytes / (kernels::WinogradTiles::kPoints * (in + out) * 4));
  const int64_t parts = (tiles.count() + most - 1) / most, size = (tiles.count() + parts - 1) / parts;
  // The products are 1x1 convolutions of "images" whose height is the number of tiles.
  const std::array<int64_t, 2> one{1, 1}, zero{0, 0};
  const Window product(zero, one, one, 1);
  const auto& constants = current(winograd_, at::kFloat, [&](const at::Tensor& weight) {
    std::vector<at::Tensor> points = kernels::WinogradTiles::weights(weight).unbind();
    for (at::Tensor& point : points) point = pack(point.view({out, in, 1, 1}), product, {1, in, size, 1});
    return points;
  });
  at::Tensor result =
      sum.defined() ? channels_last(sum.to(at::kFloat))
                    : at::empty({x.size(0), out, x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast);
  for (int64_t first = 0; first < tiles.count(); first += size) {
    const int64_t count = std::min(size, tiles.count() - first);
    at::Tensor transformed = at::empty({kernels::WinogradTiles::kPoints, count, in}, x.options());
    tiles.transform_input(x, first, transformed);
    std::vector<at::Tensor> products;
    for (size_t i = 0; i < constants.weights.size(); ++i) {
      const at::Tensor factor = transformed[static_cast<int64_t>(i)].view({1, count, 1, in}).permute({0, 3, 1, 2});
      const at::Tensor each = convolve(factor, constants.weights[i], {}, product, /*relu=*/false);
      products.push_back(each.permute({0, 2, 3, 1}).reshape({count, out}));
    }
    tiles.transform_output(products, first, constants.bias, sum.defined(), relu, result);
  }
  return result;
}

}  // namespace bidiseg
