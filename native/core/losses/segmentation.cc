#include "core/losses/segmentation.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/errors.h"
#include "kernels/upsampled_softmax.h"

namespace bidiseg {
namespace {

using kernels::CrossEntropyInput;
using kernels::CrossEntropyOutput;
using kernels::Upsampling;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::string shape_of(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

// Logits as the kernels take them: double stays, every other dtype becomes float.
at::Tensor kernel_logits(const at::Tensor& logits) {
  if (logits.scalar_type() == at::kDouble && !logits.is_cpu()) {
    throw InvalidArgument("Expected float64 logits on the CPU only but they are on " + logits.device().str());
  }
  return logits.to(logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).contiguous();
}

// The float for which comparing another float with it gives the same result as comparing with the threshold itself.
double comparable(double threshold, bool inclusive) {
  const auto rounded = static_cast<float>(threshold);
  if (inclusive && rounded < threshold) return std::nextafter(rounded, 2.0f);
  if (!inclusive && rounded > threshold) return std::nextafter(rounded, -1.0f);
  return rounded;
}

// Value and gradient come from one pass; the backward pass only scales the gradient.
struct MaskedCrossEntropy : torch::autograd::Function<MaskedCrossEntropy> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const CrossEntropyInput& input,
                            Normalize normalize, CrossEntropyOutput& output) {
    output = kernels::upsampled_cross_entropy(input);
    const auto all = static_cast<double>(logits.size(0) * input.size.height * input.size.width);
    // If no pixel counts, loss and gradient are 0, and any divisor will do.
    const at::Tensor scale = normalize == Normalize::kAll ? at::full_like(output.weight, 1 / all)
                                                          : at::where(output.weight > 0, output.weight, 1).reciprocal();
    if (input.with_gradient) context->save_for_backward({output.gradient, scale});
    return output.loss * scale;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    refuse_second_derivative("maskedCrossEntropy");
    const variable_list saved = context->get_saved_variables();
    return {saved[0] * (saved[1] * upstream[0]), {}, {}, {}};
  }

  static void refuse_second_derivative(const char* what) {
    if (at::GradMode::is_enabled()) throw InvalidArgument(std::string(what) + " has no second derivative");
  }
};

struct UpsampledSoftmax : torch::autograd::Function<UpsampledSoftmax> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, int64_t height, int64_t width) {
    context->save_for_backward({logits});
    context->saved_data["height"] = height;
    context->saved_data["width"] = width;
    return kernels::upsampled_softmax(logits, {height, width, /*align_corners=*/true});
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    MaskedCrossEntropy::refuse_second_derivative("classProbabilities");
    const at::Tensor logits = context->get_saved_variables()[0];
    const Upsampling size{context->saved_data["height"].toInt(), context->saved_data["width"].toInt(),
                          /*align_corners=*/true};
    return {kernels::upsampled_softmax_backward(logits, size, upstream[0].contiguous()), {}, {}};
  }
};

// Input of the kernel without labels and thresholds.
CrossEntropyInput kernel_input(const at::Tensor& logits, int64_t height, int64_t width,
                               const CrossEntropyOptions& options) {
  check_class_weights(options.class_weights, logits.size(1));
  at::Tensor class_weights, pixel_weights;
  if (options.class_weights.defined()) {
    class_weights = options.class_weights.to(logits.options().requires_grad(false));
  }
  if (options.pixel_weights.defined()) {
    if (!options.pixel_weights.sizes().equals({logits.size(0), height, width})) {
      throw InvalidArgument("Expected pixel weights of the shape of the labels but received " +
                            shape_of(options.pixel_weights));
    }
    pixel_weights = options.pixel_weights.detach().to(logits.options().requires_grad(false)).contiguous();
  }
  return {.logits = logits.detach(),
          .size = {height, width, options.align_corners},
          .labels = {},
          .ignore_index = options.ignore_index,
          .thresholds = {},
          .inclusive = false,
          .class_weights = class_weights,
          .pixel_weights = pixel_weights,
          .with_gradient = logits.requires_grad() && at::GradMode::is_enabled(),
          .with_prediction = false};
}

}  // namespace

void check_per_class(int64_t values, int64_t class_count, const char* what) {
  if (values == class_count) return;
  throw InvalidArgument("Expected " + std::to_string(class_count) + " " + what + ", one per class, but received " +
                        std::to_string(values));
}

void check_class_weights(const at::Tensor& weights, int64_t class_count) {
  if (weights.defined()) check_per_class(weights.numel(), class_count, "class weights");
}

