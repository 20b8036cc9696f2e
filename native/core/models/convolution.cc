#include "core/models/convolution.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>

#include "kernels/products.h"
#include "kernels/taps.h"
#include "kernels/winograd.h"

namespace bidiseg {
namespace {

using kernels::multiply;
using kernels::multiply_each;
using kernels::WinogradTiles;

// Limits beyond which the transforms cost more than they save (docs/design/kernels-and-speed.md has the figures).
constexpr int64_t kLeastChannels = 64, kLeastTilesPerImage = 16;
constexpr double kLargestCost = 0.5;

// Memory for transformed images and products.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

at::Tensor channels_last(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

// Calls `work(first, count)` for parts of the tiles whose transforms, of `channels` in all, fit the workspace.
template <typename Work>
void for_parts(const WinogradTiles& tiles, int64_t channels, const Work& work) {
  const int64_t most = std::max(kLeastTilesPerImage, kWorkspaceBytes / (WinogradTiles::kPoints * channels * 4));
  const int64_t parts = (tiles.count() + most - 1) / most, size = (tiles.count() + parts - 1) / parts;
  for (int64_t first = 0; first < tiles.count(); first += size) work(first, std::min(size, tiles.count() - first));
}

// Training's forward passes round more carefully with LibTorch's products. There they are for AVX-512, with which
// PyTorch's convolutions round three times as carefully as with AVX2 (docs/design/kernels-and-speed.md has the errors).
bool rounds_forward_exactly() { return !kernels::has_own_products(); }

// Convolution of a channels_last image with weights [36, K, C], or [36, C, K] if `transposed`.
at::Tensor convolve_tiles(const at::Tensor& x, const WinogradTiles& tiles, const at::Tensor& points, bool transposed,
                          bool exact, const Epilogue& epilogue) {
  const at::Tensor factors = transposed ? points : points.transpose(1, 2);
  const int64_t in = factors.size(1), out = factors.size(2);
  const bool add = epilogue.sum.defined();
  at::Tensor result = add ? channels_last(epilogue.sum.to(x.scalar_type()))
                          : at::empty(tiles.output_size(out), x.options(), at::MemoryFormat::ChannelsLast);
  for_parts(tiles, in + out, [&](int64_t first, int64_t count) {
    at::Tensor transformed = at::empty({WinogradTiles::kPoints, count, in}, x.options());
    tiles.transform_input(x, first, exact, transformed);
    at::Tensor products = at::empty({WinogradTiles::kPoints, count, out}, x.options());
    if (exact) {
      kernels::multiply_each_in_parts(transformed, factors, products);
    } else {
      multiply_each(transformed, factors, /*add=*/false, products);
    }
    tiles.transform_output(products, first, exact, epilogue.bias, add, epilogue.relu, result);
  });
  return result;
}

// The output `y` of a convolution of `x`.
at::Tensor in_layout_of(const at::Tensor& x, const at::Tensor& y) {
  return pass_settings().keeps_layout ? y.contiguous(x.suggest_memory_format()) : y;
}

at::Tensor transformed_weights(const at::Tensor& weight, bool turned, bool exact) {
  at::Tensor points = at::empty({WinogradTiles::kPoints, weight.size(0), weight.size(1)}, weight.options());
  WinogradTiles::transform_weights(weight.contiguous(), turned, exact, points);
  return points;
}

// Sum [K] of a gradient [N, H, W, K].
at::Tensor bias_gradient(const at::Tensor& gradient) {
  at::Tensor sum = at::empty({gradient.size(3)}, gradient.options());
  kernels::sum_pixels(gradient, sum);
  return sum;
}

at::Tensor weight_gradient(const at::Tensor& x, const at::Tensor& gradient, const WinogradTiles& tiles) {
  const int64_t in = x.size(1), out = gradient.size(1);
  at::Tensor sum = at::empty({WinogradTiles::kPoints, out, in}, x.options());
  for_parts(tiles, in + out, [&](int64_t first, int64_t count) {
    at::Tensor inputs = at::empty({WinogradTiles::kPoints, count, in}, x.options());
    at::Tensor outputs = at::empty({WinogradTiles::kPoints, count, out}, x.options());
    tiles.transform_input(x, first, /*exact=*/false, inputs);
    tiles.transform_gradient(gradient, first, outputs);
    multiply_each(outputs.transpose(1, 2), inputs, /*add=*/first > 0, sum);
  });
  return WinogradTiles::weights_gradient(sum);
}

// What backward passes need of their forward pass.
struct SavedConvolution {
  at::Tensor x, weight;
  int64_t dilation, padding;
  std::array<bool, 3> wanted;  // gradients for x, weight and bias

  static void keep(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, bool has_bias,
                   int64_t dilation, int64_t padding) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["has_bias"] = has_bias;
    ctx->saved_data["dilation"] = dilation;
    ctx->saved_data["padding"] = padding;
  }

  explicit SavedConvolution(torch::autograd::AutogradContext* ctx)
      : x(ctx->get_saved_variables()[0]),
        weight(ctx->get_saved_variables()[1]),
        dilation(ctx->saved_data["dilation"].toInt()),
        padding(ctx->saved_data["padding"].toInt()),
        wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
               ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)} {}
};

