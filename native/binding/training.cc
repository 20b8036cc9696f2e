// Training steps, one call for each step.
#include <c10/core/impl/VirtualGuardImpl.h>

#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"
#include "binding/training_options.h"

namespace bidiseg::binding {
namespace {

// { images: Uint8Array, labels?: Uint8Array, weights?: Uint8Array, weakImages?: Uint8Array, count, height, width }
SegmentationBatch batch_copy(const Napi::Value& value, const char* name, bool pinned) {
  const Options options(value);
  const std::vector<int64_t> shape = {options.integer("count"), options.integer("height"), options.integer("width")};
  SegmentationBatch batch;
  const auto object = value.As<Napi::Object>();
  const std::vector<int64_t> pixels = {shape[0], shape[1], shape[2], 3};
  batch.images = typed_array_copy(object.Get("images"), pixels, name, pinned);
  const Napi::Value labels = object.Get("labels");
  if (!labels.IsUndefined()) batch.labels = typed_array_copy(labels, shape, name, pinned);
  const Napi::Value weights = object.Get("weights");
  if (!weights.IsUndefined()) batch.weights = typed_array_copy(weights, shape, name, pinned);
  const Napi::Value weak = object.Get("weakImages");
  if (!weak.IsUndefined()) batch.weak_images = typed_array_copy(weak, pixels, name, pinned);
  return batch;
}

// Batch for a step: a copy on the CPU, or a batch uploaded earlier.
class BatchArgument {
 public:
  BatchArgument() = default;
  BatchArgument(const Napi::Value& value, const char* name) {
    if (value.IsObject() && value.As<Napi::Object>().CheckTypeTag(&HandleClass<UploadedBatch>::kTag)) {
      uploaded_ = Handle<UploadedBatch>::get(value, name);
    } else {
      batch_ = batch_copy(value, name, /*pinned=*/false);
    }
  }
  /// Call it on the compute thread.
  SegmentationBatch get() const { return uploaded_ ? uploaded_->get() : batch_; }

