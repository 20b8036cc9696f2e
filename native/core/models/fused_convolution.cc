#include "core/models/fused_convolution.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/frontend/tracer.h>

namespace bidiseg {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalScalars = c10::List<std::optional<at::Scalar>>;

// oneDNN's convolutions with prepacked weights: what torch.compile calls. LibTorch has no header for them.
template <typename Signature>
c10::TypedOperatorHandle<Signature> mkldnn_operator(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

// How a convolution moves over its input; refers to the module's options.
struct Window {
  explicit Window(const torch::nn::Conv2dImpl& convolution)
      : padding(*std::get<torch::ExpandingArray<2>>(convolution.options.padding())),
        stride(*convolution.options.stride()),
        dilation(*convolution.options.dilation()),
        groups(convolution.options.groups()) {}

  at::IntArrayRef padding, stride, dilation;
  int64_t groups;
};

OptionalTensor optional(const at::Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

bool has_packed(at::Device device, at::ScalarType dtype) {
  return device.is_cpu() && at::globalContext().userEnabledMkldnn() && at::hasMKLDNN() &&
         (dtype == at::kFloat || dtype == at::kBFloat16);
}

}  // namespace

FusedConvolution::FusedConvolution(torch::nn::Conv2d convolution, torch::nn::BatchNorm2d norm)
    : convolution_(std::move(convolution)), norm_(std::move(norm)) {}

bool FusedConvolution::is_constant() const {
  if (norm_ && norm_->is_training()) return false;
  // What the tracer records has to be made of the weights themselves.
  if (torch::jit::tracer::isTracing()) return false;
  return !at::GradMode::is_enabled() || !convolution_->weight.requires_grad();
}

// Versions only ever grow, so two equal sums are of the same values.
uint64_t FusedConvolution::version() const {
  uint64_t sum = 0;
  const auto add = [&sum](const at::Tensor& tensor) { sum += tensor.defined() ? tensor._version() : 0; };
  add(convolution_->weight);
  add(convolution_->bias);
  if (norm_) {
    for (const at::Tensor& tensor : norm_->parameters()) add(tensor);
    // LibTorch's kernel moves the statistics without counting it, but the module counts its batches.
    for (const at::Tensor& tensor : norm_->buffers()) add(tensor);
  }
  return sum;
}

FusedConvolution::Constants FusedConvolution::folded() const {
  at::NoGradGuard no_grad;
  const at::Tensor weight = convolution_->weight.detach(), bias = convolution_->bias;
  if (!norm_) return {version(), weight, bias.defined() ? bias.detach() : bias};
  const at::Tensor scale = norm_->weight / (norm_->running_var + norm_->options.eps()).sqrt();
  const at::Tensor centred = bias.defined() ? bias - norm_->running_mean : -norm_->running_mean;
  return {version(), weight * scale.view({-1, 1, 1, 1}), at::addcmul(norm_->bias, centred, scale)};
}

at::Tensor FusedConvolution::forward(const at::Tensor& x, const at::Tensor& sum, bool relu) {
  at::Tensor y;
  if (!is_constant()) {
    folded_.reset();
    packed_.reset();
    y = convolution_->forward(x);
    if (norm_) y = norm_->forward(y);
  } else if (!(at::GradMode::is_enabled() && x.requires_grad())) {
    const at::DeviceType device = x.device().type();
    const at::ScalarType dtype =
        at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device) : x.scalar_type();
    if (has_packed(x.device(), dtype)) return forward_packed(x.to(dtype), sum, relu);
  }
  if (!y.defined()) {
    if (!folded_ || folded_->version != version()) folded_ = folded();
    const Window window(*convolution_);
    y = at::conv2d(x, folded_->weight, optional(folded_->bias), window.stride, window.padding, window.dilation,
                   window.groups);
  }
  if (sum.defined()) y.add_(sum);
  return relu ? y.relu_() : y;
}

at::Tensor FusedConvolution::forward_packed(const at::Tensor& x, const at::Tensor& sum, bool relu) {
  at::NoGradGuard no_grad;
  const Window window(*convolution_);
  if (!packed_ || packed_->version != version() || packed_->weight.scalar_type() != x.scalar_type()) {
    static const auto reorder = mkldnn_operator<at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef,
                                                           at::IntArrayRef, int64_t, at::OptionalIntArrayRef)>(
        "mkldnn::_reorder_convolution_weight");
    packed_.reset();  // before there is another
    const Constants constants = folded();
    const at::Tensor weight = constants.weight.to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    packed_ = {constants.version,
               reorder.call(weight, window.padding, window.stride, window.dilation, window.groups, x.sizes()),
               constants.bias.defined() ? constants.bias.to(x.scalar_type()) : at::Tensor()};
  }
  const at::Tensor input = x.contiguous(at::MemoryFormat::ChannelsLast);
  const OptionalTensor bias = optional(packed_->bias);
  if (!sum.defined()) {
    static const auto convolve = mkldnn_operator<at::Tensor(
        const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
        int64_t, c10::string_view, OptionalScalars, std::optional<c10::string_view>)>("mkldnn::_convolution_pointwise");
    return convolve.call(input, packed_->weight, bias, window.padding, window.stride, window.dilation, window.groups,
                         relu ? "relu" : "none", OptionalScalars(), std::nullopt);
  }
  static const auto convolve_and_add = mkldnn_operator<at::Tensor&(
      at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef, at::IntArrayRef,
      at::IntArrayRef, int64_t, c10::string_view, std::optional<at::Scalar>, std::optional<c10::string_view>, OptionalScalars,
      std::optional<c10::string_view>)>("mkldnn::_convolution_pointwise_", "binary");
  at::Tensor result = sum.to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
  return convolve_and_add.call(result, input, packed_->weight, bias, window.padding, window.stride, window.dilation,
                               window.groups, "add", 1.0, relu ? std::make_optional<c10::string_view>("relu") : std::nullopt,
                               OptionalScalars(), std::nullopt);
}

}  // namespace bidiseg
