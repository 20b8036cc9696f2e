// Segmentation, translation, pseudo-labels and metrics of images given as bytes.
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"
#include "binding/training_options.h"
#include "core/data/pixels.h"
#include "core/inference/averaged_prediction.h"
#include "core/metrics/confusion.h"
#include "core/models/image_generator.h"
#include "core/models/running_statistics.h"

namespace bidiseg::binding {
namespace {

at::Tensor images_argument(const Napi::Value& value, const Options& options) {
  return typed_array_copy(value, {options.integer("count"), options.integer("height"), options.integer("width"), 3},
                          "images");
}

JobRole prediction_of(const Napi::Value& network) {
  return {JobRole::Kind::kPrediction, {Handle<Network>::get(network, "network").get()}};
}

JobRole segmentation_by(const Napi::Value& segmenter, const Options& options) {
  JobRole role = prediction_of(segmenter);
  role.beside_others = options.boolean("sideBySide") && role.networks[0]->device().is_cpu();
  return role;
}

Prediction on_the_cpu(Prediction prediction) {
  prediction.labels = prediction.labels.cpu().contiguous();
  if (prediction.confidence.defined()) prediction.confidence = prediction.confidence.cpu().contiguous();
  return prediction;
}

Napi::Value prediction_to_js(Napi::Env env, const Prediction& prediction) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("labels", typed_array_to_js(env, prediction.labels));
  if (prediction.confidence.defined()) result.Set("confidence", typed_array_to_js(env, prediction.confidence));
  return result;
}

// outputSizes: height and width of each image in turn; empty if all have one size
std::vector<std::array<int64_t, 2>> sizes_option(const Options& options) {
  const std::vector<double> numbers = options.numbers("outputSizes");
  const auto count = static_cast<size_t>(options.integer("count"));
  if (!numbers.empty() && numbers.size() != 2 * count) {
    throw InvalidArgument("Expected an output size for each of " + std::to_string(count) + " images but received " +
                          std::to_string(numbers.size() / 2));
  }
  constexpr double kMaxExtent = 1 << 20;
  std::vector<std::array<int64_t, 2>> sizes;
  for (size_t i = 0; i < numbers.size(); i += 2) {
    for (const double extent : {numbers[i], numbers[i + 1]}) {
      if (!(extent >= 1 && extent <= kMaxExtent)) throw InvalidArgument("Expected output sizes from 1 to 1048576");
    }
    sizes.push_back({static_cast<int64_t>(numbers[i]), static_cast<int64_t>(numbers[i + 1])});
  }
  return sizes;
}

Napi::Value predict_labels(const Napi::CallbackInfo& info) {
  const Options options(info[2]);
  return run_async(
      info.Env(), cancellation_argument(info[3]),
      [segmenter = network_argument<SegmentationNetwork>(info[0], "segmenter"),
       images = images_argument(info[1], options), size = upsampling_option(options, "outputHeight", "outputWidth"),
       with_confidence = options.boolean("confidence"), order = softmax_order_option(options),
       thresholds = options.numbers("classThresholds"), precision = precision_option(options),
       convolutions = convolutions_option(options), sizes = sizes_option(options)] {
        require_precision(precision, *segmenter);
        const PrecisionScope scope(precision, segmenter->device());
        const PassSettingsScope convolution_scope(&PassSettings::convolutions, convolutions);
        const at::Tensor on_device = images.to(segmenter->device());
        return on_the_cpu(
            sizes.empty() ? predict(*segmenter, on_device, size.height, size.width, order, with_confidence, thresholds)
                          : predict_sizes(*segmenter, on_device, sizes, order, with_confidence, thresholds));
      },
      prediction_to_js, segmentation_by(info[0], options));
}

// updateStatistics(segmenter, images, { count, width, height, momentum }, cancellation?)
Napi::Value update_statistics(const Napi::CallbackInfo& info) {
  const Options options(info[2]);
  return run_async(info.Env(), cancellation_argument(info[3]),
                   [segmenter = network_argument<SegmentationNetwork>(info[0], "segmenter"),
                    images = images_argument(info[1], options), momentum = options.number("momentum")] {
                     update_running_statistics(
                         *segmenter, segmenter_input(images.to(segmenter->device()), segmenter->dtype()), momentum);
                   });
}

// predictAveraged(segmenter, views, options, cancellation?) with views [{ images, count, width, height }]
Napi::Value predict_averaged_labels(const Napi::CallbackInfo& info) {
  if (!info[1].IsArray()) throw InvalidArgument("Expected an array of views");
  const auto array = info[1].As<Napi::Array>();
  std::vector<at::Tensor> views;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value view = array.Get(i);
    const Options size(view);
    views.push_back(images_argument(view.As<Napi::Object>().Get("images"), size));
  }
  if (views.empty()) throw InvalidArgument("Expected at least one view");
  const Options options(info[2]);
  return run_async(
      info.Env(), cancellation_argument(info[3]),
      [segmenter = network_argument<SegmentationNetwork>(info[0], "segmenter"), views = std::move(views),
       flip = options.boolean("flip"), size = upsampling_option(options, "outputHeight", "outputWidth"),
       with_confidence = options.boolean("confidence"), order = softmax_order_option(options),
       precision = precision_option(options), convolutions = convolutions_option(options)]() mutable {
        require_precision(precision, *segmenter);
        const PrecisionScope scope(precision, segmenter->device());
        const PassSettingsScope convolution_scope(&PassSettings::convolutions, convolutions);
        for (at::Tensor& view : views) view = view.to(segmenter->device());
        return on_the_cpu(predict_averaged(*segmenter, views, flip, size.height, size.width, order, with_confidence));
      },
      prediction_to_js, segmentation_by(info[0], options));
}