 private:
  SegmentationBatch batch_;
  std::shared_ptr<UploadedBatch> uploaded_;
};

// uploadBatch(network, batch): starts copying a batch to the network's CUDA device
Napi::Value upload_batch(const Napi::CallbackInfo& info) {
  const at::Device device = Handle<Network>::get(info[0], "network")->device();
  if (!device.is_cuda()) throw InvalidArgument("Expected a network on a CUDA device but it is on " + device.str());
  auto& streams = Environment::of(info.Env()).copy_streams;
  auto stream = streams.find(device.index());
  if (stream == streams.end()) {
    const c10::Stream made = c10::impl::VirtualGuardImpl(at::kCUDA).getNewStream(device);
    stream = streams.emplace(device.index(), made).first;
  }
  const SegmentationBatch batch = batch_copy(info[1], "batch", /*pinned=*/true);
  int64_t bytes = 0;
  for (const at::Tensor& tensor : {batch.images, batch.labels, batch.weights, batch.weak_images}) {
    if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  }
  return Handle<UploadedBatch>::create(info.Env(), std::make_shared<UploadedBatch>(batch, stream->second), {}, bytes);
}

// { ratio, patch, weight, source }, or null
std::optional<MaskingOptions> masking_options(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return {};
  const Options options(value);
  return MaskingOptions{.ratio = options.number("ratio", 0, 1),
                        .patch = options.number("patch", 0, 1),
                        .weight = options.number("weight"),
                        .source = options.boolean("source")};
}

// { classes, minimumShare, weight }, or null
std::optional<FeatureDistanceOptions> feature_distance_options(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return {};
  const Options options(value);
  const std::vector<double> classes = options.numbers("classes");
  if (classes.empty()) throw InvalidArgument("Expected at least one class in featureDistance.classes");
  return FeatureDistanceOptions{.classes = {classes.begin(), classes.end()},
                                .minimum_share = options.number("minimumShare", 0, 1),
                                .weight = options.number("weight")};
}

// { decay, threshold, weight, classMix, margins: [top, bottom], classShares, masking, seed }
TeacherOptions teacher_options(const Napi::Value& value, int64_t ignore_index) {
  const Options options(value);
  const std::vector<double> margins = options.numbers("margins");
  const auto fits = [](double share) { return share >= 0 && share <= 0.5; };
  if (margins.size() != 2 || !fits(margins[0]) || !fits(margins[1])) {
    throw InvalidArgument("Expected two numbers from 0 to 0.5 for margins");
  }
  return {.decay = options.number("decay"),
          .threshold = options.number("threshold"),
          .weight = options.number("weight"),
          .class_mix = options.boolean("classMix"),
          .top_margin = margins[0],
          .bottom_margin = margins[1],
          .class_shares = options.numbers("classShares"),
          .masking = masking_options(value.As<Napi::Object>().Get("masking")),
          .ignore_index = ignore_index,
          .seed = static_cast<uint64_t>(options.integer("seed"))};
}

// Discriminator of the alignment, or null.
std::shared_ptr<Network> discriminator_argument(const Napi::Value& value, Alignment alignment) {
  if (value.IsNull() || value.IsUndefined()) return nullptr;
  if (!has_discriminator(alignment)) throw InvalidArgument("Expected null for discriminator");
  if (alignment == Alignment::kFeatures) return network_argument<FeatureDiscriminator>(value, "discriminator");
  return network_argument<OutputDiscriminator>(value, "discriminator");
}

// A step keeps its networks and optimizers alive.
template <typename Step>
Created<Step> created_step(std::shared_ptr<Step> step) {
  const NamedTensors state = step->state();
  return {std::move(step), state};
}

// Steps on other devices do not pause: kernels that are queued there would run first all the same.
JobRole role_of(const Step& step) {
  const auto on_cpu = [](const Network* network) { return network->device().is_cpu(); };
  const auto& networks = step.used_networks();
  if (!std::all_of(networks.begin(), networks.end(), on_cpu)) return {};
  return {JobRole::Kind::kStep, networks};
}

// createSegmentationStep(segmenter, discriminator | null, options, teacher | null, anchor | null, group | null)
Napi::Value create_segmentation_step(const Napi::CallbackInfo& info) {
  const Options options(info[2]);
  const SegmentationStepOptions step{
      .step = step_options(options, info[5]),
      .cross_entropy = cross_entropy_options(options),
      .alignment = options.choice<Alignment>("alignment", {{"output-discriminator", Alignment::kOutputs},
                                                           {"entropy-discriminator", Alignment::kEntropies},
                                                           {"feature-discriminator", Alignment::kFeatures},
                                                           {"mean", Alignment::kMeans},
                                                           {"correlation", Alignment::kCorrelations},
                                                           {"none", Alignment::kNone}}),
      .adversarial_weight = options.number("adversarialWeight"),
      .moment_weight = options.number("momentWeight"),
      .entropy_weight = options.number("entropyWeight"),
      .pseudo_label_weight = options.number("pseudoLabelWeight"),
      .accumulation = options.integer("accumulation", 1, int64_t{1} << 20),
      .seed = static_cast<uint64_t>(options.integer("seed")),
      .memory_format = memory_format_option(options),
      .activation_checkpointing = options.boolean("activationCheckpointing"),
      .feature_distance = feature_distance_options(info[2].As<Napi::Object>().Get("featureDistance"))};
  const auto average = optional_network_argument<SegmentationNetwork>(info[3], "teacher");
  std::optional<TeacherOptions> teaching;
  if (average) teaching = teacher_options(info[2].As<Napi::Object>().Get("teacher"), step.cross_entropy.ignore_index);
  return run_async(
      info.Env(), nullptr,
      [segmenter = network_argument<SegmentationNetwork>(info[0], "segmenter"),
       discriminator = discriminator_argument(info[1], step.alignment), average, teaching,
       anchor = optional_network_argument<SegmentationNetwork>(info[4], "anchor"),
       make_optimizer = optimizer_factory(options),
       adam = adam_options(options, "discriminatorBetas", /*weight_decay=*/0), step] {
        std::unique_ptr<Optimizer> discriminator_optimizer;
        if (discriminator) {
          discriminator_optimizer = std::make_unique<Adam>(discriminator->trained_parameters(1.0), adam);
        }
        std::unique_ptr<Teacher> teacher;
        if (average) teacher = std::make_unique<Teacher>(average, *segmenter, *teaching);
        return created_step(std::make_shared<SegmentationStep>(segmenter, make_optimizer(*segmenter), discriminator,
                                                               std::move(discriminator_optimizer), std::move(teacher),
                                                               anchor, step));
      },
      created_to_js<SegmentationStep>);
}

Napi::Value run_segmentation_step(const Napi::CallbackInfo& info) {
  const Options options(info[3]);
  const BatchArgument source(info[1], "source");
  const BatchArgument target = info[2].IsUndefined() ? BatchArgument() : BatchArgument(info[2], "target");
  const auto step = Handle<SegmentationStep>::get(info[0], "step");
  return run_async(
      info.Env(), cancellation_argument(info[4]),
      [step, source, target, rate = options.number("learningRate"),
       discriminator_rate = options.number("discriminatorLearningRate")] {
        return step->run(source.get(), target.get(), rate, discriminator_rate);
      },
      [](Napi::Env env, const SegmentationLosses& losses) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("total", losses.total);
        result.Set("segmentation", losses.segmentation);
        result.Set("adversarial", losses.adversarial);
        result.Set("moments", losses.moments);
        result.Set("entropy", losses.entropy);
        result.Set("pseudoLabel", losses.pseudo_label);
        result.Set("teacher", losses.teacher);
        result.Set("masked", losses.masked);
        result.Set("featureDistance", losses.feature_distance);
        result.Set("confidentShare", losses.confident_share);
        result.Set("discriminatorSource", losses.discriminator_source);
        result.Set("discriminatorTarget", losses.discriminator_target);
        return result;
      },
      role_of(*step));
}

// createTranslationStep({ toTarget, toSource, targetDiscriminator, sourceDiscriminator }, segmenter | null, options,
// group | null)
Napi::Value create_translation_step(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw InvalidArgument("Expected an object of networks");
  const auto given = info[0].As<Napi::Object>();
  const TranslationNetworks networks{.to_target = network_argument<ResnetGenerator>(given.Get("toTarget"), "toTarget"),
                                     .to_source = network_argument<ResnetGenerator>(given.Get("toSource"), "toSource"),
                                     .target_discriminator = network_argument<PatchDiscriminator>(
                                         given.Get("targetDiscriminator"), "targetDiscriminator"),
                                     .source_discriminator = network_argument<PatchDiscriminator>(
                                         given.Get("sourceDiscriminator"), "sourceDiscriminator")};
  const Options options(info[2]);
  const TranslationStepOptions step{
      .step = step_options(options, info[3]),
      .gan_mode = gan_mode_option(options),
      .gan_weight = options.number("ganWeight"),
      .cycle_weight = options.number("cycleWeight"),
      .identity_weight = options.number("identityWeight"),
      .perceptual_form = perceptual_form_option(options),
      .perceptual_weight = options.number("perceptualWeight"),
      .perceptual_reconstruction_weight = options.number("perceptualReconstructionWeight"),
      .pool_size = options.integer("poolSize", 0, int64_t{1} << 20),
      .seed = static_cast<uint64_t>(options.integer("seed")),
      .adam = adam_options(options, "betas", /*weight_decay=*/0),
      .micro_batch_size = micro_batch_size_option(options),
      .activation_checkpointing = options.boolean("activationCheckpointing")};
  return run_async(
      info.Env(), nullptr,
      [networks, segmenter = optional_network_argument<SegmentationNetwork>(info[1], "segmenter"), step] {
        return created_step(std::make_shared<TranslationStep>(networks, segmenter, step));
      },
      created_to_js<TranslationStep>);
}

Napi::Value run_translation_step(const Napi::CallbackInfo& info) {
  const BatchArgument source(info[1], "source"), target(info[2], "target");
  const auto step = Handle<TranslationStep>::get(info[0], "step");
  return run_async(
      info.Env(), cancellation_argument(info[4]),
      [step, source, target, rate = Options(info[3]).number("learningRate")] {
        return step->run(source.get().images, target.get().images, rate);
      },
      [](Napi::Env env, const TranslationLosses& losses) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("total", losses.total);
        result.Set("ganSourceToTarget", losses.gan_source_to_target);
        result.Set("ganTargetToSource", losses.gan_target_to_source);
        result.Set("cycleSource", losses.cycle_source);
        result.Set("cycleTarget", losses.cycle_target);
        result.Set("identitySource", losses.identity_source);
        result.Set("identityTarget", losses.identity_target);
        result.Set("perceptualSource", losses.perceptual_source);
        result.Set("perceptualTarget", losses.perceptual_target);
        result.Set("perceptualReconstructionSource", losses.perceptual_reconstruction_source);
        result.Set("perceptualReconstructionTarget", losses.perceptual_reconstruction_target);
        result.Set("discriminatorSource", losses.discriminator_source);
        result.Set("discriminatorTarget", losses.discriminator_target);
        return result;
      },
      role_of(*step));
}

