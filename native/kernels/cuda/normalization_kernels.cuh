// Kernels for activations with channels last: normalization with what follows it, and reflection padding. Like
// upsampled_softmax_kernels.cuh without ATen, so that test/native can run the same code on the CPU.
//
// A thread owns a pack of 16 bytes, a few channels side by side. The threads of a block lie on the [pixels, channels]
// of an image as a rectangle, in which neighbors read neighboring packs. Sums are written per block and added in a
// fixed order by another kernel, so that the same input gives the same bits.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace bidiseg::kernels::cuda {

constexpr int kPackThreads = 256;
constexpr int kMostLanes = 32;        // packs side by side in a block
constexpr int kFinishedChannels = 8;  // channels that a block of the second stage finishes

/// Activations [images, pixels, channels] whose images are normalized apart from each other. BatchNorm has one image,
/// with the pixels of all.
struct Planes {
  int64_t images, pixels, channels;
};

template <typename To, typename From>
__host__ __device__ To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

/// 16 bytes. Short numbers stay in pairs until they are used, because each would else take a register of its own.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  uint32_t words[4];

  __device__ float operator[](int v) const {
    if constexpr (sizeof(T) == 4) {
      return bits_as<float>(words[v]);
    } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
      return bits_as<float>(v % 2 == 0 ? words[v / 2] << 16 : words[v / 2] & 0xffff0000U);
    } else {
      return static_cast<float>(bits_as<T>(static_cast<uint16_t>(words[v / 2] >> (v % 2 * 16))));
    }
  }
  __device__ void set(const float* values) {
    for (int v = 0; v < kSize; ++v) {
      if constexpr (sizeof(T) == 4) {
        words[v] = bits_as<uint32_t>(values[v]);
      } else {
        const uint32_t bits = bits_as<uint16_t>(static_cast<T>(values[v]));
        words[v / 2] = v % 2 == 0 ? bits : words[v / 2] | bits << 16;
      }
    }
  }
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
  /// The same, from the last pixel on. A second pass begins with what the first one left in the cache.
  __device__ int64_t pack_from_end(const Planes& planes, int64_t of_pixel) const {
    return pack(planes, planes.pixels - 1 - of_pixel);
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
        const float d = pack[v] - start[v];
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
  const int own = static_cast<int>(threadIdx.x), lane = own % kFinishedChannels, part = own / kFinishedChannels;
  const int64_t channel = int64_t{blockIdx.x} * kFinishedChannels + lane;
  totals[0] = totals[1] = 0;
  if (channel < planes.channels) {
#pragma unroll 8
    for (int64_t block = part; block < blocks; block += kParts) {
      const float* at = partials + (int64_t{blockIdx.y} * blocks + block) * 2 * planes.channels + channel;
      totals[0] += static_cast<double>(at[0]);
      totals[1] += static_cast<double>(at[planes.channels]);
    }
  }
  for (int rest = kParts; rest > 1; rest /= 2) {
    for (int k = 0; k < 2; ++k) sums[k][own] = totals[k];
    __syncthreads();
    const int other = own + rest / 2 * kFinishedChannels;
    for (int k = 0; k < 2; ++k) totals[k] += part < rest / 2 ? sums[k][other] : 0;
    __syncthreads();
  }
  return part == 0 && channel < planes.channels;
}

/// Running statistics of BatchNorm; null: none.
struct Running {
  float *mean, *variance;
  int64_t* batches;
  float momentum;
};

/// What is done to normalized values: y = leaky ReLU(γ x̂ + β + sum) = leaky ReLU(factor (x - mean) + bias + sum). All
/// are [images, channels]; scale is 1/√(σ² + ε). Slope 0: ReLU, and 1: nothing.
struct Normalization {
  float *mean, *scale, *factor, *bias;
  float slope;
};

/// Writes the tables of `norm` for one channel of an image. γ and β may be null: 1 and 0.
__device__ inline void write_tables(const Normalization& norm, int64_t place, int64_t channel, double mean,
                                    double variance, double eps, const float* weight, const float* bias) {
  const auto scale = static_cast<float>(1 / sqrt(variance + eps));
  norm.mean[place] = static_cast<float>(mean);
  norm.scale[place] = scale;
  norm.factor[place] = weight != nullptr ? scale * weight[channel] : scale;
  norm.bias[place] = bias != nullptr ? bias[channel] : 0;
}

