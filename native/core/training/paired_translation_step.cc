#include "core/training/paired_translation_step.h"

#include "core/data/pixels.h"

namespace bidiseg {
namespace {

// Names of the losses.
constexpr char kGan[] = "GAN source-to-target", kL1[] = "L1", kDiscriminator[] = "discriminator (target)";

}  // namespace

PairedTranslationStep::PairedTranslationStep(PairedTranslationNetworks networks,
                                             const PairedTranslationStepOptions& options)
    : Step(options.step, /*loss_share=*/1.0 / static_cast<double>(options.step.group ? options.step.group->size() : 1),
           *networks.to_target),
      networks_(std::move(networks)),
      options_(options),
      generator_optimizer_(add_optimizer(
          "generator", std::make_unique<Adam>(networks_.to_target->trained_parameters(1.0), options.adam))),
      discriminator_optimizer_(add_optimizer(
          "discriminator",
          std::make_unique<Adam>(networks_.target_discriminator->trained_parameters(1.0), options.adam))) {
  add_network("to_target", networks_.to_target);
  add_network("target_discriminator", networks_.target_discriminator);
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
  const auto scope = begin_step();
  at::Tensor source = translator_input(source_images.to(device), dtype);
  at::Tensor target = translator_input(target_images.to(device), dtype);
  const auto compute = [&] { run_piece(0, {&source, &target}, [&] { compute_gradients(source, target); }); };
  const auto apply = [&] {
    generator_optimizer_.step(learning_rate);
    discriminator_optimizer_.step(learning_rate);
  };
  const LossValues value = iterate(compute, apply);
  return {.gan = value[kGan],
          .l1 = value[kL1],
          .discriminator = value[kDiscriminator],
          .total = options_.gan_weight * value[kGan] + options_.l1_weight * value[kL1]};
}

void PairedTranslationStep::compute_gradients(const at::Tensor& source_images, const at::Tensor& target_images) {
  const ComputationScope scope = computation_scope();
  const at::MemoryFormat format = fastest_translator_format(options_.step.precision, source_images.device());
  const at::Tensor source = source_images.contiguous(format), target = target_images.contiguous(format);
  auto& discriminator = *networks_.target_discriminator;
  const auto loss_of = [&](const at::Tensor& image, bool real) {
    return gan_loss(discriminator.forward(at::cat({source, image}, 1)), real, options_.gan_mode);
  };
  const at::Tensor fake = networks_.to_target->forward(source);
  {
    FrozenScope frozen(discriminator);
    const at::Tensor gan = loss_of(fake, true), l1 = at::l1_loss(fake, target);
    checks().loss(kGan, gan);
    checks().loss(kL1, l1);
    run_backward(generator_optimizer_, /*is_last=*/true,
                 [&] { (options_.gan_weight * gan + options_.l1_weight * l1).backward(loss_gradient()); });
  }
  const at::Tensor own = 0.5 * (loss_of(target, true) + loss_of(fake.detach(), false));
  checks().loss(kDiscriminator, own);
  run_backward(discriminator_optimizer_, /*is_last=*/true, [&] { own.backward(loss_gradient()); });
}

}  // namespace bidiseg