// createPairedTranslationStep({ toTarget, targetDiscriminator }, options, group | null)
Napi::Value create_paired_translation_step(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw InvalidArgument("Expected an object of networks");
  const auto given = info[0].As<Napi::Object>();
  const PairedTranslationNetworks networks{
      .to_target = network_argument<ImageGenerator>(given.Get("toTarget"), "toTarget"),
      .target_discriminator =
          network_argument<PatchDiscriminator>(given.Get("targetDiscriminator"), "targetDiscriminator")};
  const Options options(info[1]);
  const PairedTranslationStepOptions step{.step = step_options(options, info[2]),
                                          .gan_mode = gan_mode_option(options),
                                          .gan_weight = options.number("ganWeight"),
                                          .l1_weight = options.number("l1Weight"),
                                          .adam = adam_options(options, "betas", /*weight_decay=*/0)};
  return run_async(
      info.Env(), nullptr,
      [networks, step] { return created_step(std::make_shared<PairedTranslationStep>(networks, step)); },
      created_to_js<PairedTranslationStep>);
}

Napi::Value run_paired_translation_step(const Napi::CallbackInfo& info) {
  const BatchArgument source(info[1], "source"), target(info[2], "target");
  const auto step = Handle<PairedTranslationStep>::get(info[0], "step");
  return run_async(
      info.Env(), cancellation_argument(info[4]),
      [step, source, target, rate = Options(info[3]).number("learningRate")] {
        return step->run(source.get().images, target.get().images, rate);
      },
      [](Napi::Env env, const PairedTranslationLosses& losses) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("total", losses.total);
        result.Set("ganSourceToTarget", losses.gan);
        result.Set("l1", losses.l1);
        result.Set("discriminatorTarget", losses.discriminator);
        return result;
      },
      role_of(*step));
}