Napi::Value choose_pseudo_labels(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  const bool with_confidence = options.boolean("confidence");
  kernels::Upsampling size = upsampling_option(options);
  size.align_corners = options.boolean("alignCorners");
  return run_async(
      info.Env(), nullptr,
      [logits = tensor_argument(info[0], "logits"), size, order = softmax_order_option(options),
       thresholds = options.numbers("thresholds"), inclusive = options.boolean("inclusive"),
       ignore_index = ignore_index_option(options), histogram = optional_histogram_argument(info[2])] {
        return pseudo_labels(logits, size, order, thresholds, inclusive, ignore_index, histogram.get());
      },
      [with_confidence](Napi::Env env, const Prediction& prediction) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("labels", tensor_to_js(env, prediction.labels));
        if (with_confidence) result.Set("confidence", tensor_to_js(env, prediction.confidence));
        return result;
      });
}

Napi::Value translate_images(const Napi::CallbackInfo& info) {
  const Options options(info[2]);
  return run_async(
      info.Env(), cancellation_argument(info[3]),
      [generator = network_argument<ImageGenerator>(info[0], "generator"), images = images_argument(info[1], options)] {
        at::NoGradGuard no_grad;
        generator->eval();
        const at::Tensor input = translator_input(images.to(generator->device()), generator->dtype());
        return translator_output_bytes(generate_same_size(*generator, input)).cpu();
      },
      typed_array_to_js, prediction_of(info[0]));
}

Napi::Value create_threshold_histogram(const Napi::CallbackInfo& info) {
  const Options options(info[0]);
  auto histogram = std::make_shared<ThresholdHistogram>(options.integer("classCount", 1, 256),
                                                        options.integer("bins", 2, int64_t{1} << 24));
  return Handle<ThresholdHistogram>::create(info.Env(), histogram, {}, histogram->bytes());
}

// Labels and confidences of equal length.
std::pair<at::Tensor, at::Tensor> labels_and_confidence(const Napi::CallbackInfo& info, size_t first) {
  if (!info[first].IsTypedArray()) throw InvalidArgument("Expected a Uint8Array for labels");
  const auto length = static_cast<int64_t>(info[first].As<Napi::TypedArray>().ElementLength());
  at::Tensor labels = typed_array_copy(info[first], {length}, "labels");
  at::Tensor confidence = typed_array_copy(info[first + 1], {length}, "confidence");
  if (labels.scalar_type() != at::kByte) throw InvalidArgument("Expected a Uint8Array for labels");
  if (confidence.scalar_type() != at::kFloat) throw InvalidArgument("Expected a Float32Array for confidence");
  return {labels, confidence};
}

