// Launches of the kernels on the current stream. A CUDA graph can capture them.
#include "kernels/normalization.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

#include "kernels/cuda/normalization_kernels.cuh"

namespace bidiseg::kernels {
namespace {

using namespace cuda;

// Blocks that fill a card of about 132 processors. Each has a start of its own, and each sum waits for the next kernel.
constexpr int64_t kBlocks = 396;

bool has_packs(const at::Tensor& x) {
  const auto type = x.scalar_type();
  const bool known = type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
  return x.is_cuda() && known && x.dim() == 4 && x.numel() > 0 && x.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         x.size(1) * static_cast<int64_t>(x.element_size()) % 16 == 0 && x.size(0) <= 65535 && x.size(2) <= 32767 &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

// `values` as the kernels want them: packs, in the type of `x`.
at::Tensor like(const at::Tensor& values, const at::Tensor& x) {
  at::Tensor result = values.to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
  return reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0 ? result
                                                                        : result.clone(at::MemoryFormat::ChannelsLast);
}

at::Tensor empty_as(const at::Tensor& x) {
  return at::empty(x.sizes(), x.options().requires_grad(false), at::MemoryFormat::ChannelsLast);
}

Planes planes_of(const at::Tensor& x, bool per_image) {
  const int64_t pixels = x.size(2) * x.size(3);
  return per_image ? Planes{x.size(0), pixels, x.size(1)} : Planes{1, x.size(0) * pixels, x.size(1)};
}

template <typename T>
dim3 grid_of(const Planes& planes) {
  const int64_t lanes = lanes_of<T>(planes), rows = kPackThreads / lanes;
  const int64_t columns = (planes.channels / Pack<T>::kSize + lanes - 1) / lanes;
  const int64_t fill = std::max<int64_t>(1, kBlocks / (columns * planes.images));
  const int64_t blocks = std::min((planes.pixels + rows - 1) / rows, fill);
  return {static_cast<unsigned>(columns), static_cast<unsigned>(blocks), static_cast<unsigned>(planes.images)};
}

dim3 finish_grid(const Planes& planes) {
  return {static_cast<unsigned>((planes.channels + kFinishedChannels - 1) / kFinishedChannels),
          static_cast<unsigned>(planes.images)};
}

const float* floats_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

template <typename T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}

Running running_of(const RunningStatistics& running) {
  if (!running.mean.defined()) return {nullptr, nullptr, nullptr, 0};
  return {running.mean.mutable_data_ptr<float>(), running.variance.mutable_data_ptr<float>(),
          running.batches.mutable_data_ptr<int64_t>(), static_cast<float>(running.momentum)};
}

Normalization normalization_of(const at::Tensor& statistics, const NormalizationOptions& options) {
  const auto table = [&](int64_t i) { return statistics.mutable_data_ptr<float>() + i * statistics.stride(0); };
  return {table(0), table(1), table(2), table(3), static_cast<float>(options.slope)};
}

// Calls `work` with a value of the tensor's type.
template <typename Work>
void with_type(const at::Tensor& x, const Work& work) {
  switch (x.scalar_type()) {
    case at::kFloat: return work(float());
    case at::kHalf: return work(c10::Half());
    case at::kBFloat16: return work(c10::BFloat16());
    default: TORCH_INTERNAL_ASSERT(false, "no kernel for this type");
  }
}

template <typename T>
void launch_statistics(const at::Tensor& x, const Planes& planes, const NormalizationOptions& options,
                       const Normalization& norm) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const float *weight = floats_or_null(options.weight), *bias = floats_or_null(options.bias);
  if (options.fixed_mean.defined()) {
    const auto blocks = static_cast<unsigned>((planes.channels + kPackThreads - 1) / kPackThreads);
    use_statistics<<<blocks, kPackThreads, 0, stream>>>(floats_or_null(options.fixed_mean),
                                                        floats_or_null(options.fixed_variance), planes.channels,
                                                        options.eps, weight, bias, norm);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return;
  }
  const dim3 sums = grid_of<T>(planes);
  const at::Tensor partials =
      at::empty({planes.images, sums.y, 2, planes.channels}, x.options().dtype(at::kFloat).requires_grad(false));
  const T* data = data_or_null<T>(x);
  sum_planes<T><<<sums, kPackThreads, 0, stream>>>(data, planes, partials.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  finish_statistics<T><<<finish_grid(planes), kPackThreads, 0, stream>>>(data, planes, partials.const_data_ptr<float>(),
                                                                         sums.y, options.eps, weight, bias, norm,
                                                                         running_of(options.running));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, bool kHasSum>
void launch_normalize(const at::Tensor& x, const at::Tensor& sum, const NormalizationOptions& options,
                      NormalizationOutput& output) {
  const Planes planes = planes_of(x, options.per_image);
  const Normalization norm = normalization_of(output.statistics, options);
  launch_statistics<T>(x, planes, options, norm);
  normalize_planes<T, kHasSum><<<grid_of<T>(planes), kPackThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      data_or_null<T>(x), data_or_null<T>(sum), planes, norm, static_cast<T*>(output.y.mutable_data_ptr()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, bool kHasSum>
void launch_backward(const at::Tensor& upstream, const at::Tensor& x, const NormalizationOutput& forward,
                     const NormalizationOptions& options, at::Tensor& passed, at::Tensor& gradient) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Planes planes = planes_of(x, options.per_image);
  const Normalization norm = normalization_of(forward.statistics, options);
  const bool is_fixed = options.fixed_mean.defined();
  T* passed_on = kHasSum ? static_cast<T*>(passed.mutable_data_ptr()) : nullptr;
  at::Tensor means;
  if (kHasSum || !is_fixed) {
    const dim3 sums = grid_of<T>(planes);
    const at::Tensor partials = at::empty({planes.images, sums.y, 2, planes.channels}, forward.statistics.options());
    sum_gradients<T, kHasSum><<<sums, kPackThreads, 0, stream>>>(data_or_null<T>(upstream), data_or_null<T>(x),
                                                                 data_or_null<T>(forward.y), planes, norm, passed_on,
                                                                 partials.mutable_data_ptr<float>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    if (!is_fixed) {
      means = at::empty({planes.images, 2, planes.channels}, forward.statistics.options());
      finish_gradients<<<finish_grid(planes), kPackThreads, 0, stream>>>(
          planes, partials.const_data_ptr<float>(), sums.y, norm.scale, means.mutable_data_ptr<float>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }
  normalize_gradients<T, kHasSum><<<grid_of<T>(planes), kPackThreads, 0, stream>>>(
      kHasSum ? passed_on : data_or_null<T>(upstream), data_or_null<T>(x), planes, norm, floats_or_null(means),
      static_cast<T*>(gradient.mutable_data_ptr()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

Padding padding_of(const at::Tensor& x, int64_t margin) { return {x.size(0), x.size(2), x.size(3), x.size(1), margin}; }

// Grid for an image [N, C, H, W] with a block of threads for packs of a row.
template <typename T>
dim3 rows_of(const at::Tensor& x) {
  const int64_t packs = x.size(3) * x.size(1) / Pack<T>::kSize;
  return {static_cast<unsigned>((packs + kPackThreads - 1) / kPackThreads), static_cast<unsigned>(x.size(2)),
          static_cast<unsigned>(x.size(0))};
}

}  // namespace

bool can_normalize(const at::Tensor& x) { return has_packs(x) && x.size(2) * x.size(3) > 1; }

NormalizationOutput normalize(const at::Tensor& x, const at::Tensor& sum, const NormalizationOptions& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t images = options.per_image ? x.size(0) : 1;
  const auto floats = x.options().dtype(at::kFloat).requires_grad(false);
  NormalizationOutput output{empty_as(x), at::empty({4, images, x.size(1)}, floats)};
  const at::Tensor added = sum.defined() ? like(sum, x) : sum;
  with_type(x, [&]<typename T>(T) {
    added.defined() ? launch_normalize<T, true>(x, added, options, output)
                    : launch_normalize<T, false>(x, added, options, output);
  });
  return output;
}

std::pair<at::Tensor, at::Tensor> normalize_backward(const at::Tensor& upstream, const at::Tensor& x,
                                                     const NormalizationOutput& forward,
                                                     const NormalizationOptions& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor from_above = like(upstream, x);
  at::Tensor gradient = empty_as(x), passed = forward.y.defined() ? empty_as(x) : at::Tensor();
  with_type(x, [&]<typename T>(T) {
    passed.defined() ? launch_backward<T, true>(from_above, x, forward, options, passed, gradient)
                     : launch_backward<T, false>(from_above, x, forward, options, passed, gradient);
  });
  return {gradient, passed};
}

bool can_pad_reflected(const at::Tensor& x) { return has_packs(x); }

at::Tensor pad_reflected(const at::Tensor& x, int64_t margin) {
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor y = at::empty({x.size(0), x.size(1), x.size(2) + 2 * margin, x.size(3) + 2 * margin},
                           x.options().requires_grad(false), at::MemoryFormat::ChannelsLast);
  with_type(x, [&]<typename T>(T) {
    copy_reflected<T><<<rows_of<T>(y), kPackThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        data_or_null<T>(x), padding_of(x, margin), static_cast<T*>(y.mutable_data_ptr()));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

at::Tensor pad_reflected_backward(const at::Tensor& upstream, int64_t margin) {
  const c10::cuda::CUDAGuard guard(upstream.device());
  const at::Tensor from_above = like(upstream, upstream);
  at::Tensor gradient =
      at::empty({upstream.size(0), upstream.size(1), upstream.size(2) - 2 * margin, upstream.size(3) - 2 * margin},
                upstream.options().requires_grad(false), at::MemoryFormat::ChannelsLast);
  with_type(upstream, [&]<typename T>(T) {
    sum_reflected<T><<<rows_of<T>(gradient), kPackThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        data_or_null<T>(from_above), padding_of(gradient, margin), static_cast<T*>(gradient.mutable_data_ptr()));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return gradient;
}

}  // namespace bidiseg::kernels
