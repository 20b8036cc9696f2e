// Losses as differentiable functions of tensors: the composable surface.
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"
#include "binding/training_options.h"
#include "core/losses/alignment.h"

namespace bidiseg::binding {
namespace {

CrossEntropyOptions loss_options(const Napi::Value& value) {
  const Options options(value);
  CrossEntropyOptions result = cross_entropy_options(options);
  result.align_corners = options.boolean("alignCorners");
  const Napi::Value weights = value.As<Napi::Object>().Get("pixelWeights");
  if (!weights.IsUndefined()) result.pixel_weights = tensor_argument(weights, "pixelWeights");
  return result;
}

Napi::Value masked_cross_entropy_loss(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [logits = tensor_argument(info[0], "logits"), labels = tensor_argument(info[1], "labels"),
       options = loss_options(info[2])] {
        const CrossEntropyLoss result = masked_cross_entropy(logits, labels, options);
        result.labels.throw_if_invalid();
        return result.loss;
      },
      tensor_to_js);
}

Napi::Value masked_cross_entropy_online(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  std::shared_ptr<ThresholdHistogram> histogram = optional_histogram_argument(info[2]);
  const bool with_prediction = options.boolean("prediction") || histogram != nullptr;
  return run_async(
      info.Env(), nullptr,
      [logits = tensor_argument(info[0], "logits"), size = upsampling_option(options),
       thresholds =
           ConfidenceThresholds{.values = options.numbers("thresholds"), .inclusive = options.boolean("inclusive")},
       loss = loss_options(info[1]), with_prediction, histogram] {
        SelfTrainingLoss result =
            self_training_loss(logits, size.height, size.width, thresholds, loss, with_prediction);
        if (histogram) histogram->add(result.predicted.cpu(), result.confidence.to(at::kCPU, at::kFloat));
        return result;
      },
      [with_prediction = options.boolean("prediction")](Napi::Env env, const SelfTrainingLoss& loss) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("loss", tensor_to_js(env, loss.loss));
        if (with_prediction) {
          result.Set("labels", tensor_to_js(env, loss.labels));
          result.Set("confidence", tensor_to_js(env, loss.confidence));
        }
        return result;
      });
}

Napi::Value upsampled_class_probabilities(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  return run_async(
      info.Env(), nullptr,
      [logits = tensor_argument(info[0], "logits"), size = upsampling_option(options)] {
        return class_probabilities(logits, size.height, size.width);
      },
      tensor_to_js);
}

Napi::Value output_domain_loss(const Napi::CallbackInfo& info) {
  const auto domain =
      Options(info[1]).choice<Domain>("domain", {{"source", Domain::kSource}, {"target", Domain::kTarget}});
  return run_async(
      info.Env(), nullptr,
      [logits = tensor_argument(info[0], "logits"), domain] { return domain_loss(logits, domain); }, tensor_to_js);
}

Napi::Value image_gan_loss(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  return run_async(
      info.Env(), nullptr,
      [scores = tensor_argument(info[0], "scores"), real = options.boolean("real"), mode = gan_mode_option(options)] {
        return gan_loss(scores, real, mode);
      },
      tensor_to_js);
}

Napi::Value mean_absolute_loss(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [a = tensor_argument(info[0], "input"), b = tensor_argument(info[1], "other")] { return at::l1_loss(a, b); },
      tensor_to_js);
}

Napi::Value segmentation_perceptual_loss(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [a = tensor_argument(info[0], "logits"), b = tensor_argument(info[1], "other"),
       form = perceptual_form_option(Options(info[2]))] { return perceptual_loss(a, b, form); },
      tensor_to_js);
}

// Exported function for a loss of two tensors.
template <at::Tensor (*Loss)(const at::Tensor&, const at::Tensor&)>
Napi::Value feature_distance(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [source = tensor_argument(info[0], "source"), target = tensor_argument(info[1], "target")] {
        return Loss(source, target);
      },
      tensor_to_js);
}

Napi::Value weighted_self_information(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [probabilities = tensor_argument(info[0], "probabilities")] { return self_information(probabilities); },
      tensor_to_js);
}

Napi::Value mean_entropy_loss(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  return run_async(
      info.Env(), nullptr,
      [logits = tensor_argument(info[0], "logits"), size = upsampling_option(options)] {
        return entropy_loss(logits, size.height, size.width);
      },
      tensor_to_js);
}

}  // namespace

void export_losses(Napi::Env env, Napi::Object exports) {
  exports.Set("maskedCrossEntropy", Napi::Function::New<guarded<masked_cross_entropy_loss>>(env));
  exports.Set("maskedCrossEntropyOnline", Napi::Function::New<guarded<masked_cross_entropy_online>>(env));
  exports.Set("classProbabilities", Napi::Function::New<guarded<upsampled_class_probabilities>>(env));
  exports.Set("domainLoss", Napi::Function::New<guarded<output_domain_loss>>(env));
  exports.Set("ganLoss", Napi::Function::New<guarded<image_gan_loss>>(env));
  exports.Set("l1Loss", Napi::Function::New<guarded<mean_absolute_loss>>(env));
  exports.Set("meanDistance", Napi::Function::New<guarded<feature_distance<mean_distance>>>(env));
  exports.Set("correlationDistance", Napi::Function::New<guarded<feature_distance<correlation_distance>>>(env));
  exports.Set("selfInformation", Napi::Function::New<guarded<weighted_self_information>>(env));
  exports.Set("entropyLoss", Napi::Function::New<guarded<mean_entropy_loss>>(env));
  exports.Set("perceptualLoss", Napi::Function::New<guarded<segmentation_perceptual_loss>>(env));
}

}  // namespace bidiseg::binding
