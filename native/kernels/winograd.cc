#include "kernels/winograd.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/clones.h"

namespace bidiseg::kernels {
namespace {

constexpr int64_t kIn = 6, kOut = 4;
constexpr int64_t kBlock = 64;  // channels at a time: a tile of them fits the first-level cache

// Polynomials are interpolated at 0, ±a, ±b and infinity. The usual points, 1 and 2, give three times the rounding
// error. All numbers that follow from 5/8 and 3/2 are exact in float.
template <typename Number>
struct Points {
  static constexpr Number a = 0.625, b = 1.5, a2 = a * a, b2 = b * b, product = a2 * b2, sum = a2 + b2;
  // Products of the distances of ±a and ±b from the other points.
  static constexpr Number near = 2 * a2 * (a2 - b2), far = 2 * b2 * (b2 - a2);
};

// out = Bᵀ in for each channel; six lines of channels each. This and the following are computed in double if one side
// is.
template <typename In, typename Out>
BIDISEG_CLONES void input_lines(const In* const* in, Out* const* out, int64_t channels) {
  using Number = std::common_type_t<In, Out>;
  using P = Points<Number>;
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const Number a = in[0][i], b = in[1][i], c = in[2][i], d = in[3][i], e = in[4][i], f = in[5][i];
    const Number near = e - P::b2 * c, near_odd = P::a * (d - P::b2 * b);
    const Number far = e - P::a2 * c, far_odd = P::b * (d - P::a2 * b);
    out[0][i] = P::product * a - P::sum * c + e;
    out[1][i] = near + near_odd;
    out[2][i] = near - near_odd;
    out[3][i] = far + far_odd;
    out[4][i] = far - far_odd;
    out[5][i] = P::product * b - P::sum * d + f;
  }
}

// out = Aᵀ in for each channel: six lines to four.
template <typename In, typename Out>
BIDISEG_CLONES void output_lines(const In* const* in, Out* const* out, int64_t channels) {
  using Number = std::common_type_t<In, Out>;
  using P = Points<Number>;
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const Number a = in[0][i], b = in[1][i], c = in[2][i], d = in[3][i], e = in[4][i], f = in[5][i];
    const Number near = b + c, near_odd = P::a * (b - c), far = d + e, far_odd = P::b * (d - e);
    out[0][i] = a + near + far;
    out[1][i] = near_odd + far_odd;
    out[2][i] = P::a2 * near + P::b2 * far;
    out[3][i] = P::a2 * near_odd + P::b2 * far_odd + f;
  }
}

// out = A in for each channel: four lines to six.
template <typename In, typename Out>
BIDISEG_CLONES void gradient_lines(const In* const* in, Out* const* out, int64_t channels) {
  using Number = std::common_type_t<In, Out>;
  using P = Points<Number>;
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const Number a = in[0][i], b = in[1][i], c = in[2][i], d = in[3][i];
    const Number near = a + P::a2 * c, near_odd = P::a * (b + P::a2 * d);
    const Number far = a + P::b2 * c, far_odd = P::b * (b + P::b2 * d);
    out[0][i] = a;
    out[1][i] = near + near_odd;
    out[2][i] = near - near_odd;
    out[3][i] = far + far_odd;
    out[4][i] = far - far_odd;
    out[5][i] = d;
  }
}

// out = G in for each channel: three lines to six.
template <typename In, typename Out>
BIDISEG_CLONES void weight_lines(const In* const* in, Out* const* out, int64_t channels) {
  using Number = std::common_type_t<In, Out>;
  using P = Points<Number>;
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const Number a = in[0][i], b = in[1][i], c = in[2][i];
    const Number near = (a + P::a2 * c) / P::near, near_odd = P::a / P::near * b;
    const Number far = (a + P::b2 * c) / P::far, far_odd = P::b / P::far * b;
    out[0][i] = a / P::product;
    out[1][i] = near + near_odd;
    out[2][i] = near - near_odd;
    out[3][i] = far + far_odd;
    out[4][i] = far - far_odd;
    out[5][i] = c;
  }
}

// out = Gᵀ in for each channel: six lines to three.
template <typename In, typename Out>
BIDISEG_CLONES void weight_gradient_lines(const In* const* in, Out* const* out, int64_t channels) {
  using Number = std::common_type_t<In, Out>;
  using P = Points<Number>;
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) {
    const Number a = in[0][i], b = in[1][i], c = in[2][i], d = in[3][i], e = in[4][i], f = in[5][i];
    const Number near = (b + c) / P::near, far = (d + e) / P::far;
    out[0][i] = a / P::product + near + far;
    out[1][i] = P::a / P::near * (b - c) + P::b / P::far * (d - e);
    out[2][i] = P::a2 * near + P::b2 * far + f;
  }
}

