// One iteration of a translator's training on pairs of images: pix2pix (Isola et al. 2017).
#pragma once

#include "core/losses/translation.h"
#include "core/models/discriminators.h"
#include "core/models/image_generator.h"
#include "core/training/step.h"

namespace bidiseg {

struct PairedTranslationNetworks {
  std::shared_ptr<ImageGenerator> to_target;                 ///< F
  std::shared_ptr<PatchDiscriminator> target_discriminator;  ///< 6 input channels: judges T or F(S), given S
};

struct PairedTranslationStepOptions {
  StepOptions step;
  GanMode gan_mode;
  double gan_weight;
  double l1_weight;
  AdamOptions adam;
};

/// Losses before their weights.
struct PairedTranslationLosses {
  double gan;
  double l1;
  double discriminator;  ///< with its factor 1/2
  double total;          ///< weighted sum that the generator minimizes
};

class PairedTranslationStep : public Step {
 public:
  /// Throws InvalidArgument if the networks cannot be computed in the precision.
  PairedTranslationStep(PairedTranslationNetworks networks, const PairedTranslationStepOptions& options);

  /// Images are RGB bytes [N, H, W, 3] of one shape, H and W multiples of the generator's size_multiple(). The losses
  /// of generator and discriminator are
  ///
  ///     L_F = gan_weight l_GAN(D(S, F(S)), real) + l1_weight E|F(S) - T|
  ///     L_D = 1/2 [ l_GAN(D(S, T), real) + l_GAN(D(S, F(S)), fake) ],
  ///
  /// each with the other network's weights from before the step. See Step for exceptions.
  PairedTranslationLosses run(const at::Tensor& source_images, const at::Tensor& target_images, double learning_rate);

 private:
  void compute_gradients(const at::Tensor& source_images, const at::Tensor& target_images);

  PairedTranslationNetworks networks_;
  PairedTranslationStepOptions options_;
  Optimizer& generator_optimizer_;
  Optimizer& discriminator_optimizer_;
};

}  // namespace bidiseg
