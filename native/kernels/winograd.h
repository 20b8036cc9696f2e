// 3x3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016).
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

namespace bidiseg::kernels {

/// 4x4 tiles of the output of a convolution with stride 1. Neighbors in a tile are `dilation` pixels apart, so that a
/// dilated convolution is an ordinary one on each of dilation² sets of pixels.
///
/// A tile of the output is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for weights g and a 6x6 tile d of the input. Summed over channels,
/// the product ⊙ is 36 matrix products over all tiles, [tiles, C]·[C, K], which the caller computes. The gradient of
/// the weights is Gᵀ[Σ (A e Aᵀ) ⊙ (Bᵀ d B)]G for gradients e of the tiles, and the sum is 36 products [K,
/// tiles]·[tiles, C]. All tensors are float32 on the CPU; images are channels_last. Transforms with `exact` are
/// computed in double and rounded once.
class WinogradTiles {
 public:
  static constexpr int64_t kPoints = 36;

  WinogradTiles(at::IntArrayRef input_size, int64_t dilation, int64_t padding);

  int64_t count() const { return images_ * static_cast<int64_t>(rows_.size() * columns_.size()); }

  /// Size of the output with `channels`.
  std::array<int64_t, 4> output_size(int64_t channels) const { return {images_, channels, out_height_, out_width_}; }

  /// Multiplications of the 36 products relative to those of the convolution: 1/4, or more if tiles reach past the
  /// output.
  double cost() const;

  /// G g Gᵀ [36, K, C] of weights [K, C, 3, 3], rounded once.
  static at::Tensor weights(const at::Tensor& weight);

  /// Writes G g Gᵀ of contiguous weights to `transformed` [36, K, C]. `turned` turns them by half a turn. Faster than
  /// weights().
  static void transform_weights(const at::Tensor& weight, bool turned, bool exact, at::Tensor& transformed);

  /// Gᵀ u G [K, C, 3, 3] of u [36, K, C].
  static at::Tensor weights_gradient(const at::Tensor& transformed);

  /// Writes Bᵀ d B of the tiles from `first` on to `transformed` [36, tiles, C].
  void transform_input(const at::Tensor& input, int64_t first, bool exact, at::Tensor& transformed) const;

  /// Writes A e Aᵀ of the same tiles to `transformed` [36, tiles, K]. `gradient` is that of the output.
  void transform_gradient(const at::Tensor& gradient, int64_t first, at::Tensor& transformed) const;

  /// Writes Aᵀ m A of the same tiles to `output` for m [36, tiles, K]. Adds `bias` [K], which may be undefined; with
  /// `add`, the present content of `output`; then applies ReLU with `relu`.
  void transform_output(const at::Tensor& products, int64_t first, bool exact, const at::Tensor& bias, bool add,
                        bool relu, at::Tensor& output) const;

 private:
  // First pixel of a tile of the output.
  struct Place {
    int64_t image, top, left;
  };
  Place place(int64_t tile) const;

  int64_t images_, out_height_, out_width_, dilation_, padding_;
  std::vector<int64_t> rows_, columns_;  // first pixels of the tiles
};

}  // namespace bidiseg::kernels