// Gradients for a pass of which derivatives are taken again.
torch::autograd::tensor_list differentiable_gradients(const SavedConvolution& saved, const at::Tensor& gradient) {
  const std::vector<int64_t> one = {1, 1}, zero = {0, 0}, dilation(2, saved.dilation), padding(2, saved.padding);
  const auto [for_x, for_weight, for_bias] =
      at::convolution_backward(gradient, saved.x, saved.weight, at::OptionalIntArrayRef(saved.weight.size(0)), one,
                               padding, dilation, false, zero, 1, saved.wanted);
  return {for_x, for_weight, for_bias, {}, {}};
}

class WinogradConvolution : public torch::autograd::Function<WinogradConvolution> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, int64_t dilation, int64_t padding) {
    SavedConvolution::keep(ctx, x, weight, bias.has_value(), dilation, padding);
    const WinogradTiles tiles(x.sizes(), dilation, padding);
    const bool exact = rounds_forward_exactly();
    const at::Tensor y = convolve_tiles(channels_last(x), tiles, transformed_weights(weight, false, exact), false,
                                        exact, {.bias = bias.value_or(at::Tensor())});
    return in_layout_of(x, y);
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* ctx,
                                               const torch::autograd::tensor_list& gradients) {
    const SavedConvolution saved(ctx);
    if (at::GradMode::is_enabled()) return differentiable_gradients(saved, gradients[0]);
    const auto& [x, weight, dilation, padding, wanted] = saved;
    const at::Tensor gradient = channels_last(gradients[0]);
    torch::autograd::tensor_list result(5);
    if (wanted[0]) {
      const WinogradTiles tiles(gradient.sizes(), dilation, 2 * dilation - padding);
      result[0] = convolve_tiles(gradient, tiles, transformed_weights(weight, true, false), true, false, {})
                      .contiguous(x.suggest_memory_format());
    }
    if (wanted[1]) {
      result[1] = weight_gradient(channels_last(x), gradient, WinogradTiles(x.sizes(), dilation, padding));
    }
    if (wanted[2]) result[2] = bias_gradient(gradient.permute({0, 2, 3, 1}));
    return result;
  }
};

// Number of channels up to which the outputs of nine 1x1 convolutions are summed instead.
constexpr int64_t kFewChannels = 32;

// [9 K, C] of weights [K, C, 3, 3].
at::Tensor tap_weights(const at::Tensor& weight) {
  return weight.permute({2, 3, 0, 1}).reshape({9 * weight.size(0), weight.size(1)});
}

// [N H W, C] of a channels_last image.
at::Tensor pixels_of(const at::Tensor& x) { return channels_last(x).permute({0, 2, 3, 1}).reshape({-1, x.size(1)}); }

// Convolution to few channels (kernels/taps.h). Stride 1, and padding equal to the dilation.
class TapConvolution : public torch::autograd::Function<TapConvolution> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, int64_t dilation) {
    SavedConvolution::keep(ctx, x, weight, bias.has_value(), dilation, dilation);
    const int64_t images = x.size(0), height = x.size(2), width = x.size(3), out = weight.size(0);
    const at::Tensor taps = at::empty({images, height, width, 9, out}, x.options());
    at::Tensor lines = taps.view({-1, 9 * out});
    multiply(pixels_of(x), tap_weights(weight).t(), height * width, lines);
    // Autograd does not let a function return a view.
    const at::Tensor y = at::empty({images, out, height, width}, x.options(), at::MemoryFormat::ChannelsLast);
    at::Tensor pixels = y.permute({0, 2, 3, 1});
    kernels::sum_taps(taps, dilation, bias.value_or(at::Tensor()), pixels);
    return in_layout_of(x, y);
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* ctx,
                                               const torch::autograd::tensor_list& gradients) {
    const SavedConvolution saved(ctx);
    if (at::GradMode::is_enabled()) return differentiable_gradients(saved, gradients[0]);
    const auto& [x, weight, dilation, padding, wanted] = saved;
    const int64_t images = x.size(0), in = x.size(1), height = x.size(2), width = x.size(3), out = weight.size(0);
    const at::Tensor gradient = channels_last(gradients[0]).permute({0, 2, 3, 1});
    at::Tensor taps = at::empty({images, height, width, 9, out}, x.options());
    kernels::spread_taps(gradient, dilation, taps);
    taps = taps.view({-1, 9 * out});
    torch::autograd::tensor_list result(4);
    if (wanted[0]) {
      const at::Tensor pixels = at::empty({images, height, width, in}, x.options());
      at::Tensor lines = pixels.view({-1, in});
      multiply(taps, tap_weights(weight), height * width, lines);
      result[0] = pixels.permute({0, 3, 1, 2}).contiguous(x.suggest_memory_format());
    }
    if (wanted[1]) {
      at::Tensor for_taps = at::empty({9 * out, in}, x.options());
      multiply(taps.t(), pixels_of(x), 9 * out, for_taps);
      result[1] = for_taps.view({3, 3, out, in}).permute({2, 3, 0, 1}).contiguous();
    }
    if (wanted[2]) result[2] = bias_gradient(gradient);
    return result;
  }
};

