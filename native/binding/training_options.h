// Option objects of training as C++ structs. They have no defaults: TypeScript passes every value.
#pragma once

#include "binding/arguments.h"

namespace bidiseg::binding {

/// Cross-entropy of a training step: corners aligned, weights of pixels 1.
inline CrossEntropyOptions cross_entropy_options(const Options& options) {
  const auto class_weights = options.numbers("classWeights");
  return {.normalize = options.choice<Normalize>("normalize", {{"valid", Normalize::kValid}, {"all", Normalize::kAll}}),
          .ignore_index = options.integer("ignoreIndex"),
          .align_corners = true,
          .class_weights = class_weights.empty() ? at::Tensor() : at::tensor(class_weights, at::kDouble),
          .pixel_weights = {}};
}

inline GanMode gan_mode_option(const Options& options) {
  return options.choice<GanMode>("ganMode",
                                 {{"least-squares", GanMode::kLeastSquares}, {"bce", GanMode::kBinaryCrossEntropy}});
}

inline PerceptualForm perceptual_form_option(const Options& options) {
  return options.choice<PerceptualForm>(
      "perceptualForm", {{"l1", PerceptualForm::kL1}, {"normalized-mse", PerceptualForm::kNormalizedMse}});
}

inline Precision precision_option(const Options& options) {
  return options.choice<Precision>("precision", {{"fp32", Precision::kFloat32},
                                                 {"tf32", Precision::kTf32},
                                                 {"bf16", Precision::kBfloat16},
                                                 {"fp16", Precision::kFloat16}});
}

inline ConvolutionMethod convolutions_option(const Options& options) {
  return options.choice<ConvolutionMethod>(
      "convolutions", {{"auto", ConvolutionMethod::kAuto}, {"direct", ConvolutionMethod::kDirect}});
}

/// `group`: handle of a process group, or null.
inline StepOptions step_options(const Options& options, const Napi::Value& group) {
  return {.precision = precision_option(options),
          .convolutions = convolutions_option(options),
          .loss_scaling = options.boolean("lossScaling"),
          .cuda_graphs = options.boolean("cudaGraphs"),
          .group = group.IsNull() ? nullptr : Handle<ProcessGroup>::get(group, "group")};
}

/// None for 'auto'.
inline std::optional<at::MemoryFormat> memory_format_option(const Options& options) {
  using Format = std::optional<at::MemoryFormat>;
  return options.choice<Format>("memoryFormat", {{"auto", Format()},
                                                 {"contiguous", at::MemoryFormat::Contiguous},
                                                 {"channels-last", at::MemoryFormat::ChannelsLast}});
}

inline int64_t micro_batch_size_option(const Options& options) {
  const int64_t size = options.integer("microBatchSize");
  if (size < 0) throw InvalidArgument("Expected an integer of at least 0 for microBatchSize");
  return size;
}

inline AdamOptions adam_options(const Options& options, const char* betas_key, double weight_decay) {
  const auto betas = options.numbers(betas_key);
  const auto fits = [](double beta) { return beta >= 0 && beta < 1; };  // a beta of 1 would divide by 0
  if (betas.size() != 2 || !fits(betas[0]) || !fits(betas[1])) {
    throw InvalidArgument(std::string("Expected two numbers from 0 to below 1 for ") + betas_key);
  }
  return {.beta1 = betas[0],
          .beta2 = betas[1],
          .eps = 1e-8,
          .weight_decay = weight_decay,
          .early_epsilon = options.choice<bool>("adamForm", {{"pytorch", false}, {"pytorch-0.4", true}})};
}

/// Function that makes the optimizer of a network; it is called off the event loop. Keys: optimizer, momentum,
/// weightDecay, repeatedStep, adamBetas, adamForm, headLearningRateFactor.
inline std::function<std::unique_ptr<Optimizer>(const Network&)> optimizer_factory(const Options& options) {
  const double head_factor = options.number("headLearningRateFactor");
  const double weight_decay = options.number("weightDecay");
  if (options.string("optimizer") == "sgd") {
    const SgdOptions sgd{.momentum = options.number("momentum"),
                         .weight_decay = weight_decay,
                         .repeated_step = options.boolean("repeatedStep")};
    return [=](const Network& network) { return std::make_unique<Sgd>(network.trained_parameters(head_factor), sgd); };
  }
  if (options.string("optimizer") != "adam") throw InvalidArgument("Expected 'sgd' or 'adam' for optimizer");
  const AdamOptions adam = adam_options(options, "adamBetas", weight_decay);
  return [=](const Network& network) { return std::make_unique<Adam>(network.trained_parameters(head_factor), adam); };
}

}  // namespace bidiseg::binding
