#include "core/training/translation_step.h"

#include "core/cancellation.h"
#include "core/data/pixels.h"
#include "core/training/finite.h"

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

}  // namespace

TranslationStep::TranslationStep(TranslationNetworks networks, std::shared_ptr<SegmentationNetwork> segmenter,
                                 const TranslationStepOptions& options)
    : networks_(std::move(networks)),
      segmenter_(std::move(segmenter)),
      options_(options),
      generator_optimizer_(
          parameters_of({{"to_target", networks_.to_target.get()}, {"to_source", networks_.to_source.get()}}),
          options.adam),
      discriminator_optimizer_(parameters_of({{"target_critic", networks_.target_critic.get()},
                                              {"source_critic", networks_.source_critic.get()}}),
                               options.adam),
      fake_target_pool_(options.pool_size, options.seed),
      fake_source_pool_(options.pool_size, options.seed + 1) {}

TranslationLosses TranslationStep::run(const at::Tensor& source_images, const at::Tensor& target_images,
                                       double learning_rate) {
  TranslationLosses losses;
  auto& to_target = *networks_.to_target;
  auto& to_source = *networks_.to_source;
  const at::Tensor source = translator_input(source_images.to(to_target.device()), to_target.dtype());
  const at::Tensor target = translator_input(target_images.to(to_target.device()), to_target.dtype());

  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();

  at::Tensor total;
  const auto add = [&](const char* name, double weight, const at::Tensor& term, double& value) {
    value = finite_value(name, term);
    losses.total += weight * value;
    total = total.defined() ? total + weight * term : weight * term;
  };

  const at::Tensor fake_target = to_target.forward(source);
  const at::Tensor fake_source = to_source.forward(target);
  {
    FrozenScope frozen_target_critic(*networks_.target_critic), frozen_source_critic(*networks_.source_critic);
    const auto mode = options_.gan_mode;
    add("GAN source-to-target", options_.gan_weight,
        gan_loss(networks_.target_critic->forward(fake_target), true, mode), losses.gan_source_to_target);
    add("GAN target-to-source", options_.gan_weight,
        gan_loss(networks_.source_critic->forward(fake_source), true, mode), losses.gan_target_to_source);

    const at::Tensor cycled_source = to_source.forward(fake_target);
    const at::Tensor cycled_target = to_target.forward(fake_source);
    add("cycle (source)", options_.cycle_weight, at::l1_loss(cycled_source, source), losses.cycle_source);
    add("cycle (target)", options_.cycle_weight, at::l1_loss(cycled_target, target), losses.cycle_target);

    if (options_.identity_weight != 0) {
      add("identity (source)", options_.identity_weight, at::l1_loss(to_source.forward(source), source),
          losses.identity_source);
      add("identity (target)", options_.identity_weight, at::l1_loss(to_target.forward(target), target),
          losses.identity_target);
    }

    if (segmenter_ && (options_.perceptual_weight != 0 || options_.perceptual_reconstruction_weight != 0)) {
      const ModeScope evaluation(*segmenter_, /*training=*/false);
      FrozenScope frozen_segmenter(*segmenter_);
      const auto logits = [&](const at::Tensor& rgb) {
        return segmenter_->forward(segmenter_input_from_translator(rgb));
      };
      at::Tensor source_logits, target_logits;
      {
        at::NoGradGuard no_grad;  // what the translations are compared with is a constant
        source_logits = logits(source);
        target_logits = logits(target);
      }
      const auto form = options_.perceptual_form;
      if (const double weight = options_.perceptual_weight; weight != 0) {
        add("perceptual (source)", weight, perceptual_loss(logits(fake_target), source_logits, form),
            losses.perceptual_source);
        add("perceptual (target)", weight, perceptual_loss(logits(fake_source), target_logits, form),
            losses.perceptual_target);
      }
      if (const double weight = options_.perceptual_reconstruction_weight; weight != 0) {
        add("perceptual reconstruction (source)", weight, perceptual_loss(logits(cycled_source), source_logits, form),
            losses.perceptual_reconstruction_source);
        add("perceptual reconstruction (target)", weight, perceptual_loss(logits(cycled_target), target_logits, form),
            losses.perceptual_reconstruction_target);
      }
    }
    total.backward();
  }

  // The pools as they will be: the images are shared, so that a copy is cheap.
  ImagePool fake_target_pool = fake_target_pool_, fake_source_pool = fake_source_pool_;
  compute_discriminator_gradients(source, target, fake_source_pool.exchange(fake_source.detach()),
                                  fake_target_pool.exchange(fake_target.detach()), losses);

  check_gradients({{"generators", &generator_optimizer_}, {"discriminators", &discriminator_optimizer_}});
  throw_if_cancelled();  // the last point: from here on the step is applied whole
  half_applied_ = true;
  fake_target_pool_ = std::move(fake_target_pool);
  fake_source_pool_ = std::move(fake_source_pool);
  generator_optimizer_.step(learning_rate);
  discriminator_optimizer_.step(learning_rate);
  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();
  half_applied_ = false;
  return losses;
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
  append(state, "target_critic.", state_of(*networks_.target_critic));
  append(state, "source_critic.", state_of(*networks_.source_critic));
  append(state, "generator_optimizer.", generator_optimizer_.state());
  append(state, "discriminator_optimizer.", discriminator_optimizer_.state());
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
void TranslationStep::compute_discriminator_gradients(const at::Tensor& source, const at::Tensor& target,
                                                      const at::Tensor& fake_source, const at::Tensor& fake_target,
                                                      TranslationLosses& losses) {
  const auto judge = [&](PatchDiscriminator& critic, const at::Tensor& real, const at::Tensor& fake, const char* name) {
    const at::Tensor loss = 0.5 * (gan_loss(critic.forward(real), true, options_.gan_mode) +
                                   gan_loss(critic.forward(fake), false, options_.gan_mode));
    const double value = finite_value(name, loss);
    loss.backward();
    return value;
  };
  losses.discriminator_target = judge(*networks_.target_critic, target, fake_target, "discriminator (target)");
  losses.discriminator_source = judge(*networks_.source_critic, source, fake_source, "discriminator (source)");
}

}  // namespace bidiseg
