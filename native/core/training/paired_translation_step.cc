#include "core/training/paired_translation_step.h"

#include "core/cancellation.h"
#include "core/data/pixels.h"

namespace bidiseg {

PairedTranslationStep::PairedTranslationStep(PairedTranslationNetworks networks,
                                             const PairedTranslationStepOptions& options)
    : networks_(std::move(networks)),
      options_(options),
      generator_optimizer_(networks_.to_target->trained_parameters(1.0), options.adam),
      discriminator_optimizer_(networks_.target_discriminator->trained_parameters(1.0), options.adam),
      scaler_(options.loss_scaling, /*share=*/1.0,
              at::dtype(networks_.to_target->dtype()).device(networks_.to_target->device())),
      graphs_(options.cuda_graphs, *networks_.to_target) {
  require_precision(options_.precision, *networks_.to_target);
}

PairedTranslationLosses PairedTranslationStep::run(const at::Tensor& source_images, const at::Tensor& target_images,
                                                   double learning_rate) {
  if (!source_images.sizes().equals(target_images.sizes())) {
    std::ostringstream text;
    text << "Expected pairs of images of one shape but received " << source_images.sizes() << " and "
         << target_images.sizes();
    throw InvalidArgument(text.str());
  }
  const at::Device device = networks_.to_target->device();
  const at::ScalarType dtype = networks_.to_target->dtype();
  const auto scope = graphs_.begin_step();
  at::Tensor source = translator_input(source_images.to(device), dtype);
  at::Tensor target = translator_input(target_images.to(device), dtype);
  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();
  scaler_.prepare();
  graphs_.run(0, {&source, &target}, [&] {
    computed_.reset();  // a warm-up's gradients
    computed_ = compute_gradients(source, target);
  });
  computed_->checks.restore_gradients();
  const bool finite = computed_->checks.read(scaler_);
  PairedTranslationLosses losses = computed_->losses;
  if (!graphs_.enabled()) computed_.reset();
  losses.total = options_.gan_weight * losses.gan + options_.l1_weight * losses.l1;

  throw_if_canceled();  // the last point: from here on the step is applied whole
  scaler_.update(finite);
  if (finite) {
    half_applied_ = true;
    generator_optimizer_.step(learning_rate);
    discriminator_optimizer_.step(learning_rate);
    half_applied_ = false;
  }
  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();
  return losses;
}

std::unique_ptr<PairedTranslationStep::Computed> PairedTranslationStep::compute_gradients(const at::Tensor& source,
                                                                                          const at::Tensor& target) {
  const PrecisionScope precision(options_.precision, source.device());
  auto& judge = *networks_.target_discriminator;
  const auto mode = options_.gan_mode;
  const auto judged = [&](const at::Tensor& image, bool real) {
    return gan_loss(judge.forward(at::cat({source, image}, 1)), real, mode);
  };
  auto computed = std::make_unique<Computed>();
  auto& [losses, checks] = *computed;
  const at::Tensor fake = networks_.to_target->forward(source);
  {
    FrozenScope frozen(judge);
    const at::Tensor gan = judged(fake, true), l1 = at::l1_loss(fake, target);
    checks.loss("GAN source-to-target", gan, losses.gan);
    checks.loss("L1", l1, losses.l1);
    (options_.gan_weight * gan + options_.l1_weight * l1).backward(scaler_.loss_gradient());
  }
  const at::Tensor discriminator = 0.5 * (judged(target, true) + judged(fake.detach(), false));
  checks.loss("discriminator (target)", discriminator, losses.discriminator);
  discriminator.backward(scaler_.loss_gradient());

  checks.gradients("generator", &generator_optimizer_);
  checks.gradients("discriminator", &discriminator_optimizer_);
  return computed;
}

NamedTensors PairedTranslationStep::state() const {
  if (half_applied_) throw std::runtime_error("the last step was cut off while it was applied; its state is of no use");
  NamedTensors state;
  append(state, "to_target.", state_of(*networks_.to_target));
  append(state, "target_discriminator.", state_of(*networks_.target_discriminator));
  append(state, "generator_optimizer.", generator_optimizer_.state());
  append(state, "discriminator_optimizer.", discriminator_optimizer_.state());
  append(state, "loss_scaler.", scaler_.state());
  return state;
}

void PairedTranslationStep::load_state(const NamedTensors& state) {
  copy_tensors(this->state(), state, "the state does not fit the paired translation step");
}

}  // namespace bidiseg
