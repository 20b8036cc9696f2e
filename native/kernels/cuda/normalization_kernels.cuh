// Kernels for activations with channels last: normalization with what follows it, and reflection padding. Like
// upsampled_softmax_kernels.cuh without ATen, so that test/native can run the same code on the CPU.
//
// A thread owns a pack of 16 bytes, a few channels side by side. The threads of a block lie on the [pixels, channels]
// of an image as a rectangle, in which neighbors read neighboring packs. Sums are written per block and added in a
// fixed order by another kernel, so that the same input gives the same bits.
#pragma once

#include <cstdint>

namespace bidiseg::kernels::cuda {

constexpr int kPackThreads = 256;
constexpr int kMostLanes = 32;         // packs side by side in a block
constexpr int kFinishedChannels = 32;  // channels that a block of the second stage finishes

/// Activations [images, pixels, channels] whose images are normalized apart from each other. BatchNorm has one image,
/// with the pixels of all.
struct Planes {
  int64_t images, pixels, channels;
};

template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

/// Packs side by side in a block.
template <typename T>
__host__ __device__ int lanes_of(const Planes& planes) {
  const int64_t packs = planes.channels / Pack<T>::kSize;
  return packs < kMostLanes ? static_cast<int>(packs) : kMostLanes;
}

/// Where a thread begins: blockIdx is {columns of packs, rows of pixels, image}.
template <typename T>
struct Place {
  int64_t image, channel, pixel, step;
  bool is_used;

  __device__ Place(const Planes& planes) {
    const int lanes = lanes_of<T>(planes), rows = kPackThreads / lanes;
    const int lane = static_cast<int>(threadIdx.x) % lanes, row = static_cast<int>(threadIdx.x) / lanes;
    image = blockIdx.z;
    channel = (int64_t{blockIdx.x} * lanes + lane) * Pack<T>::kSize;
    pixel = int64_t{blockIdx.y} * rows + row;
    step = int64_t{gridDim.y} * rows;
    is_used = row < rows && channel < planes.channels;
  }

