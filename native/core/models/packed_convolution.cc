#include "core/models/packed_convolution.h"

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstring>

namespace bidiseg {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalScalars = c10::List<std::optional<at::Scalar>>;

// Sizes that a convolution remembers. More are forgotten together, so that a service with images of any size stays
// small.
constexpr size_t kMostSizes = 512;

// oneDNN's convolutions with packed weights, which torch.compile uses. LibTorch has no header for them.
template <typename Signature>
c10::TypedOperatorHandle<Signature> mkldnn_operator(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

OptionalTensor optional(const at::Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

at::Tensor pack(const at::Tensor& weight, const ConvolutionWindow& window, at::IntArrayRef input_size) {
  static const auto reorder =
      mkldnn_operator<at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                                 at::OptionalIntArrayRef)>("mkldnn::_reorder_convolution_weight");
  return reorder.call(weight.contiguous(at::MemoryFormat::ChannelsLast), window.padding, window.stride, window.dilation,
                      window.groups, input_size);
}

// Equal bytes of equal weights mean equal layouts. Where weights are so regular that other layouts have the same bytes,
// oneDNN converts them at every call.
bool have_equal_bytes(const at::Tensor& a, const at::Tensor& b) {
  static const auto size = mkldnn_operator<int64_t(const at::Tensor&)>("mkldnn::_nbytes");
  static const auto address = mkldnn_operator<int64_t(const at::Tensor&)>("mkldnn::data_ptr");
  const auto data = [](const at::Tensor& tensor) { return reinterpret_cast<const void*>(address.call(tensor)); };
  return size.call(a) == size.call(b) && std::memcmp(data(a), data(b), static_cast<size_t>(size.call(a))) == 0;
}

}  // namespace

PackedWeights::PackedWeights(at::Tensor weight, const ConvolutionWindow& window)
    : window_(window), plain_(std::move(weight)) {}

const at::Tensor& PackedWeights::for_input(at::IntArrayRef size) {
  std::vector<int64_t> key = size.vec();
  key.push_back(at::get_num_threads());
  const auto known = layout_of_.find(key);
  if (known != layout_of_.end()) return layouts_[known->second];
  const size_t layout = find_layout(size);
  if (layout_of_.size() >= kMostSizes) layout_of_.clear();
  layout_of_.emplace(std::move(key), layout);
  return layouts_[layout];
}

// Index of the layout for an input, which is made if it is new.
size_t PackedWeights::find_layout(at::IntArrayRef size) {
  // The kept tensors are ordinary ones, like the modules'.
  const c10::InferenceMode normal_mode(false);
  at::NoGradGuard no_grad;
  const at::Tensor packed = pack(layouts_.empty() ? plain_ : layouts_[0].to_dense(), window_, size);
  for (size_t i = 0; i < layouts_.size(); ++i) {
    if (have_equal_bytes(packed, layouts_[i])) return i;
  }
  layouts_.push_back(packed);
  plain_.reset();
  return layouts_.size() - 1;
}

at::Tensor convolve_packed(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                           const ConvolutionWindow& window, bool relu) {
  static const auto convolution = mkldnn_operator<at::Tensor(
      const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
      int64_t, c10::string_view, OptionalScalars, std::optional<c10::string_view>)>("mkldnn::_convolution_pointwise");
  return convolution.call(x, weight, optional(bias), window.padding, window.stride, window.dilation, window.groups,
                          relu ? "relu" : "none", OptionalScalars(), std::nullopt);
}

at::Tensor convolve_packed_and_add(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                   const ConvolutionWindow& window, at::Tensor sum, bool relu) {
  static const auto convolution = mkldnn_operator<at::Tensor&(
      at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef, at::IntArrayRef,
      at::IntArrayRef, int64_t, c10::string_view, std::optional<at::Scalar>, std::optional<c10::string_view>,
      OptionalScalars, std::optional<c10::string_view>)>("mkldnn::_convolution_pointwise_", "binary");
  return convolution.call(sum, x, weight, optional(bias), window.padding, window.stride, window.dilation, window.groups,
                          "add", 1.0, relu ? std::make_optional<c10::string_view>("relu") : std::nullopt,
                          OptionalScalars(), std::nullopt);
}

}  // namespace bidiseg
