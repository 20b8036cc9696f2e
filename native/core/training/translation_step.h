// One iteration of the translators' training: Eq. 2, and the update of both D_F.
#pragma once

#include "core/losses/translation.h"
#include "core/models/discriminators.h"
#include "core/models/resnet_generator.h"
#include "core/training/image_pool.h"
#include "core/training/step.h"

namespace bidiseg {

/// F, F⁻¹ and their discriminators.
struct TranslationNetworks {
  std::shared_ptr<ResnetGenerator> to_target;                ///< F
  std::shared_ptr<ResnetGenerator> to_source;                ///< F⁻¹
  std::shared_ptr<PatchDiscriminator> target_discriminator;  ///< D_F in the target domain: T against F(S)
  std::shared_ptr<PatchDiscriminator> source_discriminator;  ///< D_F in the source domain: S against F⁻¹(T)
};

struct TranslationStepOptions {
  /// CUDA graphs: one for the generators' passes and one for the discriminators'. Between them the host decides about
  /// the image pools.
  StepOptions step;
  GanMode gan_mode;
  double gan_weight;
  double cycle_weight;
  double identity_weight;
  PerceptualForm perceptual_form;
  double perceptual_weight;
  double perceptual_reconstruction_weight;
  int64_t pool_size;
  uint64_t seed;  ///< of the target image pool; the source pool uses `seed` + 1
  AdamOptions adam;
  /// Images of each domain that go through the networks together; 0: the whole batch. The gradients are those of the
  /// whole batch, since no network of this step mixes the images of a batch. Not with CUDA graphs.
  int64_t micro_batch_size;
  bool activation_checkpointing;  ///< of the generators' blocks
};

/// Losses before their weights. A loss whose weight is 0 is not computed and reads 0. "source" and "target" are the
/// domain of the image that the loss looks at; for discriminators, the domain that they judge.
struct TranslationLosses {
  double gan_source_to_target, gan_target_to_source;
  double cycle_source, cycle_target;
  double identity_source, identity_target;
  double perceptual_source, perceptual_target;
  double perceptual_reconstruction_source, perceptual_reconstruction_target;
  double discriminator_source, discriminator_target;  ///< with their factor 1/2
  double total;                                       ///< weighted sum that the generators minimize
};

class TranslationStep : public Step {
 public:
  /// `segmenter` gives the perceptual losses; it may be null. Throws InvalidArgument if the networks cannot be computed
  /// in the precision, or for a micro_batch_size with CUDA graphs.
  TranslationStep(TranslationNetworks networks, std::shared_ptr<SegmentationNetwork> segmenter,
                  const TranslationStepOptions& options);

  /// Trains on one batch of each domain: RGB bytes [N, H, W, 3], H and W multiples of 4 and equal for both. With a
  /// process group, this process's share of the step, and all have as many. An exception restores image pools and modes
  /// too, see Step.
  TranslationLosses run(const at::Tensor& source_images, const at::Tensor& target_images, double learning_rate);

  NamedTensors state() const override;  ///< without the segmenter, which no step changes; the image pools are copies
  void load_state(NamedTensors state) override;

 private:
  /// Output of F or F⁻¹ and a leaf in its place, for the losses of other networks. The leaf collects their gradients,
  /// so that the graph of one network is freed before the next is made, and the generators go backward only once.
  struct Generated {
    at::Tensor image;
    at::Tensor leaf = image.detach().requires_grad_();
  };
  struct Fakes {
    at::Tensor source, target;  ///< detached
  };

  /// Images that go through the networks together.
  struct Part {
    at::Tensor source, target;
    double share;  ///< share of the part in the mean over the batch
    bool is_last;  ///< of the batch
  };
  std::vector<Part> parts_of(const at::Tensor& source, const at::Tensor& target) const;

  /// Fakes of this process, and those of all processes on their way. Without other processes or pools, only the former.
  struct SharedFakes {
    Fakes own;
    std::shared_ptr<ProcessGroup::Pending> of_sources, of_targets;
  };
  SharedFakes share(const Fakes& made) const;

  /// Images for the discriminators in place of all fakes of this process. `source` and `target` are the pools.
  Fakes exchange(const SharedFakes& fakes, ImagePool& source, ImagePool& target) const;

  at::Tensor in_format(const at::Tensor& images) const;  ///< in which the networks compute faster
  /// `when_made`: called when fakes_ are made, before any backward pass.
  void compute_generator_gradients(const Part& part, const std::function<void()>& when_made);
  void compute_discriminator_gradients(const Part& part, const Fakes& fakes);

  TranslationNetworks networks_;
  std::shared_ptr<SegmentationNetwork> segmenter_;
  TranslationStepOptions options_;
  Optimizer& generator_optimizer_;
  Optimizer& discriminator_optimizer_;
  Fakes fakes_;  // made by compute_generator_gradients(); with CUDA graphs, tensors of a graph
  ImagePool fake_target_pool_, fake_source_pool_;
};

}  // namespace bidiseg