/// Writes the tables of `norm`, and the running statistics.
template <typename T>
__global__ void __launch_bounds__(kPackThreads)
    finish_statistics(const T* x, Planes planes, const float* partials, int64_t blocks, double eps, const float* weight,
                      const float* bias, Normalization norm, Running running) {
  double totals[2];
  if (!add_partials(partials, planes, blocks, totals)) return;
  const int64_t channel = int64_t{blockIdx.x} * kFinishedChannels + threadIdx.x;
  const int64_t image = blockIdx.y, place = image * planes.channels + channel;
  const auto count = static_cast<double>(planes.pixels);
  const double shift = totals[0] / count, square = totals[1] / count - shift * shift;
  const double variance = square > 0 || square != square ? square : 0;
  const double average =
      static_cast<double>(static_cast<float>(x[image * planes.pixels * planes.channels + channel])) + shift;
  write_tables(norm, place, channel, average, variance, eps, weight, bias);
  if (running.mean == nullptr) return;
  const auto follow = [&](float* value, double now) {
    *value = (1 - running.momentum) * *value + running.momentum * static_cast<float>(now);
  };
  follow(running.mean + channel, average);
  follow(running.variance + channel, variance * count / (count - 1));
  if (channel == 0) ++*running.batches;
}

/// Writes the tables of `norm` for given statistics, for one image.
__global__ void __launch_bounds__(kPackThreads)
    use_statistics(const float* mean, const float* variance, int64_t channels, double eps, const float* weight,
                   const float* bias, Normalization norm) {
  const int64_t channel = int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
  if (channel >= channels) return;
  write_tables(norm, channel, channel, static_cast<double>(mean[channel]), static_cast<double>(variance[channel]), eps,
               weight, bias);
}

/// The channels of a thread.
template <typename T>
struct PackNormalization {
  static constexpr int kSize = Pack<T>::kSize;
  float mean[kSize], factor[kSize], bias[kSize];

  __device__ PackNormalization(const Normalization& norm, const Planes& planes, const Place<T>& place) {
    const int64_t at = place.image * planes.channels + place.channel;
    load(norm.mean + at, mean);
    load(norm.factor + at, factor);
    load(norm.bias + at, bias);
  }
  /// `from` is aligned like a pack.
  __device__ static void load(const float* from, float* to) {
    constexpr int kFloats = Pack<float>::kSize;
    for (int first = 0; first < kSize; first += kFloats) {
      const Pack<float> pack = packs(from + first)[0];
      for (int v = 0; v < kFloats; ++v) to[first + v] = pack[v];
    }
  }
  __device__ float operator()(float x, int v) const { return fmaf(x - mean[v], factor[v], bias[v]); }
};

__device__ inline float leaky_relu(float x, float slope) {
  if (x > 0 || x != x) return x;
  return slope == 0 ? 0 : x * slope;
}

/// Packs that a thread reads before it uses the first, so that it waits for memory less often.
constexpr int kAhead = 2;
/// Blocks for which each processor has registers.
constexpr int kBlocksAtOnce = 3;

template <typename T, bool kHasSum>
__global__ void __launch_bounds__(kPackThreads, kBlocksAtOnce)
    normalize_planes(const T* x, const T* sum, Planes planes, Normalization norm, T* y) {
  const Place<T> place(planes);
  if (!place.is_used) return;
  const PackNormalization<T> normalized(norm, planes, place);
  for (int64_t pixel = place.pixel; pixel < planes.pixels; pixel += kAhead * place.step) {
    Pack<T> of_x[kAhead], added[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (pixel + i * place.step >= planes.pixels) break;
      const int64_t at = place.pack_from_end(planes, pixel + i * place.step);
      of_x[i] = packs(x)[at];
      if constexpr (kHasSum) added[i] = packs(sum)[at];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (pixel + i * place.step >= planes.pixels) break;
      float values[Pack<T>::kSize];
      for (int v = 0; v < Pack<T>::kSize; ++v) {
        values[v] = normalized(of_x[i][v], v);
        if constexpr (kHasSum) values[v] += added[i][v];
        values[v] = leaky_relu(values[v], norm.slope);
      }
      Pack<T> result;
      result.set(values);
      packs(y)[place.pack_from_end(planes, pixel + i * place.step)] = result;
    }
  }
}

