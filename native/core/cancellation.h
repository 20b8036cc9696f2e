// Cooperative cancellation of a job that is computing.
#pragma once

#include <atomic>
#include <memory>

#include "core/torch.h"

namespace bidiseg {

using CancellationFlag = std::shared_ptr<std::atomic<bool>>;

/// Makes these flags, either of which may be null, the ones that cancellation points of this thread look at, for the
/// lifetime of the scope.
class CancellationScope {
 public:
  CancellationScope(CancellationFlag first, CancellationFlag second);
  ~CancellationScope();
  CancellationScope(const CancellationScope&) = delete;
  CancellationScope& operator=(const CancellationScope&) = delete;

 private:
  std::array<CancellationFlag, 2> previous_;
};

/// Throws Canceled where one of the thread's flags is set.
void throw_if_canceled();

/// A cancellation point in a network's forward pass, and, where `x` needs a gradient, one at the same place of the
/// backward pass. Networks put one behind every block, so that a canceled job ends within a block's time. Returns `x`.
at::Tensor cancellation_point(at::Tensor x);

}  // namespace bidiseg
