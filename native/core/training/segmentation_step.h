// One iteration of M's training: Eq. 1, with pseudo-labels Eq. 3, and the update of D_M.
#pragma once

#include "core/data/batch.h"
#include "core/losses/segmentation.h"
#include "core/training/alignment.h"
#include "core/training/finite.h"
#include "core/training/optimizers.h"
#include "core/training/precision.h"
#include "core/training/step_graphs.h"
#include "core/training/teacher.h"

namespace bidiseg {

struct SegmentationStepOptions {
  CrossEntropyOptions cross_entropy;
  Alignment alignment = Alignment::kOutputs;
  double adversarial_weight = 1e-3;  ///< of an alignment by a discriminator
  double moment_weight = 1.0;        ///< of one by moments
  double entropy_weight = 0.0;       ///< of entropy_loss() on the target
  double pseudo_label_weight = 1.0;
  /// How many parts of a batch go through the networks one after the other, their gradients averaged. Batch statistics,
  /// moments and the shares that the teacher is confident of are those of a part.
  int64_t accumulation = 1;
  Precision precision = Precision::kFloat32;
  bool loss_scaling = false;  ///< see LossScaler
  /// Of M's activations; none: the faster one, see fastest_format().
  std::optional<at::MemoryFormat> memory_format;
  /// Whether M's blocks are computed again in the backward pass rather than kept.
  bool activation_checkpointing = false;
  /// CUDA: forward and backward passes are recorded and replayed, see StepGraphs. ClassMix's draws, the checks, the updates
  /// and the teacher's average stay outside: they are few launches, and hold numbers that change.
  bool cuda_graphs = false;
};

/// Terms before their weights, means over the parts of a batch; those that did not take part are 0.
struct SegmentationLosses {
  double segmentation = 0;
  double adversarial = 0;
  double moments = 0;
  double entropy = 0;
  double pseudo_label = 0;
  double teacher = 0;
  double confident_share = 0;  ///< of the target's pixels, by the teacher
  double discriminator_source = 0;
  double discriminator_target = 0;
  double total = 0;  ///< what M was moved against: the weighted sum
};

class SegmentationStep {
 public:
  /// The discriminator is the alignment's; without it there is no adversarial term, without a teacher none of its
  /// labels. The networks are shared with the caller. Throws InvalidArgument where they cannot be computed in the
  /// precision.
  SegmentationStep(std::shared_ptr<SegmentationNetwork> segmenter, std::unique_ptr<Optimizer> segmenter_optimizer,
                   std::shared_ptr<Network> discriminator, std::unique_ptr<Optimizer> discriminator_optimizer,
                   std::unique_ptr<Teacher> teacher, SegmentationStepOptions options);

  /// Source forward and backward; target forward, adversarial and pseudo-label loss backward; D_M's own loss on both
  /// domains' probabilities; entropy, moments and the teacher's labels where they take part; all updates. `target` may be
  /// empty (training on the source alone). The images of each domain must be divisible by `accumulation`, whose i-th part
  /// has the i-th of its images. A step whose gradients the loss scale is too large for changes that scale and nothing else,
  /// and gives its losses all the same. Where it throws (NonFiniteLoss, Canceled, ...), weights, running statistics, the
  /// generator of dropout and the mode are as before.
  SegmentationLosses run(const SegmentationBatch& source, const SegmentationBatch& target, double learning_rate,
                         double discriminator_learning_rate);

  /// All that later steps depend on: networks, optimizers, random generators, the loss scale. The tensors share storage with them.
  NamedTensors state() const;

  /// Takes over what state() gave of a step made in the same way; see copy_tensors().
  void load_state(const NamedTensors& state);

 private:
  /// What a step, or a part of one, looks at, on the segmenter's device.
  struct Inputs {
    SegmentationBatch source, target;
    at::Tensor mask;  ///< the teacher's, see Teacher::draw_mask()

    std::vector<at::Tensor*> all() {
      return {&source.images, &source.labels, &target.images, &target.labels, &target.weights, &mask};
    }
  };
  Inputs inputs_of(const SegmentationBatch& source, const SegmentationBatch& target) const;
  std::vector<Inputs> parts_of(const Inputs& inputs) const;

  /// What forward and backward passes leave behind, beside the gradients. The checks write to the losses.
  struct Computed {
    SegmentationLosses losses;
    StepChecks checks;
  };
  std::unique_ptr<Computed> compute_gradients(const Inputs& inputs);
  void add_gradients(const Inputs& part, SegmentationLosses& losses, StepChecks& checks);

  /// Backward pass of D_M's own loss on the target, and the weighted adversarial loss's gradient for `view`, what D_M is
  /// shown, detached.
  at::Tensor judge_target(const at::Tensor& view, SegmentationLosses& losses, StepChecks& checks);
  void judge_source(const at::Tensor& view, SegmentationLosses& losses, StepChecks& checks);

  /// The gradients of the weighted distance of moments for the features of both domains.
  std::pair<at::Tensor, at::Tensor> moment_gradients(const at::Tensor& source_features,
                                                     const at::Tensor& target_features, SegmentationLosses& losses,
                                                     StepChecks& checks);

  std::shared_ptr<SegmentationNetwork> segmenter_;
  std::unique_ptr<Optimizer> segmenter_optimizer_;
  std::shared_ptr<Network> discriminator_;
  std::unique_ptr<Optimizer> discriminator_optimizer_;
  std::unique_ptr<Teacher> teacher_;
  SegmentationStepOptions options_;
  LossScaler scaler_;
  StepGraphs graphs_;
  std::unique_ptr<Computed> computed_;  ///< outlives a step only where its tensors are those of a graph
  /// From the first weight that moves to the last: where memory runs out in between, there is no state to go on from.
  bool half_applied_ = false;
};

}  // namespace bidiseg
