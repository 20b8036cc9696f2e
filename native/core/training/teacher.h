// An average of the segmenter's own earlier weights, which labels target images while they are trained on.
#pragma once

#include "core/models/network.h"

namespace bidiseg {

struct TeacherOptions {
  double decay = 0.99;
  double threshold = 0.968;  ///< a pixel is one of the confident ones where its probability exceeds this
  double weight = 1.0;       ///< of the loss on what the teacher prepares
  bool class_mix = true;
  int64_t ignore_index = 255;
  uint64_t seed = 1;
};

/// The mean teacher (Tarvainen & Valpola 2017) of DACS (Tranheden et al. 2021). After the t-th step of the student
///
///     theta' <- a theta' + (1 - a) theta,   a = min(decay, 1 - 1/(t + 1)),
///
/// over parameters and running statistics; it begins as the student.
class Teacher {
 public:
  /// Takes over the student's weights into `network`, which has its shape.
  Teacher(std::shared_ptr<SegmentationNetwork> network, const SegmentationNetwork& student,
          const TeacherOptions& options);

  /// What the student is to learn from: bytes of images [N, H, W, 3], labels [N, H, W] and how much each pixel counts.
  struct Lesson {
    at::Tensor images, labels, weights;
    at::Tensor confident_share;  ///< 0-dim
  };

  /// What ClassMix will paste of each source image in the coming step, as class_mix_mask() has it, labels and mask on the
  /// CPU; undefined without ClassMix.
  at::Tensor draw_mask(const at::Tensor& source_labels) const;

  /// The target images with the labels that the teacher, in eval mode, gives them. All count by the same weight, the share
  /// of pixels that it is confident of. Where there is a mask, what it shows of each source image, labels and all, is
  /// pasted onto the target image of its number, with weight 1; both batches must then have one shape. All on its device.
  Lesson prepare(const at::Tensor& source_images, const at::Tensor& source_labels, const at::Tensor& target_images,
                 const at::Tensor& mask) const;

  /// Moves toward the student, behind each of its steps.
  void follow(const SegmentationNetwork& student);

  const TeacherOptions& options() const { return options_; }

  /// The weights, and the steps followed, from which the draws of ClassMix follow. Shares storage.
  NamedTensors state() const;

 private:
  std::shared_ptr<SegmentationNetwork> network_;
  TeacherOptions options_;
  at::Tensor steps_;  // 0-dim, on the CPU
};

}  // namespace bidiseg
