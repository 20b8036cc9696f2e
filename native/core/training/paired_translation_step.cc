#include "core/training/paired_translation_step.h"

#include "core/cancellation.h"
#include "core/data/pixels.h"
#include "core/training/finite.h"

namespace bidiseg {

PairedTranslationStep::PairedTranslationStep(PairedTranslationNetworks networks,
                                             const PairedTranslationStepOptions& options)
    : networks_(std::move(networks)),
      options_(options),
      generator_optimizer_(networks_.to_target->trained_parameters(1.0), options.adam),
      discriminator_optimizer_(networks_.target_critic->trained_parameters(1.0), options.adam) {}

PairedTranslationLosses PairedTranslationStep::run(const at::Tensor& source_images, const at::Tensor& target_images,
                                                   double learning_rate) {
  if (!source_images.sizes().equals(target_images.sizes())) {
    std::ostringstream text;
    text << "Expected pairs of images of one shape but received " << source_images.sizes() << " and "
         << target_images.sizes();
    throw InvalidArgument(text.str());
  }
  auto& generator = *networks_.to_target;
  auto& critic = *networks_.target_critic;
  const auto mode = options_.gan_mode;
  const at::Tensor source = translator_input(source_images.to(generator.device()), generator.dtype());
  const at::Tensor target = translator_input(target_images.to(generator.device()), generator.dtype());
  const auto judged = [&](const at::Tensor& image, bool real) {
    return gan_loss(critic.forward(at::cat({source, image}, 1)), real, mode);
  };
  PairedTranslationLosses losses;
  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();

  const at::Tensor fake = generator.forward(source);
  {
    FrozenScope frozen(critic);
    const at::Tensor gan = judged(fake, true), l1 = at::l1_loss(fake, target);
    losses.gan = finite_value("GAN source-to-target", gan);
    losses.l1 = finite_value("L1", l1);
    losses.total = options_.gan_weight * losses.gan + options_.l1_weight * losses.l1;
    (options_.gan_weight * gan + options_.l1_weight * l1).backward();
  }
  const at::Tensor discriminator = 0.5 * (judged(target, true) + judged(fake.detach(), false));
  losses.discriminator = finite_value("discriminator (target)", discriminator);
  discriminator.backward();

  check_gradients({{"generator", &generator_optimizer_}, {"discriminator", &discriminator_optimizer_}});
  throw_if_cancelled();  // the last point: from here on the step is applied whole
  half_applied_ = true;
  generator_optimizer_.step(learning_rate);
  discriminator_optimizer_.step(learning_rate);
  generator_optimizer_.zero_grad();
  discriminator_optimizer_.zero_grad();
  half_applied_ = false;
  return losses;
}

NamedTensors PairedTranslationStep::state() const {
  if (half_applied_) throw std::runtime_error("the last step was cut off while it was applied; its state is of no use");
  NamedTensors state;
  append(state, "to_target.", state_of(*networks_.to_target));
  append(state, "target_critic.", state_of(*networks_.target_critic));
  append(state, "generator_optimizer.", generator_optimizer_.state());
  append(state, "discriminator_optimizer.", discriminator_optimizer_.state());
  return state;
}

void PairedTranslationStep::load_state(const NamedTensors& state) {
  copy_tensors(this->state(), state, "the state does not fit the paired translation step");
}

}  // namespace bidiseg
