#include "core/training/translation_step.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/cancellation.h"
#include "core/data/pixels.h"

namespace bidiseg {
namespace {

// The parameters of several networks, which one optimizer moves, with names that tell the networks apart.
std::vector<TrainedParameter> parameters_of(std::initializer_list<std::pair<const char*, const Network*>> networks) {
  std::vector<TrainedParameter> parameters;
  for (const auto& [name, network] : networks) {
    for (auto& parameter : network->trained_parameters(1.0)) {
      parameter.name = name + ("." + parameter.name);
      parameters.push_back(std::move(parameter));
    }
  }
  return parameters;
}

// Two batches through a network as one: no network of this step lets images of a batch know of each other.
std::pair<at::Tensor, at::Tensor> forward_both(Network& network, const at::Tensor& first, const at::Tensor& second) {
  const auto outputs = network.forward(at::cat({first, second})).split_with_sizes({first.size(0), second.size(0)});
  return {outputs[0], outputs[1]};
}

// Terms of the generators' loss. Those that look at the outputs of one network go backward together.
class GeneratorTerms {
 public:
  /// `share` is that of the images in their batch; backward passes begin with `unit`.
  GeneratorTerms(double share, const at::Tensor& unit, StepChecks& checks)
      : share_(share), unit_(unit), checks_(checks) {}

  void add(const char* name, double weight, const at::Tensor& mean, double& value) {
    const at::Tensor term = share_ * mean;
    checks_.loss(name, term, value);
    sum_ = sum_.defined() ? sum_ + weight * term : weight * term;
  }
  void backward() { std::exchange(sum_, {}).backward(unit_); }

