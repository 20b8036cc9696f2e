#include "core/models/normalization.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include "core/models/convolution.h"
#include "kernels/normalization_on_cpu.h"

namespace bidiseg {
namespace {

constexpr double kInstanceEps = 1e-5;

// Consumes `y`, which is no view: an operation in place on a view makes autograd copy.
at::Tensor finish_(at::Tensor y, const AfterNormalization& after) {
  if (after.sum.defined()) y.add_(after.sum);
  if (after.slope == 1) return y;
  return after.slope == 0 ? y.relu_() : at::leaky_relu_(y, after.slope);
}

at::Tensor finish(const at::Tensor& normalized, const AfterNormalization& after) {
  const at::Tensor y = after.sum.defined() ? after.sum + normalized : normalized;
  if (after.slope == 1) return y;
  return after.slope == 0 ? at::relu(y) : at::leaky_relu(y, after.slope);
}

using kernels::NormalizationOptions;
using kernels::NormalizationOutput;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

bool has_kernel(const at::Tensor& x) {
  if (torch::jit::tracer::isTracing()) return false;
#ifdef BIDISEG_CUDA
  if (x.is_cuda()) return kernels::can_normalize(x);
#endif
  return kernels::cpu::can_normalize(x);
}

// `x`, or a copy in the layout of the kernels where activations need not keep theirs (convolution.h). LibTorch 2.13
// would compute wrong gradients of instance_norm for one contiguous image and an upstream gradient in channels_last.
at::Tensor in_fastest_layout(const at::Tensor& x) {
  return has_free_layout(x) ? x.contiguous(at::MemoryFormat::ChannelsLast) : x;
}

NormalizationOutput run(const at::Tensor& x, const at::Tensor& sum, const NormalizationOptions& options) {
#ifdef BIDISEG_CUDA
  if (x.is_cuda()) return kernels::normalize(x, sum, options);
#endif
  return kernels::cpu::normalize(x, sum, options);
}

std::pair<at::Tensor, at::Tensor> run_backward(const at::Tensor& upstream, const at::Tensor& x,
                                               const NormalizationOutput& forward, bool has_sum,
                                               const NormalizationOptions& options) {
#ifdef BIDISEG_CUDA
  // Where nothing was added, the kernels find the sign of y from x.
  if (x.is_cuda()) {
    return kernels::normalize_backward(upstream, x, {has_sum ? forward.y : at::Tensor(), forward.statistics}, options);
  }
#endif
  return kernels::cpu::normalize_backward(upstream, x, forward, has_sum, options);
}

// The same gradients by LibTorch's operations, for a pass of which derivatives are taken again. `y` is undefined if
// there is no ReLU.
tensor_list differentiable_gradients(const at::Tensor& upstream, const at::Tensor& x, const at::Tensor& y, bool has_sum,
                                     const NormalizationOptions& options) {
  const at::Tensor passed = y.defined() ? at::where(y > 0, upstream, options.slope * upstream) : upstream;
  const at::Tensor normalized =
      options.per_image ? at::instance_norm(x, options.weight, options.bias, {}, {}, true, 0.0, options.eps, true)
                        : at::batch_norm(x, options.weight, options.bias, options.fixed_mean, options.fixed_variance,
                                         !options.fixed_mean.defined(), 0.0, options.eps, true);
  const auto of_x = torch::autograd::grad({normalized}, {x}, {passed}, /*retain_graph=*/true, /*create_graph=*/true);
  return {of_x[0], has_sum ? passed : at::Tensor(), {}};
}

struct SavedOptions : torch::CustomClassHolder {
  explicit SavedOptions(NormalizationOptions options) : options(std::move(options)) {}
  NormalizationOptions options;
};

class Normalization : public torch::autograd::Function<Normalization> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const std::optional<at::Tensor>& sum,
                            NormalizationOptions options) {
    const NormalizationOutput output = run(x, sum.value_or(at::Tensor()), options);
    options.running = {};
    ctx->save_for_backward({x, output.statistics, options.slope == 1 ? at::Tensor() : output.y});
    ctx->saved_data["has_sum"] = sum.has_value();
    ctx->saved_data["options"] = c10::IValue::make_capsule(c10::make_intrusive<SavedOptions>(std::move(options)));
    return output.y;
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto options = c10::static_intrusive_pointer_cast<SavedOptions>(ctx->saved_data["options"].toCapsule());
    const bool has_sum = ctx->saved_data["has_sum"].toBool();
    const at::Tensor &x = saved[0], &statistics = saved[1], &y = saved[2];
    if (at::GradMode::is_enabled()) return differentiable_gradients(gradients[0], x, y, has_sum, options->options);
    const auto [of_x, of_sum] = run_backward(gradients[0], x, {y, statistics}, has_sum, options->options);
    return {of_x, of_sum, {}};
  }
};

