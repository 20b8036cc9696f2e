// Test-time averaging: one prediction from several views of the same images.
#pragma once

#include "core/inference/prediction.h"

namespace bidiseg {

/// As predict(), from the mean of the probabilities of several views. A view is the same images at some size, RGB bytes
/// [N, h, w, 3]; with `flip` each is taken mirrored left and right as well.
Prediction predict_averaged(SegmentationNetwork& segmenter, const std::vector<at::Tensor>& views, bool flip,
                            int64_t height, int64_t width, kernels::SoftmaxOrder order, bool with_confidence);

}  // namespace bidiseg