Napi::Value histogram_add(const Napi::CallbackInfo& info) {
  auto [labels, confidence] = labels_and_confidence(info, 1);
  return run_async(info.Env(), nullptr,
                   [histogram = Handle<ThresholdHistogram>::get(info[0], "histogram"), labels = std::move(labels),
                    confidence = std::move(confidence)] { histogram->add(labels, confidence); });
}

// histogramRefine(histogram, { portion, cap })
Napi::Value histogram_refine(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  return run_async(
      info.Env(), nullptr,
      [histogram = Handle<ThresholdHistogram>::get(info[0], "histogram"), portion = options.number("portion", 0, 1),
       cap = options.number("cap", 0, 1)] { return histogram->refine(portion, cap); },
      [](Napi::Env env, bool again) -> Napi::Value { return Napi::Boolean::New(env, again); });
}

Napi::Value histogram_thresholds(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  return run_async(
      info.Env(), nullptr,
      [histogram = Handle<ThresholdHistogram>::get(info[0], "histogram"), portion = options.number("portion", 0, 1),
       cap = options.number("cap", 0, 1)] {
        return std::make_pair(histogram->thresholds(portion, cap), histogram->class_pixels());
      },
      [](Napi::Env env, const std::pair<std::vector<double>, std::vector<int64_t>>& found) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("thresholds", numbers_to_js(env, found.first));
        result.Set("counts", numbers_to_js(env, found.second));
        return result;
      });
}

Napi::Value apply_confidence_thresholds(const Napi::CallbackInfo& info) {
  auto [labels, confidence] = labels_and_confidence(info, 0);
  const Options options(info[2]);
  return run_async(
      info.Env(), nullptr,
      [labels = std::move(labels), confidence = std::move(confidence), thresholds = options.numbers("thresholds"),
       inclusive = options.boolean("inclusive"), ignore_index = ignore_index_option(options)] {
        return apply_thresholds(labels, confidence, thresholds, inclusive, ignore_index);
      },
      [](Napi::Env env, const PseudoLabels& pseudo) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("labels", typed_array_to_js(env, pseudo.labels));
        result.Set("keptPerClass", numbers_to_js(env, pseudo.kept_per_class));
        return result;
      });
}

Napi::Value count_confusion(const Napi::CallbackInfo& info) {
  const Options options(info[2]);
  if (!info[0].IsTypedArray()) throw InvalidArgument("Expected a Uint8Array for truth");
  const auto length = static_cast<int64_t>(info[0].As<Napi::TypedArray>().ElementLength());
  at::Tensor truth = typed_array_copy(info[0], {length}, "truth");
  at::Tensor prediction = typed_array_copy(info[1], {length}, "prediction");
  if (truth.scalar_type() != at::kByte || prediction.scalar_type() != at::kByte) {
    throw InvalidArgument("Expected Uint8Arrays for truth and prediction");
  }
  return run_async(
      info.Env(), nullptr,
      [truth, prediction, classes = options.integer("classCount", 1, 256),
       ignore_index = ignore_index_option(options)] {
        return confusion_counts(truth, prediction, classes, ignore_index).to(at::kDouble);
      },
      typed_array_to_js);
}

}  // namespace

void export_inference(Napi::Env env, Napi::Object exports) {
  Handle<ThresholdHistogram>::define(env, exports);
  exports.Set("predict", Napi::Function::New<guarded<predict_labels>>(env));
  exports.Set("pseudoLabels", Napi::Function::New<guarded<choose_pseudo_labels>>(env));
  exports.Set("updateStatistics", Napi::Function::New<guarded<update_statistics>>(env));
  exports.Set("predictAveraged", Napi::Function::New<guarded<predict_averaged_labels>>(env));
  exports.Set("translate", Napi::Function::New<guarded<translate_images>>(env));
  exports.Set("createThresholdHistogram", Napi::Function::New<guarded<create_threshold_histogram>>(env));
  exports.Set("histogramAdd", Napi::Function::New<guarded<histogram_add>>(env));
  exports.Set("histogramRefine", Napi::Function::New<guarded<histogram_refine>>(env));
  exports.Set("histogramThresholds", Napi::Function::New<guarded<histogram_thresholds>>(env));
  exports.Set("applyThresholds", Napi::Function::New<guarded<apply_confidence_thresholds>>(env));
  exports.Set("confusionCounts", Napi::Function::New<guarded<count_confusion>>(env));
}

}  // namespace bidiseg::binding
