// One iteration of the translators' training: Eq. 2, and the update of both D_F.
#pragma once

#include "core/losses/translation.h"
#include "core/models/discriminators.h"
#include "core/models/resnet_generator.h"
#include "core/training/image_pool.h"
#include "core/training/finite.h"
#include "core/training/optimizers.h"
#include "core/training/precision.h"
#include "core/training/step_graphs.h"

namespace bidiseg {

/// F, F⁻¹ and their discriminators.
struct TranslationNetworks {
  std::shared_ptr<ResnetGenerator> to_target;           ///< F
  std::shared_ptr<ResnetGenerator> to_source;           ///< F⁻¹
  std::shared_ptr<PatchDiscriminator> target_discriminator;    ///< D_F in the target domain: T against F(S)
  std::shared_ptr<PatchDiscriminator> source_discriminator;    ///< D_F in the source domain: S against F⁻¹(T)
};

struct TranslationStepOptions {
  GanMode gan_mode = GanMode::kLeastSquares;
  double gan_weight = 1.0;
  double cycle_weight = 10.0;
  double identity_weight = 5.0;
  PerceptualForm perceptual_form = PerceptualForm::kNormalizedMse;
  double perceptual_weight = 0.1;
  double perceptual_reconstruction_weight = 10.0;
  int64_t pool_size = 50;
  uint64_t seed = 1;
  AdamOptions adam = {.beta1 = 0.5, .beta2 = 0.999};
  Precision precision = Precision::kFloat32;
  bool loss_scaling = false;  ///< see LossScaler
  /// Images of a domain that go through the networks together, 0: all of a batch. The gradients are those of the whole
  /// batch, as no network of this step lets its images know of each other.
  int64_t micro_batch_size = 0;
  /// Whether the generators' blocks are computed again in the backward pass rather than kept.
  bool activation_checkpointing = false;
  /// CUDA: see StepGraphs. One graph is that of the generators' passes, another that of the discriminators'; between them
  /// the host decides about the image pools. The checks and the updates stay outside. Not with micro_batch_size.
  bool cuda_graphs = false;
};

/// Terms before their weights; those whose weight is 0 are not computed and read 0. "source" and "target" say which
/// domain the image that the term looks at came from; for discriminators, which domain they judge.
struct TranslationLosses {
  double gan_source_to_target = 0, gan_target_to_source = 0;
  double cycle_source = 0, cycle_target = 0;
  double identity_source = 0, identity_target = 0;
  double perceptual_source = 0, perceptual_target = 0;
  double perceptual_reconstruction_source = 0, perceptual_reconstruction_target = 0;
  double discriminator_source = 0, discriminator_target = 0;
  double total = 0;  ///< weighted sum that the generators were moved against
};

class TranslationStep {
 public:
  /// `segmenter` gives the perceptual terms; without it there are none. Throws InvalidArgument where the networks cannot
  /// be computed in the precision, or options do not go together.
  TranslationStep(TranslationNetworks networks, std::shared_ptr<SegmentationNetwork> segmenter,
                  const TranslationStepOptions& options);

  /// Images are RGB bytes [N, H, W, 3], H and W multiples of 4, the same for both. A step whose gradients the loss scale is
  /// too large for changes that scale and nothing else, and gives its losses all the same. Where it throws, weights, pools
  /// and modes are as before.
  TranslationLosses run(const at::Tensor& source_images, const at::Tensor& target_images, double learning_rate);

  /// All that later steps depend on: networks, optimizers, image pools, the loss scale. The segmenter is not part of it, as no step
  /// changes it. The tensors share storage with the step.
  NamedTensors state() const;

  /// Takes over what state() gave of a step made in the same way; see copy_tensors().
  void load_state(NamedTensors state);

 private:
  /// state() but for the image pools, which grow.
  NamedTensors fixed_state() const;

  /// F's or F⁻¹'s output and, in its place for the losses that look at it, a leaf that takes their gradients. So the graph
  /// of one loss's network is let go before the next is made, and the generators go backward once.
  struct Generated {
    at::Tensor image;
    at::Tensor leaf = image.detach().requires_grad_();
  };
  struct Fakes {
    at::Tensor source, target;  ///< detached
  };

  /// What the networks are given of a batch at once.
  struct Part {
    at::Tensor source, target;
    double share;  ///< of a mean over the batch
  };
  std::vector<Part> parts_of(const at::Tensor& source, const at::Tensor& target) const;

  /// As in SegmentationStep.
  struct Computed {
    TranslationLosses losses;
    StepChecks checks;
    Fakes fakes;  ///< of the part at hand
  };

  /// The generators' gradients, and what they made of the images.
  Fakes compute_generator_gradients(const Part& part, TranslationLosses& losses, StepChecks& checks);
  void compute_discriminator_gradients(const Part& part, const Fakes& fakes, TranslationLosses& losses,
                                       StepChecks& checks);

  TranslationNetworks networks_;
  std::shared_ptr<SegmentationNetwork> segmenter_;
  TranslationStepOptions options_;
  Adam generator_optimizer_, discriminator_optimizer_;
  LossScaler scaler_;
  StepGraphs graphs_;
  std::unique_ptr<Computed> computed_;
  ImagePool fake_target_pool_, fake_source_pool_;
  /// As in SegmentationStep.
  bool half_applied_ = false;
};

}  // namespace bidiseg
