#include "kernels/winograd.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

// Compiled for several instruction sets, of which the best is used, as in LibTorch's own kernels.
#if defined(__x86_64__) && defined(__GNUC__)
#define BIDISEG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BIDISEG_CLONES
#endif

namespace bidiseg::kernels {
namespace {

constexpr int64_t kIn = 6, kOut = 4;
constexpr int64_t kBlock = 64;  // channels at a time: a tile of them fits the first-level cache

// Polynomials are interpolated at 0, ±a, ±b and infinity. The usual points, 1 and 2, give three times the rounding
// error. All numbers that follow from 5/8 and 3/2 are exact in float.
constexpr float kA = 0.625f, kB = 1.5f;
constexpr float kA2 = kA * kA, kB2 = kB * kB, kProduct = kA2 * kB2, kSum = kA2 + kB2;

using Lines = const float* const*;

// out = Bᵀ in for each channel; six lines of channels each.
BIDISEG_CLONES void input_lines(Lines in, float* const* out, int64_t channels) {
  const float *a = in[0], *b = in[1], *c = in[2], *d = in[3], *e = in[4], *f = in[5];
  float *u = out[0], *v = out[1], *w = out[2], *x = out[3], *y = out[4], *z = out[5];
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const float near = e[i] - kB2 * c[i], near_odd = kA * (d[i] - kB2 * b[i]);
    const float far = e[i] - kA2 * c[i], far_odd = kB * (d[i] - kA2 * b[i]);
    u[i] = kProduct * a[i] - kSum * c[i] + e[i];
    v[i] = near + near_odd;
    w[i] = near - near_odd;
    x[i] = far + far_odd;
    y[i] = far - far_odd;
    z[i] = kProduct * b[i] - kSum * d[i] + f[i];
  }
}

// out = Aᵀ in for each channel: six lines to four.
BIDISEG_CLONES void output_lines(Lines in, float* const* out, int64_t channels) {
  const float *a = in[0], *b = in[1], *c = in[2], *d = in[3], *e = in[4], *f = in[5];
  float *u = out[0], *v = out[1], *w = out[2], *x = out[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const float near = b[i] + c[i], near_odd = kA * (b[i] - c[i]), far = d[i] + e[i], far_odd = kB * (d[i] - e[i]);
    u[i] = a[i] + near + far;
    v[i] = near_odd + far_odd;
    w[i] = kA2 * near + kB2 * far;
    x[i] = kA2 * near_odd + kB2 * far_odd + f[i];
  }
}

// to = [to +] from [+ bias], then optional ReLU, for the channels of a pixel.
BIDISEG_CLONES void finish_line(const float* from, const float* bias, bool add, bool relu, float* to,
                                int64_t channels) {
  const float lowest = relu ? 0.0f : -std::numeric_limits<float>::infinity();
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const float value = from[i] + bias[i] + (add ? to[i] : 0.0f);
    to[i] = value > lowest ? value : lowest;
  }
}

// First pixels of the tiles along an axis: every fourth pixel of each of `dilation` interleaved sets.
std::vector<int64_t> tile_starts(int64_t size, int64_t dilation) {
  std::vector<int64_t> starts;
  for (int64_t phase = 0; phase < std::min(dilation, size); ++phase) {
    for (int64_t start = phase; start < size; start += kOut * dilation) starts.push_back(start);
  }
  return starts;
}

}  // namespace

WinogradTiles::WinogradTiles(at::IntArrayRef input_size, int64_t dilation)
    : images_(input_size[0]),
      height_(input_size[2]),
      width_(input_size[3]),
      dilation_(dilation),
      rows_(tile_starts(height_, dilation)),
      columns_(tile_starts(width_, dilation)) {}

double WinogradTiles::cost() const {
  return static_cast<double>(kPoints * count()) / static_cast<double>(9 * images_ * height_ * width_);
}

at::Tensor WinogradTiles::weights(const at::Tensor& weight) {
  const at::Tensor g = at::zeros({kIn, 3}, at::kDouble);
  const auto set_row = [&g](int64_t row, double point, double product) {
    for (int64_t power = 0; power < 3; ++power) g[row][power] = std::pow(point, power) / product;
  };
  // The product of a point's distances from the other points.
  const double near = 2 * kA2 * (kA2 - kB2), far = 2 * kB2 * (kB2 - kA2);
  set_row(0, 0, kProduct);
  set_row(1, kA, near);
  set_row(2, -kA, near);
  set_row(3, kB, far);
  set_row(4, -kB, far);
  g[5][2] = 1;
  return at::einsum("ia,kcab,jb->ijkc", {g, weight.to(at::kDouble), g})
      .reshape({kPoints, weight.size(0), weight.size(1)})
      .to(at::kFloat);
}