 private:
  double share_;
  const at::Tensor& unit_;
  StepChecks& checks_;
  at::Tensor sum_;
};

}  // namespace

TranslationStep::TranslationStep(TranslationNetworks networks, std::shared_ptr<SegmentationNetwork> segmenter,
                                 const TranslationStepOptions& options)
    : networks_(std::move(networks)),
      segmenter_(std::move(segmenter)),
      options_(options),
      generator_optimizer_(
          parameters_of({{"to_target", networks_.to_target.get()}, {"to_source", networks_.to_source.get()}}),
          options.adam),
      discriminator_optimizer_(parameters_of({{"target_discriminator", networks_.target_discriminator.get()},
                                              {"source_discriminator", networks_.source_discriminator.get()}}),
                               options.adam),
      scaler_(options.loss_scaling, /*share=*/1.0,
              at::dtype(networks_.to_target->dtype()).device(networks_.to_target->device())),
      graphs_(options.cuda_graphs, *networks_.to_target),
      fake_target_pool_(options.pool_size, options.seed),
      fake_source_pool_(options.pool_size, options.seed + 1) {
  require_precision(options_.precision, *networks_.to_target);
  if (options_.cuda_graphs && options_.micro_batch_size != 0) {
    // A graph computes gradients; those of a second part would have to be added to them.
    throw InvalidArgument("Expected no microBatchSize with cudaGraphs");
  }
}

TranslationLosses TranslationStep::run(const at::Tensor& source_images, const at::Tensor& target_images,
                                       double learning_rate) {
  if (!source_images.sizes().slice(1).equals(target_images.sizes().slice(1))) {
    std::ostringstream message;
    message << "Expected source and target images of one size but received " << source_images.sizes() << " and "
            << target_images.sizes();
    throw InvalidArgument(message.str());
  }
  const at::Device device = networks_.to_target->device();
  const at::ScalarType dtype = networks_.to_target->dtype();
  const auto scope = graphs_.begin_step();
  const at::Tensor source = translator_input(source_images.to(device), dtype);
  const at::Tensor target = translator_input(target_images.to(device), dtype);
  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();

  scaler_.prepare();
  // The pools as they will be: the images are shared, so that a copy is cheap.
  ImagePool fake_target_pool = fake_target_pool_, fake_source_pool = fake_source_pool_;
  std::vector<Part> parts = parts_of(source, target);
  for (Part& part : parts) {
    graphs_.run(0, {&part.source, &part.target}, [&] {
      if (&part == &parts.front()) computed_ = std::make_unique<Computed>();
      computed_->fakes = compute_generator_gradients(part, computed_->losses, computed_->checks);
      if (&part == &parts.back()) computed_->checks.gradients("generators", &generator_optimizer_);
    });
    Fakes shown{fake_source_pool.exchange(computed_->fakes.source),
                fake_target_pool.exchange(computed_->fakes.target)};
    graphs_.run(1, {&shown.source, &shown.target}, [&] {
      compute_discriminator_gradients(part, shown, computed_->losses, computed_->checks);
      if (&part == &parts.back()) computed_->checks.gradients("discriminators", &discriminator_optimizer_);
    });
  }
  computed_->checks.restore_gradients();
  const bool finite = computed_->checks.read(scaler_);
  TranslationLosses losses = computed_->losses;
  if (!graphs_.enabled()) computed_.reset();
  const auto& o = options_;
  losses.total =
      o.gan_weight * (losses.gan_source_to_target + losses.gan_target_to_source) +
      o.cycle_weight * (losses.cycle_source + losses.cycle_target) +
      o.identity_weight * (losses.identity_source + losses.identity_target) +
      o.perceptual_weight * (losses.perceptual_source + losses.perceptual_target) +
      o.perceptual_reconstruction_weight *
          (losses.perceptual_reconstruction_source + losses.perceptual_reconstruction_target);

  throw_if_canceled();  // the last point: from here on the step is applied whole
  scaler_.update(finite);
  if (finite) {
    half_applied_ = true;
    fake_target_pool_ = std::move(fake_target_pool);
    fake_source_pool_ = std::move(fake_source_pool);
    generator_optimizer_.step(learning_rate);
    discriminator_optimizer_.step(learning_rate);
    half_applied_ = false;
  }
  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();
  return losses;
}

std::vector<TranslationStep::Part> TranslationStep::parts_of(const at::Tensor& source, const at::Tensor& target) const {
  const int64_t count = source.size(0);
  if (options_.micro_batch_size == 0) return {{source, target, 1.0}};
  if (target.size(0) != count) {
    throw InvalidArgument("Expected as many target images as source images, " + std::to_string(count) +
                          ", for parts of a batch but received " + std::to_string(target.size(0)));
  }
  std::vector<Part> parts;
  for (int64_t first = 0; first < count; first += options_.micro_batch_size) {
    const int64_t length = std::min(options_.micro_batch_size, count - first);
    parts.push_back({source.narrow(0, first, length), target.narrow(0, first, length),
                     static_cast<double>(length) / static_cast<double>(count)});
  }
  return parts;
}

TranslationStep::Fakes TranslationStep::compute_generator_gradients(const Part& part, TranslationLosses& losses,
                                                                    StepChecks& checks) {
  const PrecisionScope precision(options_.precision, networks_.to_target->device());
  const auto& [source, target, share] = part;
  auto& to_target = *networks_.to_target;
  auto& to_source = *networks_.to_source;
  const auto& o = options_;
  const ActivationCheckpointingScope checkpointing_to_target(to_target, o.activation_checkpointing);
  const ActivationCheckpointingScope checkpointing_to_source(to_source, o.activation_checkpointing);
  GeneratorTerms terms(share, scaler_.loss_gradient(), checks);
  std::vector<Generated> made;
  made.reserve(6);
  const auto keep = [&made](const at::Tensor& image) -> const Generated& { return made.emplace_back(image); };

  const bool with_identity = o.identity_weight != 0;
  const auto [image_in_target, target_again] =
      with_identity ? forward_both(to_target, source, target) : std::pair(to_target.forward(source), at::Tensor());
  const auto [image_in_source, source_again] =
      with_identity ? forward_both(to_source, target, source) : std::pair(to_source.forward(target), at::Tensor());
  const Generated& fake_target = keep(image_in_target);
  const Generated& fake_source = keep(image_in_source);
  const Generated& cycled_source = keep(to_source.forward(fake_target.image));
  const Generated& cycled_target = keep(to_target.forward(fake_source.image));

  terms.add("cycle (source)", o.cycle_weight, at::l1_loss(cycled_source.leaf, source), losses.cycle_source);
  terms.add("cycle (target)", o.cycle_weight, at::l1_loss(cycled_target.leaf, target), losses.cycle_target);
  if (with_identity) {
    terms.add("identity (source)", o.identity_weight, at::l1_loss(keep(source_again).leaf, source),
              losses.identity_source);
    terms.add("identity (target)", o.identity_weight, at::l1_loss(keep(target_again).leaf, target),
              losses.identity_target);
  }
  terms.backward();

  FrozenScope frozen_target_discriminator(*networks_.target_discriminator), frozen_source_discriminator(*networks_.source_discriminator);
  terms.add("GAN source-to-target", o.gan_weight,
            gan_loss(networks_.target_discriminator->forward(fake_target.leaf), true, o.gan_mode),
            losses.gan_source_to_target);
  terms.backward();
  terms.add("GAN target-to-source", o.gan_weight,
            gan_loss(networks_.source_discriminator->forward(fake_source.leaf), true, o.gan_mode),
            losses.gan_target_to_source);
  terms.backward();

  if (segmenter_ && (o.perceptual_weight != 0 || o.perceptual_reconstruction_weight != 0)) {
    const ModeScope evaluation(*segmenter_, /*training=*/false);
    FrozenScope frozen_segmenter(*segmenter_);
    const auto input = [&](const at::Tensor& rgb) {
      return segmenter_input_from_translator(rgb).contiguous(fastest_format(o.precision));
    };
    const auto logits = [&](const at::Tensor& first, const at::Tensor& second) {
      return forward_both(*segmenter_, input(first), input(second));
    };
    std::pair<at::Tensor, at::Tensor> truth;
    {
      at::NoGradGuard no_grad;  // what the translations are compared with is a constant
      truth = logits(source, target);
    }
    if (const double weight = o.perceptual_weight; weight != 0) {
      const auto [of_source, of_target] = logits(fake_target.leaf, fake_source.leaf);
      terms.add("perceptual (source)", weight, perceptual_loss(of_source, truth.first, o.perceptual_form),
                losses.perceptual_source);
      terms.add("perceptual (target)", weight, perceptual_loss(of_target, truth.second, o.perceptual_form),
                losses.perceptual_target);
      terms.backward();
    }
    if (const double weight = o.perceptual_reconstruction_weight; weight != 0) {
      const auto [of_source, of_target] = logits(cycled_source.leaf, cycled_target.leaf);
      terms.add("perceptual reconstruction (source)", weight,
                perceptual_loss(of_source, truth.first, o.perceptual_form), losses.perceptual_reconstruction_source);
      terms.add("perceptual reconstruction (target)", weight,
                perceptual_loss(of_target, truth.second, o.perceptual_form), losses.perceptual_reconstruction_target);
      terms.backward();
    }
  }

  std::vector<at::Tensor> roots, gradients;
  for (const auto& [image, leaf] : made) {
    roots.push_back(image);
    gradients.push_back(leaf.grad());
  }
  torch::autograd::backward(roots, gradients);
  return {fake_source.image.detach(), fake_target.image.detach()};
}

NamedTensors TranslationStep::state() const {
  NamedTensors state = fixed_state();
  append(state, "fake_target_pool.", fake_target_pool_.state());
  append(state, "fake_source_pool.", fake_source_pool_.state());
  return state;
}

NamedTensors TranslationStep::fixed_state() const {
  if (half_applied_) throw std::runtime_error("the last step was cut off while it was applied; its state is of no use");
  NamedTensors state;
  append(state, "to_target.", state_of(*networks_.to_target));
  append(state, "to_source.", state_of(*networks_.to_source));
  append(state, "target_discriminator.", state_of(*networks_.target_discriminator));
  append(state, "source_discriminator.", state_of(*networks_.source_discriminator));
  append(state, "generator_optimizer.", generator_optimizer_.state());
  append(state, "discriminator_optimizer.", discriminator_optimizer_.state());
  append(state, "loss_scaler.", scaler_.state());
  return state;
}

void TranslationStep::load_state(NamedTensors state) {
  const at::Device device = networks_.to_target->device();
  ImagePool fake_target_pool = fake_target_pool_.resumed(extract(state, "fake_target_pool."), device);
  ImagePool fake_source_pool = fake_source_pool_.resumed(extract(state, "fake_source_pool."), device);
  copy_tensors(fixed_state(), state, "the state does not fit the translation step");
  fake_target_pool_ = std::move(fake_target_pool);
  fake_source_pool_ = std::move(fake_source_pool);
}

// The fakes were made before the generators moved, and D_F's gradients do not depend on the generators' weights, so
// computing them first and moving everything at the end changes nothing but makes the step all or nothing.
void TranslationStep::compute_discriminator_gradients(const Part& part, const Fakes& fakes, TranslationLosses& losses,
                                                      StepChecks& checks) {
  const PrecisionScope precision(options_.precision, networks_.to_target->device());
  const auto judge = [&](PatchDiscriminator& discriminator, const at::Tensor& real, const at::Tensor& fake, const char* name,
                         double& value) {
    const auto [of_real, of_fake] = forward_both(discriminator, real, fake);
    const at::Tensor loss = part.share * 0.5 * (gan_loss(of_real, true, options_.gan_mode) +
                                                gan_loss(of_fake, false, options_.gan_mode));
    checks.loss(name, loss, value);
    loss.backward(scaler_.loss_gradient());
  };
  judge(*networks_.target_discriminator, part.target, fakes.target, "discriminator (target)", losses.discriminator_target);
  judge(*networks_.source_discriminator, part.source, fakes.source, "discriminator (source)", losses.discriminator_source);
}

}  // namespace bidiseg