// 1x1 convolution as one matrix product of a channels_last image, without bias.
class PointwiseConvolution : public torch::autograd::Function<PointwiseConvolution> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight) {
    SavedConvolution::keep(ctx, x, weight, /*has_bias=*/false, /*dilation=*/1, /*padding=*/0);
    const at::Tensor y =
        at::empty({x.size(0), weight.size(0), x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast);
    at::Tensor lines = pixels_of(y);
    multiply(pixels_of(x), matrix_of(weight).t(), x.size(2) * x.size(3), lines);
    return y;
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* ctx,
                                               const torch::autograd::tensor_list& gradients) {
    const SavedConvolution saved(ctx);
    if (at::GradMode::is_enabled()) {
      auto result = differentiable_gradients(saved, gradients[0]);
      result.resize(2);
      return result;
    }
    const at::Tensor &x = saved.x, &weight = saved.weight, gradient = pixels_of(gradients[0]);
    torch::autograd::tensor_list result(2);
    if (saved.wanted[0]) {
      result[0] = at::empty(x.sizes(), x.options(), at::MemoryFormat::ChannelsLast);
      at::Tensor lines = pixels_of(result[0]);
      multiply(gradient, matrix_of(weight), x.size(2) * x.size(3), lines);
    }
    if (saved.wanted[1]) {
      result[1] = at::empty(weight.sizes(), weight.options());
      at::Tensor rows = matrix_of(result[1]);
      multiply(gradient.t(), pixels_of(x), weight.size(0), rows);
    }
    return result;
  }

 private:
  static at::Tensor matrix_of(const at::Tensor& weight) { return weight.view({weight.size(0), weight.size(1)}); }
};

// Every stride-th row and column, channels_last.
at::Tensor strided(const at::Tensor& x, int64_t stride) {
  return channels_last(stride == 1 ? x : x.slice(2, 0, x.size(2), stride).slice(3, 0, x.size(3), stride));
}

// True for a 1x1 convolution without padding and bias, with one stride for both directions.
bool is_pointwise(const torch::nn::Conv2d& convolution) {
  const auto& options = convolution->options;
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&options.padding());
  return padding && (**padding)[0] == 0 && (**padding)[1] == 0 && options.groups() == 1 &&
         (*options.kernel_size())[0] == 1 && (*options.kernel_size())[1] == 1 &&
         (*options.stride())[0] == (*options.stride())[1] && !convolution->bias.defined();
}

// Where oneDNN is faster with another layout (docs/design/kernels-and-speed.md has the figures): many weights on few
// pixels, and gradients of weights on many.
constexpr int64_t kManyWeights = int64_t{1} << 18, kManyPixels = 2000;

bool favors_contiguous(const at::Tensor& x, const at::Tensor& weight) {
  return weight.numel() > kManyWeights && weight.numel() * x.size(0) > 2 * x.numel();
}

// Convolution by oneDNN, in the layout that it is fastest in.
class DirectConvolution : public torch::autograd::Function<DirectConvolution> {
 public:
  struct Window : torch::CustomClassHolder {
    std::vector<int64_t> stride, padding, dilation;
    int64_t groups;
  };

  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& image, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, const c10::intrusive_ptr<Window>& window) {
    const at::Tensor x = favors_contiguous(image, weight) ? image.contiguous() : channels_last(image);
    ctx->save_for_backward({x, weight});
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["window"] = c10::IValue::make_capsule(window);
    return at::conv2d(x, weight, bias, window->stride, window->padding, window->dilation, window->groups);
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* ctx,
                                               const torch::autograd::tensor_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const auto window = c10::static_intrusive_pointer_cast<Window>(ctx->saved_data["window"].toCapsule());
    const auto gradients_of = [&](const at::Tensor& input, const at::Tensor& gradient, std::array<bool, 3> wanted) {
      const std::vector<int64_t> zero = {0, 0};
      return at::convolution_backward(gradient, input, weight, at::OptionalIntArrayRef(weight.size(0)), window->stride,
                                      window->padding, window->dilation, false, zero, window->groups, wanted);
    };
    const bool wants_x = ctx->needs_input_grad(0), wants_weight = ctx->needs_input_grad(1);
    const bool wants_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    const at::Tensor gradient = gradients[0].contiguous(x.suggest_memory_format());
    const bool in_planes = gradient.size(2) * gradient.size(3) > kManyPixels && x.size(1) % 16 == 0;
    if (!in_planes || !wants_weight) {
      auto [of_x, of_weight, of_bias] = gradients_of(x, gradient, {wants_x, wants_weight, wants_bias});
      return {of_x, of_weight, of_bias, {}};
    }
    const at::Tensor of_x = wants_x ? std::get<0>(gradients_of(x, gradient, {true, false, false})) : at::Tensor();
    auto [none, of_weight, of_bias] = gradients_of(x.contiguous(), gradient.contiguous(), {false, true, wants_bias});
    return {of_x, of_weight, of_bias, {}};
  }
};