// Array of { name, tensor }. The tensors share storage with the step and its networks.
template <typename Step>
Napi::Value step_state(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr, [step = Handle<Step>::get(info[0], "step")] { return step->state(); }, named_tensors_to_js);
}

// loadState(step, names, tensors)
template <typename Step>
Napi::Value step_load_state(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr,
                   [step = Handle<Step>::get(info[0], "step"), state = named_tensors_argument(info[1], info[2])] {
                     step->load_state(state);
                   });
}

}  // namespace

void export_training(Napi::Env env, Napi::Object exports) {
  Handle<SegmentationStep>::define(env, exports);
  Handle<TranslationStep>::define(env, exports);
  Handle<PairedTranslationStep>::define(env, exports);
  Handle<UploadedBatch>::define(env, exports);
  exports.Set("uploadBatch", Napi::Function::New<guarded<upload_batch>>(env));
  exports.Set("createSegmentationStep", Napi::Function::New<guarded<create_segmentation_step>>(env));
  exports.Set("runSegmentationStep", Napi::Function::New<guarded<run_segmentation_step>>(env));
  exports.Set("segmentationStepState", Napi::Function::New<guarded<step_state<SegmentationStep>>>(env));
  exports.Set("segmentationStepLoadState", Napi::Function::New<guarded<step_load_state<SegmentationStep>>>(env));
  exports.Set("createTranslationStep", Napi::Function::New<guarded<create_translation_step>>(env));
  exports.Set("runTranslationStep", Napi::Function::New<guarded<run_translation_step>>(env));
  exports.Set("translationStepState", Napi::Function::New<guarded<step_state<TranslationStep>>>(env));
  exports.Set("translationStepLoadState", Napi::Function::New<guarded<step_load_state<TranslationStep>>>(env));
  exports.Set("createPairedTranslationStep", Napi::Function::New<guarded<create_paired_translation_step>>(env));
  exports.Set("runPairedTranslationStep", Napi::Function::New<guarded<run_paired_translation_step>>(env));
  exports.Set("pairedTranslationStepState", Napi::Function::New<guarded<step_state<PairedTranslationStep>>>(env));
  exports.Set("pairedTranslationStepLoadState",
              Napi::Function::New<guarded<step_load_state<PairedTranslationStep>>>(env));
}

}  // namespace bidiseg::binding