#ifdef BIDISEG_CUDA

class ReflectionPad : public torch::autograd::Function<ReflectionPad> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t margin) {
    ctx->saved_data["margin"] = margin;
    return kernels::pad_reflected(x, margin);
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "padding on CUDA has first derivatives only");
    return {kernels::pad_reflected_backward(gradients[0], ctx->saved_data["margin"].toInt()), {}};
  }
};

#endif

at::Tensor normalize(const at::Tensor& x, const AfterNormalization& after, NormalizationOptions options) {
  options.slope = after.slope;
  const auto sum = after.sum.defined() ? std::make_optional(after.sum) : std::nullopt;
  return Normalization::apply(x, sum, std::move(options));
}

bool has_trained_affine_part(const torch::nn::BatchNorm2d& norm) {
  return !norm->weight.defined() || norm->weight.requires_grad() || norm->bias.requires_grad() ||
         norm->weight.scalar_type() != at::kFloat;
}

}  // namespace

at::Tensor instance_norm(const at::Tensor& input, const AfterNormalization& after) {
  const at::Tensor x = in_fastest_layout(input);
  if (has_kernel(x)) return normalize(x, after, {.per_image = true, .eps = kInstanceEps});
  at::Tensor one, zero;
  if (at::isReducedFloatingType(x.scalar_type())) {
    // LibTorch keeps mean and variance in the dtype of the affine part; without one, in the dtype of the planes.
    one = at::ones({x.size(1)}, x.options().dtype(at::kFloat));
    zero = at::zeros_like(one);
  }
  const at::Tensor normalized =
      at::instance_norm(x, one, zero, {}, {}, /*use_input_stats=*/true, /*momentum=*/0.0, kInstanceEps, true);
  return finish(normalized, after);
}

at::Tensor batch_norm(torch::nn::BatchNorm2d& norm, const at::Tensor& input, bool update,
                      const AfterNormalization& after) {
  const at::Tensor x = in_fastest_layout(input);
  if (has_kernel(x) && !has_trained_affine_part(norm) && norm->options.momentum()) {
    NormalizationOptions options{.weight = norm->weight, .bias = norm->bias, .eps = norm->options.eps()};
    if (!norm->is_training()) {
      options.fixed_mean = norm->running_mean;
      options.fixed_variance = norm->running_var;
    } else if (update) {
      options.running = {norm->running_mean, norm->running_var, norm->num_batches_tracked, *norm->options.momentum()};
      // FusedConvolution compares versions, which the kernel does not change.
      norm->num_batches_tracked.unsafeGetTensorImpl()->bump_version();
    }
    return normalize(x, after, std::move(options));
  }
  if (update || !norm->is_training()) return finish_(norm->forward(x), after);
  return finish_(at::batch_norm(x, norm->weight, norm->bias, {}, {}, /*training=*/true, /*momentum=*/0.0,
                                norm->options.eps(), /*cudnn_enabled=*/true),
                 after);
}

at::Tensor reflection_pad(const at::Tensor& x, int64_t margin) {
#ifdef BIDISEG_CUDA
  if (kernels::can_pad_reflected(x) && margin < std::min(x.size(2), x.size(3)) && !torch::jit::tracer::isTracing()) {
    return ReflectionPad::apply(x, margin);
  }
#endif
  const at::Tensor padded = at::reflection_pad2d(x, {margin, margin, margin, margin});
  // LibTorch's kernel for CUDA forgets the layout.
  return x.is_cuda() ? padded.contiguous(x.suggest_memory_format()) : padded;
}

}  // namespace bidiseg
