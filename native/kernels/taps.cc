#include "kernels/taps.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace bidiseg::kernels {
namespace {

constexpr int64_t kTaps = 9;

// Calls `work(pixel, tap, other)` for each pixel and tap, where `other` is the index of the pixel that is `sign` times
// the tap's offset away, or -1 if that is outside.
template <typename Work>
void for_neighbors(at::IntArrayRef sizes, int64_t dilation, int64_t sign, const Work& work) {
  const int64_t height = sizes[1], width = sizes[2];
  at::parallel_for(0, sizes[0] * height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t x = 0; x < width; ++x) {
        for (int64_t tap = 0; tap < kTaps; ++tap) {
          const int64_t down = sign * (tap / 3 - 1) * dilation, right = sign * (tap % 3 - 1) * dilation;
          const int64_t other_y = row % height + down, other_x = x + right;
          const bool inside = other_y >= 0 && other_y < height && other_x >= 0 && other_x < width;
          work(row * width + x, tap, inside ? (row + down) * width + other_x : -1);
        }
      }
    }
  });
}

}  // namespace

void sum_taps(const at::Tensor& taps, int64_t dilation, const at::Tensor& bias, at::Tensor& image) {
  const int64_t channels = image.size(3);
  const float* from = taps.const_data_ptr<float>();
  const float* biases = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float* to = image.mutable_data_ptr<float>();
  for_neighbors(image.sizes(), dilation, 1, [=](int64_t pixel, int64_t tap, int64_t other) {
    float* sum = to + pixel * channels;
    if (tap == 0) {
      for (int64_t k = 0; k < channels; ++k) sum[k] = biases ? biases[k] : 0.0f;
    }
    if (other < 0) return;
    const float* term = from + (other * kTaps + tap) * channels;
    for (int64_t k = 0; k < channels; ++k) sum[k] += term[k];
  });
}

void sum_pixels(const at::Tensor& image, at::Tensor& sum) {
  const int64_t channels = image.size(3), pixels = image.numel() / channels;
  const float* from = image.const_data_ptr<float>();
  float* to = sum.mutable_data_ptr<float>();
  at::parallel_for(0, channels, 16, [=](int64_t begin, int64_t end) {
    std::vector<double> total(static_cast<size_t>(end - begin));
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (int64_t k = begin; k < end; ++k) total[static_cast<size_t>(k - begin)] += from[pixel * channels + k];
    }
    for (int64_t k = begin; k < end; ++k) to[k] = static_cast<float>(total[static_cast<size_t>(k - begin)]);
  });
}

void spread_taps(const at::Tensor& image, int64_t dilation, at::Tensor& taps) {
  const int64_t channels = image.size(3);
  const float* from = image.const_data_ptr<float>();
  float* to = taps.mutable_data_ptr<float>();
  for_neighbors(image.sizes(), dilation, -1, [=](int64_t pixel, int64_t tap, int64_t other) {
    float* gradient = to + (pixel * kTaps + tap) * channels;
    if (other < 0) {
      std::fill_n(gradient, channels, 0.0f);
    } else {
      std::copy_n(from + other * channels, channels, gradient);
    }
  });
}

}  // namespace bidiseg::kernels