/// Gradient behind the activation, whose output has the sign of `y`.
__device__ inline float pass_activation(float gradient, float y, float slope) {
  if (y <= 0) return slope == 0 ? 0 : gradient * slope;
  return gradient;
}

/// Sums of the gradient behind the activation and of its product with x - mean. If there was a sum before the
/// activation, `y` gives the sign, and `passed` gets that gradient, which is the gradient of the sum too. Else the sign
/// follows from x.
template <typename T, bool kHasSum>
__global__ void __launch_bounds__(kPackThreads, kBlocksAtOnce)
    sum_gradients(const T* upstream, const T* x, const T* y, Planes planes, Normalization norm, T* passed,
                  float* partials) {
  constexpr int kSize = Pack<T>::kSize;
  const Place<T> place(planes);
  float first[kSize] = {}, second[kSize] = {};
  if (place.is_used) {
    const PackNormalization<T> normalized(norm, planes, place);
    for (int64_t pixel = place.pixel; pixel < planes.pixels; pixel += kAhead * place.step) {
      Pack<T> of_x[kAhead], of_y[kAhead], from_above[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (pixel + i * place.step >= planes.pixels) break;
        const int64_t at = place.pack(planes, pixel + i * place.step);
        from_above[i] = packs(upstream)[at];
        of_x[i] = packs(x)[at];
        if constexpr (kHasSum) of_y[i] = packs(y)[at];
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (pixel + i * place.step >= planes.pixels) break;
        float gradient[kSize];
        for (int v = 0; v < kSize; ++v) {
          const float value = of_x[i][v], sign = kHasSum ? of_y[i][v] : normalized(value, v);
          gradient[v] = pass_activation(from_above[i][v], sign, norm.slope);
          first[v] += gradient[v];
          second[v] = fmaf(gradient[v], value - normalized.mean[v], second[v]);
        }
        if constexpr (kHasSum) {
          Pack<T> result;
          result.set(gradient);
          packs(passed)[place.pack(planes, pixel + i * place.step)] = result;
        }
      }
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
/// activation: `source` itself if there was a sum, and else from it again. If `means` is null, they are 0: the
/// statistics did not depend on x.
template <typename T, bool kHasSum>
__global__ void __launch_bounds__(kPackThreads, kBlocksAtOnce)
    normalize_gradients(const T* source, const T* x, Planes planes, Normalization norm, const float* means, T* result) {
  constexpr int kSize = Pack<T>::kSize;
  const Place<T> place(planes);
  if (!place.is_used) return;
  const PackNormalization<T> normalized(norm, planes, place);
  float mean[kSize] = {}, slope[kSize] = {};
  if (means != nullptr) {
    const float* of_channels = means + place.image * 2 * planes.channels + place.channel;
    PackNormalization<T>::load(of_channels, mean);
    PackNormalization<T>::load(of_channels + planes.channels, slope);
  }
  for (int64_t pixel = place.pixel; pixel < planes.pixels; pixel += kAhead * place.step) {
    Pack<T> of_x[kAhead], gradients[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (pixel + i * place.step >= planes.pixels) break;
      const int64_t at = place.pack_from_end(planes, pixel + i * place.step);
      of_x[i] = packs(x)[at];
      gradients[i] = packs(source)[at];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (pixel + i * place.step >= planes.pixels) break;
      float values[kSize];
      for (int v = 0; v < kSize; ++v) {
        const float value = of_x[i][v], centered = value - normalized.mean[v];
        float gradient = gradients[i][v];
        if constexpr (!kHasSum) gradient = pass_activation(gradient, normalized(value, v), norm.slope);
        values[v] = normalized.factor[v] * (gradient - mean[v] - centered * slope[v]);
      }
      Pack<T> pack;
      pack.set(values);
      packs(result)[place.pack_from_end(planes, pixel + i * place.step)] = pack;
    }
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
      for (int v = 0; v < kSize; ++v) sum[v] += part[v];
    }
  }
  Pack<T> result;
  result.set(sum);
  packs(gradient)[((blockIdx.z * padding.height + blockIdx.y) * padding.width + column) * row_packs + pack] = result;
}

}  // namespace bidiseg::kernels::cuda
