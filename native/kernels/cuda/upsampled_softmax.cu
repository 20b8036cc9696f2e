// Launches of the kernels on the current stream. A CUDA graph can capture them: no function waits for the device or
// copies from the host.
#include "kernels/cuda/upsampled_softmax.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "kernels/cuda/upsampled_softmax_kernels.cuh"

namespace bidiseg::kernels::cuda {
namespace {

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

template <typename T>
T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

// Grid with its prepared values, for `padded` classes.
struct PreparedGrid {
  at::Tensor values;
  Grid grid;
};

PreparedGrid prepared(const at::Tensor& logits, const Upsampling& size, int64_t padded, bool softmax) {
  const int64_t batch = logits.size(0), classes = logits.size(1), plane = logits.size(2) * logits.size(3);
  at::Tensor values = at::empty({batch, padded, logits.size(2), logits.size(3)}, logits.options().requires_grad(false));
  prepare<float><<<blocks_for(batch * plane), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      logits.const_data_ptr<float>(), values.mutable_data_ptr<float>(), batch, classes, padded, plane, softmax);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {values,
          Grid{values.const_data_ptr<float>(), batch, classes, Axis(logits.size(2), size.height, size.align_corners),
               Axis(logits.size(3), size.width, size.align_corners)}};
}

// Class count of the fast path that is compiled for `classes`; 0 if there is none.
int64_t compiled_classes(int64_t classes) {
  for (const int64_t padded : {4, 8, 12, 16, 19, 24, 32, 40}) {
    if (classes <= padded) return padded;
  }
  return 0;
}

template <int K>
void launch_cells(int64_t padded, dim3 grid, const CrossEntropy& task, const Partials& partials) {
  if (padded == K) {
    cross_entropy_cells<K><<<grid, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(task, partials);
  }
}

template <int... K>
void launch_compiled(int64_t padded, dim3 grid, const CrossEntropy& task, const Partials& partials) {
  (launch_cells<K>(padded, grid, task, partials), ...);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor gathered(const Grid& grid, const PixelState* states, const float* upstream, const at::Tensor& logits) {
  at::Tensor gradient = at::empty(logits.sizes(), logits.options().requires_grad(false));
  gather_gradient<<<blocks_for(gradient.numel()), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      grid, states, upstream, gradient.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return gradient;
}

at::Tensor empty_states(const Grid& grid, const at::Tensor& logits) {
  const int64_t bytes = grid.batch * grid.rows.out * grid.columns.out * static_cast<int64_t>(sizeof(PixelState));
  return at::empty({bytes}, logits.options().dtype(at::kByte).requires_grad(false));
}

}  // namespace

CrossEntropyOutput upsampled_cross_entropy(const CrossEntropyInput& input) {
  const c10::cuda::CUDAGuard guard(input.logits.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto options = input.logits.options().requires_grad(false);
  const int64_t classes = input.logits.size(1), fast = compiled_classes(classes);
  const PreparedGrid source = prepared(input.logits, input.size, fast > 0 ? fast : classes, /*softmax=*/false);
  const Grid& grid = source.grid;
  CrossEntropyOutput output;
  output.invalid_label = at::full({}, kNoInvalidLabel, options.dtype(at::kLong));
  if (input.with_prediction) {
    output.predicted = at::empty({grid.batch, grid.rows.out, grid.columns.out}, options.dtype(at::kByte));
    output.confidence = at::empty({grid.batch, grid.rows.out, grid.columns.out}, options);
  }
  const dim3 cells(blocks_for(grid.columns.out), static_cast<unsigned>(grid.rows.in),
                   static_cast<unsigned>(grid.batch));
  const int64_t pixels = grid.batch * grid.rows.out * grid.columns.out;
  const int64_t blocks = fast > 0 ? int64_t{cells.x} * cells.y * cells.z : std::min<int64_t>(blocks_for(pixels), 4096);
  const at::Tensor sums = at::empty({2, blocks}, options.dtype(at::kDouble));

  CrossEntropy task{.grid = grid,
                    .labels8 = nullptr,
                    .labels64 = nullptr,
                    .ignore_index = input.ignore_index,
                    .thresholds = data_or_null<float>(input.thresholds),
                    .inclusive = input.inclusive,
                    .class_weights = data_or_null<float>(input.class_weights),
                    .pixel_weights = data_or_null<float>(input.pixel_weights),
                    .gradient = input.with_gradient,
                    .predicted = data_or_null<uint8_t>(output.predicted),
                    .confidence = data_or_null<float>(output.confidence),
                    .loss = sums.mutable_data_ptr<double>(),
                    .weight = sums.mutable_data_ptr<double>() + blocks,
                    .invalid_label = reinterpret_cast<long long*>(output.invalid_label.mutable_data_ptr<int64_t>())};
  if (input.labels.defined()) {
    if (input.labels.scalar_type() == at::kByte) {
      task.labels8 = input.labels.const_data_ptr<uint8_t>();
    } else {
      task.labels64 = input.labels.const_data_ptr<int64_t>();
    }
  }

  if (fast > 0) {
    Partials partials(grid);
    at::Tensor values;
    if (input.with_gradient) {
      values = at::empty({partials.size(grid)}, options);
      partials.values = values.mutable_data_ptr<float>();
    }
    launch_compiled<4, 8, 12, 16, 19, 24, 32, 40>(fast, cells, task, partials);
    if (input.with_gradient) {
      output.gradient = at::empty(input.logits.sizes(), options);
      const dim3 points(blocks_for(grid.batch * grid.rows.in * grid.columns.in),
                        static_cast<unsigned>((classes + kJoined - 1) / kJoined));
      join_partials<<<points, kThreads, 0, stream>>>(grid, partials, output.gradient.mutable_data_ptr<float>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  } else {
    at::Tensor states;
    PixelState* state = nullptr;
    if (input.with_gradient) {
      states = empty_states(grid, input.logits);
      state = static_cast<PixelState*>(states.mutable_data_ptr());
    }
    cross_entropy_pixels<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(task, state);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    if (input.with_gradient) output.gradient = gathered(grid, state, nullptr, input.logits);
  }

  const at::Tensor totals = at::empty({2}, options);
  sum_blocks<<<1, kThreads, 0, stream>>>(task.loss, task.weight, blocks, totals.mutable_data_ptr<float>(),
                                         totals.mutable_data_ptr<float>() + 1);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  output.loss = totals[0];
  output.weight = totals[1];
  return output;
}

void upsampled_argmax(const at::Tensor& logits, const Upsampling& size, SoftmaxOrder order, at::Tensor& predicted,
                      at::Tensor* confidence) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const bool probabilities = order == SoftmaxOrder::kBeforeUpsampling;
  const PreparedGrid source = prepared(logits, size, logits.size(1), probabilities);
  argmax_pixels<<<blocks_for(predicted.numel()), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      source.grid, probabilities, predicted.mutable_data_ptr<uint8_t>(),
      confidence != nullptr ? confidence->mutable_data_ptr<float>() : nullptr);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor upsampled_softmax(const at::Tensor& logits, const Upsampling& size) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const PreparedGrid source = prepared(logits, size, logits.size(1), /*softmax=*/false);
  at::Tensor result =
      at::empty({logits.size(0), logits.size(1), size.height, size.width}, logits.options().requires_grad(false));
  softmax_pixels<<<blocks_for(logits.size(0) * size.height * size.width), kThreads, 0,
                   c10::cuda::getCurrentCUDAStream()>>>(source.grid, result.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

at::Tensor upsampled_softmax_backward(const at::Tensor& logits, const Upsampling& size, const at::Tensor& upstream) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const PreparedGrid source = prepared(logits, size, logits.size(1), /*softmax=*/false);
  const at::Tensor states = empty_states(source.grid, logits);
  auto* state = static_cast<PixelState*>(states.mutable_data_ptr());
  softmax_backward_pixels<<<blocks_for(logits.size(0) * size.height * size.width), kThreads, 0,
                            c10::cuda::getCurrentCUDAStream()>>>(source.grid, upstream.const_data_ptr<float>(), state);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return gathered(source.grid, state, upstream.const_data_ptr<float>(), logits);
}

}  // namespace bidiseg::kernels::cuda
