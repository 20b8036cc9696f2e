// One iteration of M's training: Eq. 1, with pseudo-labels Eq. 3, and the update of D_M.
#pragma once

#include "core/data/batch.h"
#include "core/losses/feature_distance.h"
#include "core/losses/segmentation.h"
#include "core/training/alignment.h"
#include "core/training/step.h"
#include "core/training/teacher.h"

namespace bidiseg {

struct SegmentationStepOptions {
  StepOptions step;
  CrossEntropyOptions cross_entropy;
  Alignment alignment;
  double adversarial_weight;  ///< of an alignment by a discriminator
  double moment_weight;       ///< of an alignment by moments
  double entropy_weight;      ///< of entropy_loss() on the target
  double pseudo_label_weight;
  /// Number of parts that go through the networks one after the other; their gradients are averaged. Batch statistics,
  /// moments and the teacher's confident share are those of a part. With a process group, the number of parts of all
  /// processes together. Each computes as many, one after the other in the order of ranks.
  int64_t accumulation;
  uint64_t seed;                                           ///< of dropout
  std::optional<at::MemoryFormat> memory_format;           ///< of M's activations; none: fastest_format()
  bool activation_checkpointing;                           ///< of M's blocks
  std::optional<FeatureDistanceOptions> feature_distance;  ///< needs an anchor
};

/// Losses before their weights, means over the parts of a batch. A loss that takes no part is 0.
struct SegmentationLosses {
  double segmentation;
  double adversarial;
  double moments;
  double entropy;
  double pseudo_label;
  double teacher;
  double masked;  ///< on masked images
  double feature_distance;
  double confident_share;  ///< share of the target's pixels that the teacher is confident of
  double discriminator_source;
  double discriminator_target;
  double total;  ///< weighted sum that M minimizes
};

class SegmentationStep : public Step {
 public:
  /// The networks are shared with the caller. `discriminator` belongs to the alignment; it may be null, and then there
  /// is no adversarial loss. `teacher` may be null. `anchor`, which may be null, has M's architecture and becomes a
  /// copy of M as it is now. Throws InvalidArgument if the networks cannot be computed in the precision.
  SegmentationStep(std::shared_ptr<SegmentationNetwork> segmenter, std::unique_ptr<Optimizer> segmenter_optimizer,
                   std::shared_ptr<Network> discriminator, std::unique_ptr<Optimizer> discriminator_optimizer,
                   std::unique_ptr<Teacher> teacher, std::shared_ptr<SegmentationNetwork> anchor,
                   SegmentationStepOptions options);

  /// Trains M on one batch of each domain, this process's share of the step. `target` may be empty (training on the
  /// source alone). The number of images of each domain must be divisible by the number of parts, `accumulation`
  /// divided by the number of processes; a part is a range of consecutive images. An exception restores running
  /// statistics and the mode too, see Step.
  SegmentationLosses run(const SegmentationBatch& source, const SegmentationBatch& target, double learning_rate,
                         double discriminator_learning_rate);

 private:
  /// Input of a step, or of a part of one, on the segmenter's device.
  struct Inputs {
    SegmentationBatch source, target;
    at::Tensor mask;     ///< see Teacher::draw_mask()
    at::Tensor patches;  ///< of the target, see Teacher::draw_patches()
    at::Tensor source_patches;

    std::vector<at::Tensor*> all() {
      return {&source.images,      &source.labels, &target.images, &target.labels, &target.weights,
              &target.weak_images, &mask,          &patches,       &source_patches};
    }
  };
  /// Options of the teacher's masked images, or null.
  const MaskingOptions* masking() const {
    return teacher_ && teacher_->options().masking ? &*teacher_->options().masking : nullptr;
  }

  Inputs inputs_of(const SegmentationBatch& source, const SegmentationBatch& target) const;
  std::vector<Inputs> parts_of(const Inputs& inputs) const;

  void compute_gradients(const Inputs& inputs);
  void add_gradients(const Inputs& part, int64_t place);

  /// Cross-entropy, times `share`, under a name in checks().
  at::Tensor cross_entropy(const char* name, const at::Tensor& logits, const at::Tensor& labels,
                           const CrossEntropyOptions& options, double share = 1);

  /// The same as a mean over all pixels with the weights of `labeled`.
  at::Tensor taught_loss(const char* name, const at::Tensor& logits, const Teacher::Labeled& labeled, double share = 1);

  /// Distance of the source's features from the anchor's.
  at::Tensor distance_from_anchor(const at::Tensor& features, const SegmentationBatch& source);

  /// Backward pass of D_M's own loss on the target. Returns the gradient of the weighted adversarial loss for `view`,
  /// the input of D_M, which is detached.
  at::Tensor judge_target(const at::Tensor& view);
  void judge_source(const at::Tensor& view, bool is_last);

  /// Gradients of the weighted distance of moments for the features of both domains.
  std::pair<at::Tensor, at::Tensor> moment_gradients(const at::Tensor& source_features,
                                                     const at::Tensor& target_features);

  std::shared_ptr<SegmentationNetwork> segmenter_;
  Optimizer& segmenter_optimizer_;
  std::shared_ptr<Network> discriminator_;        // may be null, and then
  Optimizer* discriminator_optimizer_ = nullptr;  // this too
  std::unique_ptr<Teacher> teacher_;              // may be null
  std::shared_ptr<SegmentationNetwork> anchor_;   // may be null
  SegmentationStepOptions options_;
  int64_t part_count_;  // of this process
  at::Tensor steps_;    // 0-dim, on the CPU: decides dropout's draws
};

}  // namespace bidiseg
