// Activation checkpointing (Chen et al. 2016): less memory for more time.
#pragma once

#include <functional>

#include "core/torch.h"

namespace bidiseg {

/// Part of a network. It draws no random numbers and does not change its input.
using Segment = std::function<at::Tensor(const at::Tensor& x)>;

/// segment(x), of whose graph only `x` is kept. The backward pass runs the segment again, with the autocast settings of
/// this call. In no-grad mode it only returns segment(x).
at::Tensor activation_checkpoint(const at::Tensor& x, const Segment& segment);

}  // namespace bidiseg
