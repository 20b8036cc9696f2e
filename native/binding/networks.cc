// Networks: creation, forward pass, state and modes. Optimizers of their parameters.
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"
#include "binding/training_options.h"
#include "core/data/pixels.h"
#include "core/export/torchscript.h"
#include "core/host_memory.h"
#include "core/models/deeplab_v2.h"
#include "core/models/fcn8s.h"
#include "core/models/forward_traces.h"
#include "core/models/resnet_generator.h"
#include "core/models/unet_generator.h"

namespace bidiseg::binding {
namespace {

Initialization initialization_of(const Options& options) {
  return options.choice<Initialization>("initialization",
                                        {{"normal", Initialization::kNormal}, {"kaiming", Initialization::kKaiming}});
}

constexpr double kMaxWidth = 2;

int64_t class_count_option(const Options& options) { return options.integer("classCount", 2, 256); }
int64_t base_width_option(const Options& options) { return options.integer("baseWidth", 1, 1024); }

// Function that makes the network; it is called off the event loop.
std::function<std::shared_ptr<Network>()> network_factory(const std::string& kind, const Options& options) {
  const auto seed = static_cast<uint64_t>(options.integer("seed"));
  if (kind == "deeplab-v2") {
    const DeepLabV2Options deeplab{
        .backbone = options.choice<Backbone>("backbone", {{"resnet18", Backbone::kResNet18},
                                                          {"resnet34", Backbone::kResNet34},
                                                          {"resnet50", Backbone::kResNet50},
                                                          {"resnet101", Backbone::kResNet101},
                                                          {"vgg16", Backbone::kVgg16}}),
        .width = options.number("width", 0, kMaxWidth),
        .class_count = class_count_option(options),
        .branches = options.either_integer("branches", 2, 4),
        .bottleneck_stride = options.choice<BottleneckStride>(
            "bottleneckStride", {{"first", BottleneckStride::kFirst}, {"middle", BottleneckStride::kMiddle}}),
        .initialization = initialization_of(options),
        .seed = seed};
    return [deeplab] { return std::make_shared<DeepLabV2>(deeplab); };
  }
  if (kind == "fcn-8s") {
    const Fcn8sOptions fcn{.width = options.number("width", 0, kMaxWidth),
                           .class_count = class_count_option(options),
                           .initialization = initialization_of(options),
                           .seed = seed};
    return [fcn] { return std::make_shared<Fcn8s>(fcn); };
  }
  if (kind == "output-discriminator") {
    const OutputDiscriminatorOptions discriminator{
        .class_count = class_count_option(options), .base_width = base_width_option(options), .seed = seed};
    return [discriminator] { return std::make_shared<OutputDiscriminator>(discriminator); };
  }
  if (kind == "resnet-generator") {
    const ResnetGeneratorOptions generator{.blocks = options.either_integer("blocks", 6, 9),
                                           .base_width = base_width_option(options),
                                           .residual = options.boolean("residual"),
                                           .resizes = options.boolean("resizes"),
                                           .seed = seed};
    return [generator] { return std::make_shared<ResnetGenerator>(generator); };
  }
  if (kind == "unet-generator") {
    const UNetGeneratorOptions generator{
        .depth = options.integer("depth", 2, 16), .base_width = base_width_option(options), .seed = seed};
    return [generator] { return std::make_shared<UNetGenerator>(generator); };
  }
  if (kind == "feature-discriminator") {
    const FeatureDiscriminatorOptions discriminator{.feature_count = options.integer("featureCount", 1, 1 << 16),
                                                    .base_width = base_width_option(options),
                                                    .seed = seed};
    return [discriminator] { return std::make_shared<FeatureDiscriminator>(discriminator); };
  }
  if (kind == "patch-discriminator") {
    const PatchDiscriminatorOptions discriminator{.input_channels = options.integer("inputChannels", 1, 64),
                                                  .base_width = base_width_option(options),
                                                  .seed = seed};
    return [discriminator] { return std::make_shared<PatchDiscriminator>(discriminator); };
  }
  throw InvalidArgument("Unknown kind of network '" + kind + "'");
}

at::ScalarType network_dtype_option(const Options& options) {
  return options.choice<at::ScalarType>("dtype", {{"float32", at::kFloat}, {"float64", at::kDouble}});
}

// Memory for making a network: the weights in float32, in their final dtype, and temporaries of the initialization.
constexpr int64_t kBytesPerParameter = 16;
constexpr int64_t kExtraBytes = int64_t{1} << 22;

// createNetwork(kind, options, cancellation?). The option `maxParameters` is for networks that an untrusted file
// describes: a network with far more parameters is rejected before it allocates them.
Napi::Value create_network(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) throw InvalidArgument("Expected a string for kind");
  const Options options(info[1]);
  return run_async(
      info.Env(), cancellation_argument(info[2]),
      [make = network_factory(info[0].As<Napi::String>().Utf8Value(), options),
       device = device_argument(options.string("device")), dtype = network_dtype_option(options),
       parameters = options.optional_integer("maxParameters", 0, int64_t{1} << 40)] {
        std::optional<AllocationBudget> budget;
        if (parameters) {
          budget.emplace(
              *parameters * kBytesPerParameter + kExtraBytes,
              "the network has far more parameters than the " + std::to_string(*parameters) + " that there are");
        }
        auto network = make();
        network->convert(device, dtype);
        return Created(network, state_of(*network));
      },
      created_to_js<Network>);
}

void check_dtype(const Network& network, const at::Tensor& input) {
  if (input.scalar_type() == network.dtype()) return;
  throw InvalidArgument(std::string("Expected an input of dtype ") + dtype_name(network.dtype()) +
                        ", the network's, but received " + dtype_name(input.scalar_type()));
}

Napi::Value network_forward(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), cancellation_argument(info[3]),
      [network = Handle<Network>::get(info[0], "network"), input = tensor_argument(info[1], "input"),
       convolutions = convolutions_option(Options(info[2]))] {
        check_dtype(*network, input);
        const PassSettingsScope scope(&PassSettings::convolutions, convolutions);
        ForwardTraces traces(*network);
        at::Tensor output = network->forward(input);
        traces.keep();
        return output;
      },
      tensor_to_js);
}

