#include "core/models/normalization.h"

#ifdef BIDISEG_CUDA
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include "kernels/normalization.h"
#endif

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

#ifdef BIDISEG_CUDA

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// Gradients of these functions have none of their own.
void require_first_derivative() {
  TORCH_CHECK(!at::GradMode::is_enabled(), "normalization on CUDA has first derivatives only");
}

struct SavedOptions : torch::CustomClassHolder {
  explicit SavedOptions(kernels::NormalizationOptions options) : options(std::move(options)) {}
  kernels::NormalizationOptions options;
};

class Normalization : public torch::autograd::Function<Normalization> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const std::optional<at::Tensor>& sum,
                            kernels::NormalizationOptions options) {
    const auto output = kernels::normalize(x, sum.value_or(at::Tensor()), options);
    options.running = {};
    // Where nothing was added, the sign of y follows from x.
    ctx->save_for_backward(sum ? tensor_list{x, output.statistics, output.y} : tensor_list{x, output.statistics});
    ctx->saved_data["options"] = c10::IValue::make_capsule(c10::make_intrusive<SavedOptions>(std::move(options)));
    return output.y;
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    require_first_derivative();
    const auto saved = ctx->get_saved_variables();
    const auto options = c10::static_intrusive_pointer_cast<SavedOptions>(ctx->saved_data["options"].toCapsule());
    const at::Tensor y = saved.size() > 2 ? saved[2] : at::Tensor();
    const auto [of_x, of_sum] = kernels::normalize_backward(gradients[0], saved[0], {y, saved[1]}, options->options);
    return {of_x, of_sum, {}};
  }
};

class ReflectionPad : public torch::autograd::Function<ReflectionPad> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t margin) {
    ctx->saved_data["margin"] = margin;
    return kernels::pad_reflected(x, margin);
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    require_first_derivative();
    return {kernels::pad_reflected_backward(gradients[0], ctx->saved_data["margin"].toInt()), {}};
  }
};

at::Tensor normalize(const at::Tensor& x, const AfterNormalization& after, kernels::NormalizationOptions options) {
  options.slope = after.slope;
  const auto sum = after.sum.defined() ? std::make_optional(after.sum) : std::nullopt;
  return Normalization::apply(x, sum, std::move(options));
}

bool has_trained_affine_part(const torch::nn::BatchNorm2d& norm) {
  return !norm->weight.defined() || norm->weight.requires_grad() || norm->bias.requires_grad() ||
         norm->weight.scalar_type() != at::kFloat;
}

#endif

}  // namespace

at::Tensor instance_norm(const at::Tensor& x, const AfterNormalization& after) {
#ifdef BIDISEG_CUDA
  if (kernels::can_normalize(x) && !torch::jit::tracer::isTracing()) {
    return normalize(x, after, {.per_image = true, .eps = kInstanceEps});
  }
#endif
  at::Tensor one, zero;
  if (at::isReducedFloatingType(x.scalar_type())) {
    // LibTorch keeps mean and variance in the dtype of the affine part; without one, in the dtype of the planes.
    one = at::ones({x.size(1)}, x.options().dtype(at::kFloat));
    zero = at::zeros_like(one);
  }
  return finish(at::instance_norm(x, one, zero, {}, {}, /*use_input_stats=*/true, /*momentum=*/0.0, kInstanceEps,
                                  /*cudnn_enabled=*/true),
                after);
}

at::Tensor batch_norm(torch::nn::BatchNorm2d& norm, const at::Tensor& x, bool update, const AfterNormalization& after) {
#ifdef BIDISEG_CUDA
  if (kernels::can_normalize(x) && !has_trained_affine_part(norm) && norm->options.momentum() &&
      !torch::jit::tracer::isTracing()) {
    kernels::NormalizationOptions options{.weight = norm->weight, .bias = norm->bias, .eps = norm->options.eps()};
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
#endif
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