// One of the transforms above: from pixels, and from what lies between columns and rows.
template <typename Number>
struct Transform {
  void (*of_columns)(const float* const*, Number* const*, int64_t);
  void (*of_rows)(const Number* const*, float* const*, int64_t);
};

// `from` has a rows x a columns of lines. Transforms each column and then each row, which makes b lines of a. The line
// in row i and column j begins at `out(i, j)`.
template <size_t a, size_t b, typename Number, typename Out>
void transform_square(const std::array<const float*, a * a>& from, const Transform<Number>& transform, const Out& out,
                      int64_t channels) {
  alignas(64) std::array<Number, b * a * kBlock> columns;
  const auto column = [&](size_t i, size_t j) { return columns.data() + (i * a + j) * kBlock; };
  for (size_t j = 0; j < a; ++j) {
    std::array<const float*, a> in;
    std::array<Number*, b> to;
    for (size_t i = 0; i < a; ++i) in[i] = from[i * a + j];
    for (size_t i = 0; i < b; ++i) to[i] = column(i, j);
    transform.of_columns(in.data(), to.data(), channels);
  }
  for (size_t i = 0; i < b; ++i) {
    std::array<const Number*, a> in;
    std::array<float*, b> to;
    for (size_t j = 0; j < a; ++j) in[j] = column(i, j);
    for (size_t j = 0; j < b; ++j) to[j] = out(i, j);
    transform.of_rows(in.data(), to.data(), channels);
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

// Transforms side x side pixels of each tile, which are `dilation` apart. `corner` gives image, row and column of a
// tile's first pixel. Pixels outside the image are zeros.
template <int64_t side, typename Number, typename Corner>
void transform_pixels(const at::Tensor& images, int64_t dilation, const Transform<Number>& transform,
                      const Corner& corner, at::Tensor& transformed) {
  const int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  const int64_t tiles = transformed.size(1);
  const float* from = images.const_data_ptr<float>();
  float* to = transformed.mutable_data_ptr<float>();
  at::parallel_for(0, tiles, 4, [&](int64_t begin, int64_t end) {
    alignas(64) constexpr std::array<float, kBlock> zeros{};
    std::array<const float*, side * side> in;
    for (int64_t tile = begin; tile < end; ++tile) {
      const auto [image, top, left] = corner(tile);
      for (int64_t c = 0; c < channels; c += kBlock) {
        for (int64_t n = 0; n < side * side; ++n) {
          const int64_t y = top + n / side * dilation, x = left + n % side * dilation;
          const bool inside = y >= 0 && y < height && x >= 0 && x < width;
          in[static_cast<size_t>(n)] = inside ? from + ((image * height + y) * width + x) * channels + c : zeros.data();
        }
        transform_square<side, kIn>(
            in, transform,
            [&](size_t i, size_t j) { return to + (static_cast<int64_t>(i * kIn + j) * tiles + tile) * channels + c; },
            std::min(kBlock, channels - c));
      }
    }
  });
}

}  // namespace

WinogradTiles::WinogradTiles(at::IntArrayRef input_size, int64_t dilation, int64_t padding)
    : images_(input_size[0]),
      out_height_(input_size[2] + 2 * (padding - dilation)),
      out_width_(input_size[3] + 2 * (padding - dilation)),
      dilation_(dilation),
      padding_(padding),
      rows_(tile_starts(out_height_, dilation)),
      columns_(tile_starts(out_width_, dilation)) {}

double WinogradTiles::cost() const {
  return static_cast<double>(kPoints * count()) / static_cast<double>(9 * images_ * out_height_ * out_width_);
}

WinogradTiles::Place WinogradTiles::place(int64_t tile) const {
  const auto across = static_cast<int64_t>(columns_.size()), down = static_cast<int64_t>(rows_.size());
  return {tile / (down * across), rows_[static_cast<size_t>(tile / across % down)],
          columns_[static_cast<size_t>(tile % across)]};
}

at::Tensor WinogradTiles::weights(const at::Tensor& weight) {
  using P = Points<double>;
  const at::Tensor g = at::zeros({kIn, 3}, at::kDouble);
  const auto set_row = [&g](int64_t row, double point, double product) {
    for (int64_t power = 0; power < 3; ++power) g[row][power] = std::pow(point, power) / product;
  };
  set_row(0, 0, P::product);
  set_row(1, P::a, P::near);
  set_row(2, -P::a, P::near);
  set_row(3, P::b, P::far);
  set_row(4, -P::b, P::far);
  g[5][2] = 1;
  return at::einsum("ia,kcab,jb->ijkc", {g, weight.to(at::kDouble), g})
      .reshape({kPoints, weight.size(0), weight.size(1)})
      .to(at::kFloat);
}

void WinogradTiles::transform_weights(const at::Tensor& weight, bool turned, bool exact, at::Tensor& transformed) {
  const int64_t rows = weight.size(0), channels = weight.size(1);
  const float* from = weight.const_data_ptr<float>();
  float* to = transformed.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    alignas(64) std::array<float, 9 * kBlock> taps;
    std::array<const float*, 9> lines;
    for (size_t tap = 0; tap < lines.size(); ++tap) lines[tap] = taps.data() + tap * kBlock;
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t block = std::min(kBlock, channels - c);
        for (int64_t i = 0; i < block; ++i) {
          const float* nine = from + (k * channels + c + i) * 9;
          for (int64_t tap = 0; tap < 9; ++tap) taps[tap * kBlock + i] = nine[turned ? 8 - tap : tap];
        }
        const auto out = [&](size_t i, size_t j) {
          return to + (static_cast<int64_t>(i * kIn + j) * rows + k) * channels + c;
        };
        if (exact) {
          transform_square<3, kIn>(lines, Transform<double>{weight_lines, weight_lines}, out, block);
        } else {
          transform_square<3, kIn>(lines, Transform<float>{weight_lines, weight_lines}, out, block);
        }
      }
    }
  });
}