// { features, logits }
Napi::Value network_forward_with_features(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), cancellation_argument(info[3]),
      [segmenter = network_argument<SegmentationNetwork>(info[0], "segmenter"),
       input = tensor_argument(info[1], "input"), convolutions = convolutions_option(Options(info[2]))] {
        check_dtype(*segmenter, input);
        const PassSettingsScope scope(&PassSettings::convolutions, convolutions);
        ForwardTraces traces(*segmenter);
        SegmentationOutput output = segmenter->forward_with_features(input);
        traces.keep();
        return output;
      },
      [](Napi::Env env, const SegmentationOutput& output) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("features", tensor_to_js(env, output.features));
        result.Set("logits", tensor_to_js(env, output.logits));
        return result;
      });
}

Napi::Value network_feature_count(const Napi::CallbackInfo& info) {
  return Napi::Number::New(
      info.Env(), static_cast<double>(network_argument<SegmentationNetwork>(info[0], "segmenter")->feature_count()));
}

Napi::Value network_dtype(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), dtype_name(Handle<Network>::get(info[0], "network")->dtype()));
}

Napi::Value network_set_training(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [network = Handle<Network>::get(info[0], "network"), on = info[1].ToBoolean().Value()] { network->train(on); });
}

// Freezing remembers which parameters require a gradient, since some never do (BatchNorm's affine part).
Napi::Value network_set_frozen(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr,
                   [network = Handle<Network>::get(info[0], "network"), on = info[1].ToBoolean().Value()] {
                     network->set_frozen(on);
                   });
}

// Array of { name, kind: 'parameter' | 'buffer', tensor }. The tensors share storage with the network.
Napi::Value network_state(const Napi::CallbackInfo& info) {
  auto network = Handle<Network>::get(info[0], "network");
  return run_async(
      info.Env(), nullptr, [network] { return state_of(*network); },
      [network](Napi::Env env, const NamedTensors& state) {
        const size_t parameters = network->parameters().size();
        Napi::Array result = named_tensors_to_js(env, state);
        for (uint32_t i = 0; i < result.Length(); ++i) {
          result.Get(i).As<Napi::Object>().Set("kind", i < parameters ? "parameter" : "buffer");
        }
        return result;
      });
}

Napi::Value network_load_state(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr,
                   [network = Handle<Network>::get(info[0], "network"),
                    state = named_tensors_argument(info[1], info[2])] { load_state(*network, state); });
}