void check_logits(const at::Tensor& logits) {
  if (logits.dim() != 4 || logits.numel() == 0 || logits.size(1) < 2 || logits.size(1) > 256) {
    throw InvalidArgument("Expected logits [N, C, h, w] with C from 2 to 256 but received " + shape_of(logits));
  }
  if (!at::isFloatingType(logits.scalar_type())) {
    throw InvalidArgument(std::string("Expected logits of a floating-point dtype but received ") +
                          at::toString(logits.scalar_type()));
  }
}

void LabelCheck::throw_if_invalid() const {
  const auto label = invalid_label.item<int64_t>();
  if (label == kernels::kNoInvalidLabel) return;
  throw InvalidArgument("Expected labels from 0 to " + std::to_string(class_count - 1) + " or the ignore index " +
                        std::to_string(ignore_index) + " but found " + std::to_string(label));
}

CrossEntropyLoss masked_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                                      const CrossEntropyOptions& options) {
  check_logits(logits);
  if (labels.dim() != 3 || labels.size(0) != logits.size(0) || labels.size(1) < logits.size(2) ||
      labels.size(2) < logits.size(3)) {
    throw InvalidArgument("Expected logits [N, C, h, w] and labels [N, H, W] with H >= h and W >= w but received " +
                          shape_of(logits) + " and " + shape_of(labels));
  }
  if (labels.scalar_type() != at::kByte && labels.scalar_type() != at::kLong) {
    throw InvalidArgument(std::string("Expected labels of dtype uint8 or int64 but received ") +
                          at::toString(labels.scalar_type()));
  }
  if (labels.device() != logits.device()) {
    throw InvalidArgument("Expected labels on " + logits.device().str() + ", as the logits, but they are on " +
                          labels.device().str());
  }
  const at::Tensor converted = kernel_logits(logits);
  CrossEntropyInput input = kernel_input(converted, labels.size(1), labels.size(2), options);
  input.labels = labels.contiguous();
  CrossEntropyOutput output;
  const at::Tensor loss = MaskedCrossEntropy::apply(converted, input, options.normalize, output);
  return {loss, {output.invalid_label, logits.size(1), options.ignore_index}};
}

SelfTrainingLoss self_training_loss(const at::Tensor& logits, int64_t height, int64_t width,
                                    const ConfidenceThresholds& thresholds, const CrossEntropyOptions& options,
                                    bool with_prediction) {
  check_logits(logits);
  if (height < logits.size(2) || width < logits.size(3)) {
    throw InvalidArgument("Expected a height and width not below those of the logits " + shape_of(logits) +
                          " but received " + std::to_string(height) + " and " + std::to_string(width));
  }
  const at::Tensor converted = kernel_logits(logits);
  CrossEntropyInput input = kernel_input(converted, height, width, options);
  std::vector<double> each = thresholds.values;
  if (each.size() == 1) each.resize(static_cast<size_t>(logits.size(1)), each[0]);
  if (logits.scalar_type() != at::kDouble) {
    for (double& threshold : each) threshold = comparable(threshold, thresholds.inclusive);
  }
  check_per_class(static_cast<int64_t>(each.size()), converted.size(1), "thresholds");
  input.thresholds = at::tensor(each, at::kDouble).to(converted.options().requires_grad(false));
  input.inclusive = thresholds.inclusive;
  input.with_prediction = with_prediction;
  CrossEntropyOutput output;
  SelfTrainingLoss result;
  result.loss = MaskedCrossEntropy::apply(converted, input, options.normalize, output);
  if (with_prediction) {
    const at::Tensor threshold =
        input.thresholds.index_select(0, output.predicted.flatten().to(at::kLong)).view_as(output.confidence);
    const at::Tensor kept = thresholds.inclusive ? output.confidence >= threshold : output.confidence > threshold;
    result.labels = at::where(kept, output.predicted, at::full_like(output.predicted, options.ignore_index));
    result.predicted = output.predicted;
    result.confidence = output.confidence;
  }
  return result;
}

at::Tensor resize_bilinear(const at::Tensor& x, int64_t height, int64_t width) {
  if (x.size(2) == height && x.size(3) == width) return x;
  return at::upsample_bilinear2d(x, {height, width}, /*align_corners=*/true);
}

at::Tensor class_probabilities(const at::Tensor& logits, int64_t height, int64_t width) {
  check_logits(logits);
  return UpsampledSoftmax::apply(kernel_logits(logits), height, width);
}

at::Tensor domain_loss(const at::Tensor& discriminator_logits, Domain domain) {
  const auto target = at::full_like(discriminator_logits, static_cast<double>(domain));
  return at::binary_cross_entropy_with_logits(discriminator_logits, target);
}

}  // namespace bidiseg
