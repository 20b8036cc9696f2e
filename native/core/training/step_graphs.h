// CUDA graphs of training steps: one launch instead of thousands.
#pragma once

#include <c10/core/Stream.h>

#include <exception>
#include <functional>

#include "core/models/network.h"

namespace bidiseg {

/// Pieces of a step that are recorded as CUDA graphs. The first runs of a piece are warm-ups, in which libraries
/// initialize themselves. The next run is recorded, and later runs replay the same kernels on the same memory.
/// Decisions of the host and numbers that change must stay outside of pieces. If graphs are off, pieces simply run.
class StepGraphs {
 public:
  /// Throws InvalidArgument if graphs are on and the network is not on a CUDA device, or draws from a generator on the
  /// host during training (dropout of FCN-8s).
  StepGraphs(bool enabled, const Network& network);
  ~StepGraphs();

  bool enabled() const { return stream_.has_value(); }

  /// Scope of a whole step.
  class StepScope;
  StepScope begin_step();

  /// Runs `work`, or replays it if it was recorded. First each tensor of `inputs` is replaced by a buffer with its
  /// content, which stays at one address. Inputs of another shape than in the last run start with warm-ups again. The
  /// caller keeps the tensors that `work` makes, such as losses: a replay writes to them and has no other effect.
  void run(size_t piece, const std::vector<at::Tensor*>& inputs, const std::function<void()>& work);

 private:
  struct Piece;

  std::optional<c10::Stream> stream_;
  std::vector<std::unique_ptr<Piece>> pieces_;
};

/// Makes the stream of the graphs the current one for the lifetime of the scope. Its work waits for earlier work of the
/// previous stream, and later work of the previous stream waits for the step. After an exception all pieces start with
/// warm-ups again, so that the pieces of a step are always equally far.
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
