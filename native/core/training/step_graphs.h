// CUDA graphs of what a step computes anew each time in the same way: one launch in place of thousands.
#pragma once

#include <c10/core/Stream.h>

#include <exception>
#include <functional>

#include "core/models/network.h"

namespace bidiseg {

/// The pieces of a step that are recorded as CUDA graphs. A piece is run as it is until everything that initializes itself
/// has done so, then recorded, and from then on replayed: the same kernels on the same memory. What the host decides, and
/// what depends on a number that changes, has to stay outside of pieces. Where they are off, all of it is as if it were not there.
class StepGraphs {
 public:
  /// Throws InvalidArgument where they are on and the network is not on a CUDA device, or draws from a generator of the host
  /// while it trains (FCN-8s, its dropout).
  StepGraphs(bool enabled, const Network& network);
  ~StepGraphs();

  bool enabled() const { return stream_.has_value(); }

  /// For a whole step, see below.
  class StepScope;
  StepScope begin_step();

  /// Does `work`, or what it did when it was recorded. Before, each of the tensors `inputs` becomes a buffer of the same
  /// content, which stays where it is from step to step; another shape than the last time's begins anew. What `work`
  /// leaves behind, losses say, has to be kept: replaying writes it again, and nothing but tensors changes.
  void run(size_t piece, const std::vector<at::Tensor*>& inputs, const std::function<void()>& work);

 private:
  struct Piece;

  std::optional<c10::Stream> stream_;
  std::vector<std::unique_ptr<Piece>> pieces_;
};

/// CUDA graphs are recorded on a stream of their own, and the rest of the step belongs there too: it is the current one for
/// the lifetime of the scope, behind all that was asked of the stream before, and that one goes on behind the step. A step
/// that throws leaves nothing recorded, since its pieces need not have come equally far.
class StepGraphs::StepScope {
 public:
  explicit StepScope(StepGraphs& graphs);
  ~StepScope();
  StepScope(const StepScope&) = delete;
  StepScope& operator=(const StepScope&) = delete;

 private:
  StepGraphs& graphs_;
  std::optional<c10::Stream> before_;
  int exceptions_before_ = std::uncaught_exceptions();
};

}  // namespace bidiseg
