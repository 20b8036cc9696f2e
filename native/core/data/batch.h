// Images and labels that a segmenter is trained on.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// A batch of one domain, all of it on one device: the CPU or the segmenter's.
struct SegmentationBatch {
  at::Tensor images;   ///< RGB bytes [N, H, W, 3]
  at::Tensor labels;   ///< uint8 [N, H, W]: class indices or the ignore index; undefined for unlabeled images
  at::Tensor weights;  ///< uint8 [N, H, W]: weight of each labeled pixel, 0 to 255 for 0 to 1; undefined: all 1
  /// The same images as a teacher sees them, RGB bytes [N, H, W, 3]; undefined: `images`.
  at::Tensor weak_images;
};

}  // namespace bidiseg