at::Tensor WinogradTiles::weights_gradient(const at::Tensor& transformed) {
  const int64_t rows = transformed.size(1), channels = transformed.size(2);
  at::Tensor gradient = at::empty({rows, channels, 3, 3}, transformed.options());
  const float* from = transformed.const_data_ptr<float>();
  float* to = gradient.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    alignas(64) std::array<float, 9 * kBlock> taps;
    std::array<const float*, kPoints> points;
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t block = std::min(kBlock, channels - c);
        for (int64_t p = 0; p < kPoints; ++p) points[p] = from + (p * rows + k) * channels + c;
        transform_square<kIn, 3>(
            points, Transform<float>{weight_gradient_lines, weight_gradient_lines},
            [&](size_t i, size_t j) { return taps.data() + (i * 3 + j) * kBlock; }, block);
        for (int64_t i = 0; i < block; ++i) {
          for (int64_t tap = 0; tap < 9; ++tap) to[(k * channels + c + i) * 9 + tap] = taps[tap * kBlock + i];
        }
      }
    }
  });
  return gradient;
}

void WinogradTiles::transform_input(const at::Tensor& input, int64_t first, bool exact, at::Tensor& transformed) const {
  const auto corner = [&](int64_t tile) {
    const auto [image, top, left] = place(first + tile);
    return std::array<int64_t, 3>{image, top - padding_, left - padding_};
  };
  if (exact) {
    transform_pixels<kIn>(input, dilation_, Transform<double>{input_lines, input_lines}, corner, transformed);
  } else {
    transform_pixels<kIn>(input, dilation_, Transform<float>{input_lines, input_lines}, corner, transformed);
  }
}

void WinogradTiles::transform_gradient(const at::Tensor& gradient, int64_t first, at::Tensor& transformed) const {
  const auto corner = [&](int64_t tile) {
    const auto [image, top, left] = place(first + tile);
    return std::array<int64_t, 3>{image, top, left};
  };
  transform_pixels<kOut>(gradient, dilation_, Transform<float>{gradient_lines, gradient_lines}, corner, transformed);
}

void WinogradTiles::transform_output(const at::Tensor& products, int64_t first, bool exact, const at::Tensor& bias,
                                     bool add, bool relu, at::Tensor& output) const {
  const int64_t channels = output.size(1), tiles = products.size(1);
  const float* from = products.const_data_ptr<float>();
  const float* biases = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float* to = output.mutable_data_ptr<float>();
  at::parallel_for(0, tiles, 4, [&](int64_t begin, int64_t end) {
    alignas(64) constexpr std::array<float, kBlock> zeros{};
    alignas(64) std::array<float, kOut * kOut * kBlock> pixels;
    std::array<const float*, kPoints> in;
    for (int64_t tile = begin; tile < end; ++tile) {
      const auto [image, top, left] = place(first + tile);
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t block = std::min(kBlock, channels - c);
        for (int64_t p = 0; p < kPoints; ++p) in[p] = from + (p * tiles + tile) * channels + c;
        const auto pixel = [&](size_t i, size_t j) { return pixels.data() + (i * kOut + j) * kBlock; };
        if (exact) {
          transform_square<kIn, kOut>(in, Transform<double>{output_lines, output_lines}, pixel, block);
        } else {
          transform_square<kIn, kOut>(in, Transform<float>{output_lines, output_lines}, pixel, block);
        }
        for (int64_t i = 0; i < kOut && top + i * dilation_ < out_height_; ++i) {
          for (int64_t j = 0; j < kOut && left + j * dilation_ < out_width_; ++j) {
            const int64_t y = top + i * dilation_, x = left + j * dilation_;
            finish_line(pixel(i, j), biases ? biases + c : zeros.data(), add, relu,
                        to + ((image * out_height_ + y) * out_width_ + x) * channels + c, block);
          }
        }
      }
    }
  });
}

}  // namespace bidiseg::kernels
