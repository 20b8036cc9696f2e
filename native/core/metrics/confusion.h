#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Confusion matrix of labels: counts[truth * class_count + prediction] over the pixels whose truth is not
/// `ignore_index`. Both arguments are uint8, on the CPU and of equal length. Returns int64 [class_count^2]. Throws
/// InvalidArgument for a label outside [0, class_count) and names it.
at::Tensor confusion_counts(const at::Tensor& truth, const at::Tensor& prediction, int64_t class_count,
                            int64_t ignore_index);

}  // namespace bidiseg