Napi::Value network_parameter_count(const Napi::CallbackInfo& info) {
  int64_t count = 0;
  for (const auto& parameter : Handle<Network>::get(info[0], "network")->parameters()) count += parameter.numel();
  return Napi::Number::New(info.Env(), static_cast<double>(count));
}

// writeTorchScript(network, file, { upsample, metadata }, cancellation?)
Napi::Value write_torch_script(const Napi::CallbackInfo& info) {
  const Options options(info[2]);
  return run_async(info.Env(), cancellation_argument(info[3]),
                   [network = network_argument<SegmentationNetwork>(info[0], "network"), file = path_argument(info[1]),
                    upsample = options.boolean("upsample"),
                    metadata = options.string("metadata")] { write_torchscript(*network, file, upsample, metadata); });
}

Napi::Value create_optimizer(const Napi::CallbackInfo& info) {
  auto network = Handle<Network>::get(info[0], "network");
  const auto make = optimizer_factory(Options(info[1]));
  return run_async(
      info.Env(), nullptr,
      [network, make] {
        const std::shared_ptr<Optimizer> optimizer = make(*network);
        return Created(optimizer, optimizer->state());
      },
      created_to_js<Optimizer>);
}

Napi::Value optimizer_step(const Napi::CallbackInfo& info) {
  const double rate = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : std::nan("");
  if (!std::isfinite(rate)) throw InvalidArgument("Expected a finite number for learningRate");
  return run_async(info.Env(), nullptr,
                   [optimizer = Handle<Optimizer>::get(info[0], "optimizer"), rate] { optimizer->step(rate); });
}

Napi::Value optimizer_zero_grad(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr,
                   [optimizer = Handle<Optimizer>::get(info[0], "optimizer")] { optimizer->zero_grad(); });
}

// Exported function for a conversion from bytes to the input of networks.
template <at::Tensor (*Convert)(const at::Tensor&, at::ScalarType)>
Napi::Value convert_bytes(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [tensor = tensor_argument(info[0], "images"), dtype = network_dtype_option(Options(info[1]))] {
        return Convert(tensor, dtype);
      },
      tensor_to_js);
}

// Exported function for a conversion of a network's output.
template <at::Tensor (*Convert)(const at::Tensor&)>
Napi::Value convert_pixels(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr, [tensor = tensor_argument(info[0], "images")] { return Convert(tensor); }, tensor_to_js);
}

}  // namespace

void export_networks(Napi::Env env, Napi::Object exports) {
  Handle<Network>::define(env, exports);
  Handle<Optimizer>::define(env, exports);
  exports.Set("createNetwork", Napi::Function::New<guarded<create_network>>(env));
  exports.Set("networkForward", Napi::Function::New<guarded<network_forward>>(env));
  exports.Set("networkForwardWithFeatures", Napi::Function::New<guarded<network_forward_with_features>>(env));
  exports.Set("networkFeatureCount", Napi::Function::New<guarded<network_feature_count>>(env));
  exports.Set("networkSetTraining", Napi::Function::New<guarded<network_set_training>>(env));
  exports.Set("networkSetFrozen", Napi::Function::New<guarded<network_set_frozen>>(env));
  exports.Set("networkState", Napi::Function::New<guarded<network_state>>(env));
  exports.Set("networkLoadState", Napi::Function::New<guarded<network_load_state>>(env));
  exports.Set("networkDtype", Napi::Function::New<guarded<network_dtype>>(env));
  exports.Set("networkParameterCount", Napi::Function::New<guarded<network_parameter_count>>(env));
  exports.Set("writeTorchScript", Napi::Function::New<guarded<write_torch_script>>(env));
  exports.Set("createOptimizer", Napi::Function::New<guarded<create_optimizer>>(env));
  exports.Set("optimizerStep", Napi::Function::New<guarded<optimizer_step>>(env));
  exports.Set("optimizerZeroGrad", Napi::Function::New<guarded<optimizer_zero_grad>>(env));
  exports.Set("segmenterInput", Napi::Function::New<guarded<convert_bytes<segmenter_input>>>(env));
  exports.Set("translatorInput", Napi::Function::New<guarded<convert_bytes<translator_input>>>(env));
  exports.Set("segmenterInputFromTranslator",
              Napi::Function::New<guarded<convert_pixels<segmenter_input_from_translator>>>(env));
  exports.Set("translatorOutputBytes", Napi::Function::New<guarded<convert_pixels<translator_output_bytes>>>(env));
}

}  // namespace bidiseg::binding
