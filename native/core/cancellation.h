// Cooperative cancellation and pausing of a running job.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "core/torch.h"

namespace bidiseg {

using CancellationFlag = std::shared_ptr<std::atomic<bool>>;

/// Sets the flags that cancellation points of this thread check, for the lifetime of the scope. Either may be null.
/// Networks' cancellation points of this thread also call `pause`, unless it is empty.
class CancellationScope {
 public:
  CancellationScope(CancellationFlag first, CancellationFlag second, std::function<void()> pause = {});
  ~CancellationScope();
  CancellationScope(const CancellationScope&) = delete;
  CancellationScope& operator=(const CancellationScope&) = delete;

 private:
  std::array<CancellationFlag, 2> previous_;
  std::function<void()> previous_pause_;
};

/// Whether one of the thread's flags is set.
bool is_canceled();

/// Throws Canceled if one of the thread's flags is set.
void throw_if_canceled();

/// Cancellation point of a network's forward pass; if `x` needs a gradient, of its backward pass too. Networks have one
/// after every block, so that a canceled job ends within the time of a block. It is also where a job pauses. Returns
/// `x`.
at::Tensor cancellation_point(at::Tensor x);

}  // namespace bidiseg
