#include "core/training/step_graphs.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#ifdef BIDISEG_CUDA
#include <ATen/cuda/CUDAGraph.h>
#endif

#include "core/errors.h"

namespace bidiseg {
namespace {

// Runs in which libraries choose algorithms and allocate workspaces; PyTorch's documentation has as many.
constexpr int kWarmUps = 3;

c10::impl::VirtualGuardImpl streams() { return c10::impl::VirtualGuardImpl(at::kCUDA); }

// Later work of the stream `later` waits for the present work of `earlier`.
void join(const c10::Stream& earlier, const c10::Stream& later) {
  c10::Event event(at::kCUDA);
  event.record(earlier);
  event.block(later);
}

}  // namespace

#ifdef BIDISEG_CUDA

struct StepGraphs::Piece {
  std::vector<at::Tensor> buffers;
  int warm_ups = 0;
  std::unique_ptr<at::cuda::CUDAGraph> graph;

  void record(const std::function<void()>& work) {
    // Frees the memory of the warm-ups on this stream, which the graph cannot use.
    c10::cuda::CUDACachingAllocator::emptyCache();
    auto recorded = std::make_unique<at::cuda::CUDAGraph>();
    // Only calls of this thread must be suitable for recording; other threads use CUDA at the same time.
    recorded->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      // The failure may have ended the recording already. The first error is the one to report.
      try {
        recorded->capture_end();
      } catch (const c10::Error&) {
      }
      throw;
    }
    recorded->capture_end();
    graph = std::move(recorded);
  }
};

void StepGraphs::run(size_t piece, const std::vector<at::Tensor*>& inputs, const std::function<void()>& work) {
  if (!enabled()) return work();
  while (pieces_.size() <= piece) pieces_.push_back(std::make_unique<Piece>());
  std::unique_ptr<Piece>& kept = pieces_[piece];
  const auto fits = [](const at::Tensor* input, const at::Tensor& buffer) {
    return input->defined() == buffer.defined() &&
           (!buffer.defined() || (input->sizes().equals(buffer.sizes()) && input->dtype() == buffer.dtype()));
  };
  if (!std::equal(inputs.begin(), inputs.end(), kept->buffers.begin(), kept->buffers.end(), fits)) {
    kept = std::make_unique<Piece>();
    for (const at::Tensor* input : inputs) {
      kept->buffers.push_back(input->defined() ? at::empty_like(*input, at::MemoryFormat::Contiguous) : at::Tensor());
    }
  }
  {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i]->defined()) kept->buffers[i].copy_(*inputs[i]);
      *inputs[i] = kept->buffers[i];
    }
  }
  if (!kept->graph && kept->warm_ups < kWarmUps) {
    work();
    ++kept->warm_ups;
    return;
  }
  if (!kept->graph) kept->record(work);
  kept->graph->replay();
}

#else

struct StepGraphs::Piece {};

// Addon that was built without nvcc.
void StepGraphs::run(size_t /*piece*/, const std::vector<at::Tensor*>& /*inputs*/, const std::function<void()>& work) {
  work();
}

#endif

StepGraphs::StepGraphs(bool enabled, const Network& network) {
  if (!enabled) return;
  const at::Device device = network.device();
  if (!device.is_cuda()) {
    throw InvalidArgument("Expected networks on a CUDA device for cudaGraphs but they are on " + device.str());
  }
#ifndef BIDISEG_CUDA
  throw InvalidArgument("Expected an addon with CUDA compiled in for cudaGraphs but this one was built without nvcc");
#endif
  if (network.generator().defined()) {
    throw InvalidArgument("Expected a segmenter without dropout for cudaGraphs, a deeplab-v2, as the host draws it");
  }
  stream_ = streams().getNewStream(device);
}

StepGraphs::~StepGraphs() = default;

StepGraphs::StepScope StepGraphs::begin_step() { return StepScope(*this); }

StepGraphs::StepScope::StepScope(StepGraphs& graphs) : graphs_(graphs) {
  if (!graphs_.enabled()) return;
  before_ = streams().getStream(graphs_.stream_->device());
  join(*before_, *graphs_.stream_);
  streams().exchangeStream(*graphs_.stream_);
}

StepGraphs::StepScope::~StepScope() {
  if (!graphs_.enabled()) return;
  if (std::uncaught_exceptions() > exceptions_before_) graphs_.pieces_.clear();
  streams().exchangeStream(*before_);
  try {
    join(*graphs_.stream_, *before_);
  } catch (const c10::Error&) {
    // The device has failed; the next call will report it.
  }
}

}  // namespace bidiseg
