// One iteration of a translator's training on pairs of images: pix2pix (Isola et al. 2017).
#pragma once

#include "core/losses/translation.h"
#include "core/models/discriminators.h"
#include "core/models/image_generator.h"
#include "core/training/finite.h"
#include "core/training/optimizers.h"
#include "core/training/precision.h"
#include "core/training/step_graphs.h"

namespace bidiseg {

struct PairedTranslationNetworks {
  std::shared_ptr<ImageGenerator> to_target;          ///< F
  std::shared_ptr<PatchDiscriminator> target_discriminator;  ///< of 6 input channels: judges T or F(S), given S
};

struct PairedTranslationStepOptions {
  GanMode gan_mode = GanMode::kBinaryCrossEntropy;
  double gan_weight = 1.0;
  double l1_weight = 100.0;
  AdamOptions adam = {.beta1 = 0.5, .beta2 = 0.999};
  Precision precision = Precision::kFloat32;
  bool loss_scaling = false;  ///< see LossScaler
  bool cuda_graphs = false;   ///< see StepGraphs; the checks and the updates stay outside
};

/// Terms before their weights.
struct PairedTranslationLosses {
  double gan = 0;
  double l1 = 0;
  double discriminator = 0;  ///< with its factor 1/2
  double total = 0;          ///< weighted sum that the generator was moved against
};

class PairedTranslationStep {
 public:
  /// Throws InvalidArgument where the networks cannot be computed in the precision.
  PairedTranslationStep(PairedTranslationNetworks networks, const PairedTranslationStepOptions& options);

  /// The generator is moved against gan_weight l_GAN(D(S, F(S)), real) + l1_weight E|F(S) - T|, the discriminator against
  /// half of l_GAN(D(S, T), real) + l_GAN(D(S, F(S)), fake); both see the other's weights from before the step. Images are
  /// RGB bytes [N, H, W, 3] of one shape, H and W multiples of the generator's size_multiple(). A step
  /// whose gradients the loss scale is too large for changes that scale and nothing else, and gives its losses all the same.
  /// Where it throws, weights are as before.
  PairedTranslationLosses run(const at::Tensor& source_images, const at::Tensor& target_images, double learning_rate);

  /// Networks, optimizers and the loss scale. The tensors share storage with the step.
  NamedTensors state() const;

  /// Takes over what state() gave of a step made in the same way; see copy_tensors().
  void load_state(const NamedTensors& state);

 private:
  /// As in SegmentationStep.
  struct Computed {
    PairedTranslationLosses losses;
    StepChecks checks;
  };
  std::unique_ptr<Computed> compute_gradients(const at::Tensor& source, const at::Tensor& target);

  PairedTranslationNetworks networks_;
  PairedTranslationStepOptions options_;
  Adam generator_optimizer_, discriminator_optimizer_;
  LossScaler scaler_;
  StepGraphs graphs_;
  std::unique_ptr<Computed> computed_;
  /// As in SegmentationStep.
  bool half_applied_ = false;
};

}  // namespace bidiseg
