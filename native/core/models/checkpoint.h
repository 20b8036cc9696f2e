// Activation checkpointing (Chen et al. 2016): memory for time.
#pragma once

#include <functional>

#include "core/torch.h"

namespace bidiseg {

/// A part of a network. It may draw no random numbers and leaves its input as it is.
using Segment = std::function<at::Tensor(const at::Tensor& x)>;

/// segment(x), of whose graph only `x` is kept: the backward pass runs the segment again, autocasting as it did here. In
/// no-grad mode it is segment(x) and no more.
at::Tensor checkpoint(const at::Tensor& x, const Segment& segment);

/// Which run of a checkpointed segment this thread is in.
enum class SegmentRun {
  kNone,
  kFirst,  ///< in no-grad mode, though gradients will be asked for
  kAgain,  ///< in the backward pass: what it left in running statistics is there already
};
SegmentRun segment_run();

}  // namespace bidiseg