void WinogradTiles::transform_input(const at::Tensor& input, int64_t first, at::Tensor& transformed) const {
  const int64_t channels = input.size(1), tiles = transformed.size(1);
  const auto across = static_cast<int64_t>(columns_.size()), down = static_cast<int64_t>(rows_.size());
  const float* from = input.const_data_ptr<float>();
  float* to = transformed.mutable_data_ptr<float>();
  at::parallel_for(0, tiles, 4, [&](int64_t begin, int64_t end) {
    alignas(64) std::array<float, kBlock> zeros{};
    alignas(64) std::array<float, kPoints * kBlock> columns;  // Bᵀ d
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t place = first + tile, image = place / (down * across);
      const int64_t top = rows_[static_cast<size_t>(place / across % down)] - dilation_;
      const int64_t left = columns_[static_cast<size_t>(place % across)] - dilation_;
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t block = std::min(kBlock, channels - c);
        for (int64_t j = 0; j < kIn; ++j) {
          std::array<const float*, kIn> in;
          std::array<float*, kIn> out;
          const int64_t x = left + j * dilation_;
          for (int64_t i = 0; i < kIn; ++i) {
            const int64_t y = top + i * dilation_;
            const bool inside = y >= 0 && y < height_ && x >= 0 && x < width_;
            in[i] = inside ? from + ((image * height_ + y) * width_ + x) * channels + c : zeros.data();
            out[i] = columns.data() + (i * kIn + j) * kBlock;
          }
          input_lines(in.data(), out.data(), block);
        }
        for (int64_t i = 0; i < kIn; ++i) {
          std::array<const float*, kIn> in;
          std::array<float*, kIn> out;
          for (int64_t j = 0; j < kIn; ++j) {
            in[j] = columns.data() + (i * kIn + j) * kBlock;
            out[j] = to + ((i * kIn + j) * tiles + tile) * channels + c;
          }
          input_lines(in.data(), out.data(), block);
        }
      }
    }
  });
}

void WinogradTiles::transform_output(const std::vector<at::Tensor>& products, int64_t first, const at::Tensor& bias,
                                     bool add, bool relu, at::Tensor& output) const {
  const int64_t channels = output.size(1), tiles = products[0].size(0);
  const auto across = static_cast<int64_t>(columns_.size()), down = static_cast<int64_t>(rows_.size());
  std::array<const float*, kPoints> from;
  for (size_t p = 0; p < from.size(); ++p) from[p] = products[p].const_data_ptr<float>();
  const float* biases = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float* to = output.mutable_data_ptr<float>();
  at::parallel_for(0, tiles, 4, [&](int64_t begin, int64_t end) {
    alignas(64) std::array<float, kBlock> zeros{};
    alignas(64) std::array<float, kOut * kIn * kBlock> columns;  // Aᵀ m
    alignas(64) std::array<float, kOut * kBlock> line;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t place = first + tile, image = place / (down * across);
      const int64_t top = rows_[static_cast<size_t>(place / across % down)];
      const int64_t left = columns_[static_cast<size_t>(place % across)];
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t block = std::min(kBlock, channels - c);
        for (int64_t j = 0; j < kIn; ++j) {
          std::array<const float*, kIn> in;
          std::array<float*, kOut> out;
          for (int64_t i = 0; i < kIn; ++i) in[i] = from[i * kIn + j] + tile * channels + c;
          for (int64_t i = 0; i < kOut; ++i) out[i] = columns.data() + (i * kIn + j) * kBlock;
          output_lines(in.data(), out.data(), block);
        }
        for (int64_t i = 0; i < kOut && top + i * dilation_ < height_; ++i) {
          std::array<const float*, kIn> in;
          std::array<float*, kOut> out;
          for (int64_t j = 0; j < kIn; ++j) in[j] = columns.data() + (i * kIn + j) * kBlock;
          for (int64_t j = 0; j < kOut; ++j) out[j] = line.data() + j * kBlock;
          output_lines(in.data(), out.data(), block);
          const int64_t y = top + i * dilation_;
          for (int64_t j = 0; j < kOut && left + j * dilation_ < width_; ++j) {
            const int64_t x = left + j * dilation_;
            finish_line(out[j], biases ? biases + c : zeros.data(), add, relu,
                        to + ((image * height_ + y) * width_ + x) * channels + c, block);
          }
        }
      }
    }
  });
}

}  // namespace bidiseg::kernels
