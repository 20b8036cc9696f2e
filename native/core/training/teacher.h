// Average of a segmenter's earlier weights, which labels target images during training.
#pragma once

#include "core/distributed/process_group.h"
#include "core/models/network.h"
#include "core/training/patch_mask.h"

namespace bidiseg {

struct TeacherOptions {
  double decay;
  double threshold;  ///< the teacher is confident of a pixel if its probability exceeds this
  double weight;     ///< of the loss on the teacher's labels
  bool class_mix;
  double top_margin, bottom_margin;  ///< shares of the height where its labels do not count
  /// Shares of the classes in the source's pixels, at least 0, for the alignment of distributions. Empty: none.
  std::vector<double> class_shares;
  std::optional<MaskingOptions> masking;
  int64_t ignore_index;
  uint64_t seed;
};

/// The mean teacher (Tarvainen & Valpola 2017) of DACS (Tranheden et al. 2021). After the t-th step of the student
///
///     theta' <- a theta' + (1 - a) theta,   a = min(decay, 1 - 1/(t + 1)),
///
/// over parameters and running statistics. It starts with the student's weights.
///
/// With class shares q, its probabilities are aligned with them (distribution alignment of ReMixMatch, Berthelot et al.
/// 2020): p_c <- p_c (q_c + e) / (r_c + e), normalized, e = 1e-6. r is the average of the mean of p over the target's
/// positions. It has the same decay, and starts as q. The same factors for all pixels are a bias of the logits.
class Teacher {
 public:
  /// Copies the student's weights into `network`, which has the same architecture. Throws InvalidArgument if the number
  /// of class shares is neither 0 nor that of the classes.
  Teacher(std::shared_ptr<SegmentationNetwork> network, const SegmentationNetwork& student,
          const TeacherOptions& options);

  /// Images for the student with the teacher's labels.
  struct Labeled {
    at::Tensor images;           ///< uint8 [N, H, W, 3]
    at::Tensor labels;           ///< uint8 [N, H, W]
    at::Tensor weights;          ///< floating-point [N, H, W]: weight of each pixel
    at::Tensor confident_share;  ///< 0-dim: share of pixels that the teacher is confident of
  };

  /// Pixels of each source image that ClassMix pastes in the next step; see class_mix_mask(). The labels are those of
  /// `parts` micro-batches, the first of which has the place `first_place` in the step. Labels and mask are on the CPU.
  /// Undefined without ClassMix.
  at::Tensor draw_mask(const at::Tensor& source_labels, int64_t parts, int64_t first_place) const;

  /// Pixels of each image that stay in its masked copy in the next step; see patch_mask(). `images` is [N, H, W, 3],
  /// and the parts are those of draw_mask(). `domain` is 0 for the target and 1 for the source. Undefined if they are
  /// not masked.
  at::Tensor draw_patches(const at::Tensor& images, int domain, int64_t parts, int64_t first_place) const;

  /// Labels target images on the teacher's device in eval mode, which sees `weak_images` instead if they are defined.
  /// The weight of every pixel is the confident share, but 0 in the margins, which are rounded down to whole rows. The
  /// images are the part `share` of the step.
  Labeled label(const at::Tensor& images, const at::Tensor& weak_images, double share);

  /// Pastes the masked pixels of each source image and its labels onto the target image of the same index, with weight
  /// 1. Both batches must have one shape.
  static Labeled mix(const Labeled& target, const at::Tensor& source_images, const at::Tensor& source_labels,
                     const at::Tensor& mask);

  /// Forgets the classes found by label(), whose sum over a step the next follow() takes.
  void begin_step();

  /// Adds the classes that other processes have found in this step.
  void combine(ProcessGroup& others);

  /// Updates the averages; to be called after each of the student's steps.
  void follow(const SegmentationNetwork& student);

  const SegmentationNetwork& network() const { return *network_; }
  const TeacherOptions& options() const { return options_; }

  /// Weights, the number of steps followed, which determines the draws of ClassMix and of patches, and the average r of
  /// the alignment. Shares storage.
  NamedTensors state() const;

 private:
  bool is_aligned() const { return source_shares_.defined(); }

  // Logits of the aligned probabilities. Adds the means of those before to what the step has found.
  at::Tensor aligned(const at::Tensor& logits, double share);

  // 1 in each of the pixels [N, H, W], but 0 in the margins.
  at::Tensor inside_margins(const at::Tensor& pixels) const;

  std::shared_ptr<SegmentationNetwork> network_;
  TeacherOptions options_;
  at::Tensor steps_;  // 0-dim, on the CPU
  // [C] of q, of r, and of the mean of p in this step. Undefined without alignment.
  at::Tensor source_shares_, target_shares_, found_shares_;
};

}  // namespace bidiseg