// True if a convolution of `x` may be computed by other methods than LibTorch's.
bool has_other_methods(const at::Tensor& x) {
  return pass_settings().convolutions == ConvolutionMethod::kAuto && x.device().is_cpu() &&
         x.scalar_type() == at::kFloat && !at::autocast::is_autocast_enabled(at::kCPU) &&
         !torch::jit::tracer::isTracing() && x.dim() == 4;
}

bool pays_with_taps(const SquareConvolution& square, const at::Tensor& weight) {
  return square.padding == square.dilation && weight.size(0) <= kFewChannels && weight.size(1) >= 9 * weight.size(0);
}

}  // namespace

std::optional<SquareConvolution> square_convolution(const torch::nn::Conv2d& convolution) {
  const auto& options = convolution->options;
  const auto is = [](at::IntArrayRef pair, int64_t value) { return pair[0] == value && pair[1] == value; };
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&options.padding());
  if (!padding || options.groups() != 1 || !is(*options.kernel_size(), 3) || !is(*options.stride(), 1)) return {};
  const SquareConvolution square = {(*options.dilation())[0], (**padding)[0]};
  if (!is(*options.dilation(), square.dilation) || !is(**padding, square.padding)) return {};
  return square;
}

bool pays_with_winograd(const SquareConvolution& square, const at::Tensor& weight, at::IntArrayRef size) {
  if (square.padding > 2 * square.dilation) return false;
  if (weight.size(0) < kLeastChannels || weight.size(1) < kLeastChannels) return false;
  const WinogradTiles tiles(size, square.dilation, square.padding);
  return tiles.count() >= kLeastTilesPerImage * size[0] && tiles.cost() <= kLargestCost;
}

at::Tensor convolve_winograd(const at::Tensor& x, const SquareConvolution& square, const at::Tensor& points,
                             const Epilogue& epilogue) {
  const WinogradTiles tiles(x.sizes(), square.dilation, square.padding);
  return convolve_tiles(channels_last(x), tiles, points, /*transposed=*/false, /*exact=*/false, epilogue);
}

bool has_free_layout(const at::Tensor& x) { return has_other_methods(x) && !pass_settings().keeps_layout; }

at::Tensor convolve(torch::nn::Conv2d& convolution, const at::Tensor& x) {
  const at::Tensor& weight = convolution->weight;
  if (!has_other_methods(x) || weight.scalar_type() != at::kFloat || x.size(1) != weight.size(1)) {
    return convolution->forward(x);
  }
  if (const auto square = square_convolution(convolution)) {
    const auto bias = convolution->bias.defined() ? std::make_optional(convolution->bias) : std::nullopt;
    if (pays_with_taps(*square, weight)) return TapConvolution::apply(x, weight, bias, square->dilation);
    if (pays_with_winograd(*square, weight, x.sizes())) {
      return WinogradConvolution::apply(x, weight, bias, square->dilation, square->padding);
    }
  }
  if (pass_settings().keeps_layout) return convolution->forward(x);
  if (is_pointwise(convolution)) {
    return PointwiseConvolution::apply(strided(x, (*convolution->options.stride())[0]), weight);
  }
  const auto& options = convolution->options;
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&options.padding());
  if (padding == nullptr) return convolution->forward(x);
  const auto window = c10::make_intrusive<DirectConvolution::Window>();
  window->stride = at::IntArrayRef(*options.stride()).vec();
  window->padding = at::IntArrayRef(**padding).vec();
  window->dilation = at::IntArrayRef(*options.dilation()).vec();
  window->groups = options.groups();
  const auto bias = convolution->bias.defined() ? std::make_optional(convolution->bias) : std::nullopt;
  return DirectConvolution::apply(x, weight, bias, window);
}

}  // namespace bidiseg
