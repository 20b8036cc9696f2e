// Test-time averaging: prediction from several views of the same images.
#pragma once

#include "core/inference/prediction.h"

namespace bidiseg {

/// Predicts as predict() does, from the mean of the probabilities of several views. A view holds the same images at its
/// own size, RGB bytes [N, h, w, 3]. With `flip` each view is also used mirrored left to right.
Prediction predict_averaged(SegmentationNetwork& segmenter, const std::vector<at::Tensor>& views, bool flip,
                            int64_t height, int64_t width, kernels::SoftmaxOrder order, bool with_confidence);

}  // namespace bidiseg