  /// Index of the thread's pack of a pixel.
  __device__ int64_t pack(const Planes& planes, int64_t of_pixel) const {
    return ((image * planes.pixels + of_pixel) * planes.channels + channel) / Pack<T>::kSize;
  }
};

template <typename T>
__device__ const Pack<T>* packs(const T* values) {
  return reinterpret_cast<const Pack<T>*>(values);
}

template <typename T>
__device__ Pack<T>* packs(T* values) {
  return reinterpret_cast<Pack<T>*>(values);
}

/// Adds two sums per channel over the rows of the block. partials: [images, blocks, 2, channels].
template <typename T>
__device__ void write_partials(const float* first, const float* second, const Planes& planes, float* partials) {
  constexpr int kSize = Pack<T>::kSize;
  __shared__ float sums[2][kPackThreads * kSize];
  for (int v = 0; v < kSize; ++v) {
    sums[0][threadIdx.x * kSize + v] = first[v];
    sums[1][threadIdx.x * kSize + v] = second[v];
  }
  __syncthreads();
  const int lanes = lanes_of<T>(planes), rows = kPackThreads / lanes, width = lanes * kSize;
  const int own = static_cast<int>(threadIdx.x);
  const int64_t channel = int64_t{blockIdx.x} * width + own;
  if (own >= width || channel >= planes.channels) return;
  for (int k = 0; k < 2; ++k) {
    float sum = 0;
    for (int row = 0; row < rows; ++row) sum += sums[k][row * width + own];
    partials[((int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * 2 + k) * planes.channels + channel] = sum;
  }
}

/// Sums of x - x₀ and of its square per channel, where x₀ is the image's first pixel. So nothing cancels if the mean is
/// far from 0.
template <typename T>
__global__ void __launch_bounds__(kPackThreads) sum_planes(const T* x, Planes planes, float* partials) {
  constexpr int kSize = Pack<T>::kSize;
  const Place<T> place(planes);
  float first[kSize] = {}, second[kSize] = {};
  if (place.is_used) {
    const Pack<T> start = packs(x)[place.pack(planes, 0)];
#pragma unroll 4
    for (int64_t pixel = place.pixel; pixel < planes.pixels; pixel += place.step) {
      const Pack<T> pack = packs(x)[place.pack(planes, pixel)];
      for (int v = 0; v < kSize; ++v) {
        const float d = static_cast<float>(pack.values[v]) - static_cast<float>(start.values[v]);
        first[v] += d;
        second[v] = fmaf(d, d, second[v]);
      }
    }
  }
  write_partials<T>(first, second, planes, partials);
}

/// The two sums of a channel over all blocks. True for the one thread that has them. blockIdx: {channels, image}.
__device__ inline bool add_partials(const float* partials, const Planes& planes, int64_t blocks, double* totals) {
  constexpr int kParts = kPackThreads / kFinishedChannels;
  __shared__ double sums[2][kPackThreads];
  const int lane = static_cast<int>(threadIdx.x) % kFinishedChannels;
  const int part = static_cast<int>(threadIdx.x) / kFinishedChannels;
  const int64_t channel = int64_t{blockIdx.x} * kFinishedChannels + lane;
  double own[2] = {0, 0};
  if (channel < planes.channels) {
#pragma unroll 4
    for (int64_t block = part; block < blocks; block += kParts) {
      const float* at = partials + (int64_t{blockIdx.y} * blocks + block) * 2 * planes.channels + channel;
      own[0] += static_cast<double>(at[0]);
      own[1] += static_cast<double>(at[planes.channels]);
    }
  }
  sums[0][threadIdx.x] = own[0];
  sums[1][threadIdx.x] = own[1];
  __syncthreads();
  if (part != 0 || channel >= planes.channels) return false;
  for (int k = 0; k < 2; ++k) {
    totals[k] = 0;
    for (int p = 0; p < kParts; ++p) totals[k] += sums[k][p * kFinishedChannels + lane];
  }
  return true;
}

/// Running statistics of BatchNorm; null: none.
struct Running {
  float *mean, *variance;
  int64_t* batches;
  float momentum;
};

/// mean and 1/√(σ² + ε), [images, channels] each, and the running statistics.
template <typename T>
__global__ void __launch_bounds__(kPackThreads)
    finish_statistics(const T* x, Planes planes, const float* partials, int64_t blocks, double eps, float* mean,
                      float* scale, Running running) {
  double totals[2];
  if (!add_partials(partials, planes, blocks, totals)) return;
  const int64_t channel = int64_t{blockIdx.x} * kFinishedChannels + threadIdx.x;
  const int64_t image = blockIdx.y, place = image * planes.channels + channel;
  const auto count = static_cast<double>(planes.pixels);
  const double shift = totals[0] / count, square = totals[1] / count - shift * shift;
  const double variance = square > 0 || square != square ? square : 0;
  const double average =
      static_cast<double>(static_cast<float>(x[image * planes.pixels * planes.channels + channel])) + shift;
  mean[place] = static_cast<float>(average);
  scale[place] = static_cast<float>(1 / sqrt(variance + eps));
  if (running.mean == nullptr) return;
  const auto follow = [&](float* value, double now) {
    *value = (1 - running.momentum) * *value + running.momentum * static_cast<float>(now);
  };
  follow(running.mean + channel, average);
  follow(running.variance + channel, variance * count / (count - 1));
  if (channel == 0) ++*running.batches;
}

/// What is done to normalized values: y = leaky ReLU(γ x̂ + β + sum). γ and β may be null: 1 and 0. Slope 0: ReLU, and
/// 1: nothing.
struct Normalization {
  const float *mean, *scale, *weight, *bias;
  float slope;
};

/// The channels of a thread: γ x̂ + β = factor (x - mean) + bias.
template <typename T>
struct PackNormalization {
  static constexpr int kSize = Pack<T>::kSize;
  float mean[kSize], factor[kSize], bias[kSize];

  __device__ PackNormalization(const Normalization& norm, const Planes& planes, const Place<T>& place) {
    const int64_t at = place.image * planes.channels + place.channel;
    for (int v = 0; v < kSize; ++v) {
      mean[v] = norm.mean[at + v];
      factor[v] = norm.weight != nullptr ? norm.scale[at + v] * norm.weight[place.channel + v] : norm.scale[at + v];
      bias[v] = norm.bias != nullptr ? norm.bias[place.channel + v] : 0;
    }
  }
  __device__ float operator()(float x, int v) const { return fmaf(x - mean[v], factor[v], bias[v]); }
};

__device__ inline float leaky_relu(float x, float slope) {
  if (x > 0 || x != x) return x;
  return slope == 0 ? 0 : x * slope;
}

/// `sum` may be null.
template <typename T>
__global__ void __launch_bounds__(kPackThreads)
    normalize_planes(const T* x, const T* sum, Planes planes, Normalization norm, T* y) {
  const Place<T> place(planes);
  if (!place.is_used) return;
  const PackNormalization<T> normalized(norm, planes, place);
  for (int64_t pixel = place.pixel; pixel < planes.pixels; pixel += place.step) {
    const int64_t at = place.pack(planes, pixel);
    const Pack<T> of_x = packs(x)[at];
    Pack<T> added = {}, result;
    if (sum != nullptr) added = packs(sum)[at];
    for (int v = 0; v < Pack<T>::kSize; ++v) {
      float value = normalized(static_cast<float>(of_x.values[v]), v);
      if (sum != nullptr) value += static_cast<float>(added.values[v]);
      result.values[v] = static_cast<T>(leaky_relu(value, norm.slope));
    }
    packs(y)[at] = result;
  }
}

/// Gradients behind the activation, of one pack. The sign comes from y, or if that is null from x again.
template <typename T>
__device__ void pass_activation(const PackNormalization<T>& normalized, const Pack<T>& of_x, const T* y, int64_t at,
                                float slope, float* gradient) {
  Pack<T> of_y = {};
  if (y != nullptr) of_y = packs(y)[at];
  for (int v = 0; v < Pack<T>::kSize; ++v) {
    // Rounded like the forward pass, which may have rounded to 0.
    const T value = y != nullptr ? of_y.values[v] : static_cast<T>(normalized(static_cast<float>(of_x.values[v]), v));
    if (static_cast<float>(value) <= 0) gradient[v] = slope == 0 ? 0 : gradient[v] * slope;
  }
}

/// Sums of the gradient behind the activation and of its product with x - mean. If `passed` is not null, it gets that
/// gradient, which is the gradient of `sum` too.
template <typename T>
__global__ void __launch_bounds__(kPackThreads) sum_gradients(const T* upstream, const T* x, const T* y, Planes planes,
                                                              Normalization norm, T* passed, float* partials) {
  constexpr int kSize = Pack<T>::kSize;
  const Place<T> place(planes);
  float first[kSize] = {}, second[kSize] = {};
  if (place.is_used) {
    const PackNormalization<T> normalized(norm, planes, place);
#pragma unroll 2
    for (int64_t pixel = place.pixel; pixel < planes.pixels; pixel += place.step) {
      const int64_t at = place.pack(planes, pixel);
      const Pack<T> of_x = packs(x)[at], from_above = packs(upstream)[at];
      float gradient[kSize];
      for (int v = 0; v < kSize; ++v) gradient[v] = static_cast<float>(from_above.values[v]);
      if (norm.slope != 1) pass_activation(normalized, of_x, y, at, norm.slope, gradient);
      Pack<T> result;
      for (int v = 0; v < kSize; ++v) {
        first[v] += gradient[v];
        second[v] = fmaf(gradient[v], static_cast<float>(of_x.values[v]) - normalized.mean[v], second[v]);
        result.values[v] = static_cast<T>(gradient[v]);
      }
      if (passed != nullptr) packs(passed)[at] = result;
    }
  }
  write_partials<T>(first, second, planes, partials);
}

/// means [images, 2, channels]: of the gradient, and of its product with x - mean over σ² + ε.
__global__ void __launch_bounds__(kPackThreads)
    finish_gradients(Planes planes, const float* partials, int64_t blocks, const float* scale, float* means) {
  double totals[2];
  if (!add_partials(partials, planes, blocks, totals)) return;
  const int64_t channel = int64_t{blockIdx.x} * kFinishedChannels + threadIdx.x;
  const int64_t image = blockIdx.y;
  const auto count = static_cast<double>(planes.pixels);
  const auto s = static_cast<double>(scale[image * planes.channels + channel]);
  float* at = means + image * 2 * planes.channels + channel;
  at[0] = static_cast<float>(totals[0] / count);
  at[planes.channels] = static_cast<float>(totals[1] / count * s * s);
}

/// gradient of x = factor (g - mean(g) - (x - mean) mean(g (x - mean)) / (σ² + ε)), where g is the gradient behind the
/// activation: `passed`, or if that is null from `upstream` again.
template <typename T>
__global__ void __launch_bounds__(kPackThreads)
    normalize_gradients(const T* upstream, const T* passed, const T* x, Planes planes, Normalization norm,
                        const float* means, T* result) {
  constexpr int kSize = Pack<T>::kSize;
  const Place<T> place(planes);
  if (!place.is_used) return;
  const PackNormalization<T> normalized(norm, planes, place);
  float mean[kSize], slope[kSize];
  for (int v = 0; v < kSize; ++v) {
    const float* at = means + place.image * 2 * planes.channels + place.channel + v;
    mean[v] = at[0];
    slope[v] = at[planes.channels];
  }
  for (int64_t pixel = place.pixel; pixel < planes.pixels; pixel += place.step) {
    const int64_t at = place.pack(planes, pixel);
    const Pack<T> of_x = packs(x)[at], source = packs(passed != nullptr ? passed : upstream)[at];
    float gradient[kSize];
    for (int v = 0; v < kSize; ++v) gradient[v] = static_cast<float>(source.values[v]);
    if (passed == nullptr && norm.slope != 1) {
      pass_activation<T>(normalized, of_x, nullptr, at, norm.slope, gradient);
    }
    Pack<T> pack;
    for (int v = 0; v < kSize; ++v) {
      const float centered = static_cast<float>(of_x.values[v]) - normalized.mean[v];
      pack.values[v] = static_cast<T>(normalized.factor[v] * (gradient[v] - mean[v] - centered * slope[v]));
    }
    packs(result)[at] = pack;
  }
}

/// Reflection padding by `margin` on all sides of [images, height, width, channels].
struct Padding {
  int64_t images, height, width, channels, margin;

  /// Pixel of the input that a pixel of the output copies, on an axis of `size`.
  __device__ int64_t source(int64_t padded, int64_t size) const {
    const int64_t i = padded < margin ? margin - padded : padded - margin;
    return i < size ? i : 2 * (size - 1) - i;
  }
  /// The `which`-th place of an input's pixel in the output, of three; negative: none.
  __device__ int64_t copy(int64_t i, int64_t size, int which) const {
    if (which == 0) return margin + i;
    if (which == 1) return i >= 1 && i <= margin ? margin - i : -1;
    return i >= size - 1 - margin && i <= size - 2 ? margin + 2 * (size - 1) - i : -1;
  }
};

/// blockIdx: {packs of a row, rows, images} of the output.
template <typename T>
__global__ void __launch_bounds__(kPackThreads) copy_reflected(const T* x, Padding padding, T* y) {
  const int64_t row_packs = padding.channels / Pack<T>::kSize, width = padding.width + 2 * padding.margin;
  const int64_t own = int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
  if (own >= width * row_packs) return;
  const int64_t column = own / row_packs, pack = own % row_packs;
  const int64_t height = padding.height + 2 * padding.margin;
  const int64_t from = (blockIdx.z * padding.height + padding.source(blockIdx.y, padding.height)) * padding.width +
                       padding.source(column, padding.width);
  packs(y)[((blockIdx.z * height + blockIdx.y) * width + column) * row_packs + pack] =
      packs(x)[from * row_packs + pack];
}

/// blockIdx: {packs of a row, rows, images} of the gradient of x.
template <typename T>
__global__ void __launch_bounds__(kPackThreads) sum_reflected(const T* upstream, Padding padding, T* gradient) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t row_packs = padding.channels / kSize;
  const int64_t own = int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
  if (own >= padding.width * row_packs) return;
  const int64_t column = own / row_packs, pack = own % row_packs;
  const int64_t height = padding.height + 2 * padding.margin, width = padding.width + 2 * padding.margin;
  float sum[kSize] = {};
  for (int i = 0; i < 3; ++i) {
    const int64_t row = padding.copy(blockIdx.y, padding.height, i);
    if (row < 0) continue;
    for (int j = 0; j < 3; ++j) {
      const int64_t place = padding.copy(column, padding.width, j);
      if (place < 0) continue;
      const Pack<T> part = packs(upstream)[((blockIdx.z * height + row) * width + place) * row_packs + pack];
      for (int v = 0; v < kSize; ++v) sum[v] += static_cast<float>(part.values[v]);
    }
  }
  Pack<T> result;
  for (int v = 0; v < kSize; ++v) result.values[v] = static_cast<T>(sum[v]);
  packs(gradient)[((blockIdx.z * padding.height + blockIdx.y) * padding.width + column) * row_packs + pack] = result;
}

}  // namespace bidiseg::kernels::cuda
