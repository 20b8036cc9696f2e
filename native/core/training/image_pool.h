#pragma once

#include <random>

#include "core/named_tensors.h"

namespace bidiseg {

/// Pool of earlier fakes for D_F (Shrivastava et al. 2017). Until it is full, images are kept and returned. Afterwards
/// each image is returned or, with probability 1/2, replaces a random kept image, which is returned instead. A pool of
/// size 0 returns all images.
///
/// The draws can be reproduced. A full pool draws one 64-bit number for each image from std::mt19937_64(seed). If the
/// highest bit is 0 the image is returned. Otherwise the other 63 bits, modulo the size, are the index of the kept
/// image.
class ImagePool {
 public:
  ImagePool(int64_t size, uint64_t seed) : size_(size), seed_(seed), random_(seed) {}

  /// Images for D_F in place of `images`, which are [N, C, H, W] and detached.
  at::Tensor exchange(const at::Tensor& images);

  /// Kept images `0`, `1`, …, and `draws`, the number of draws, which determines the state of the engine.
  NamedTensors state() const;

  /// Pool of this size and seed with a restored state(), images as `options` say. Throws InvalidArgument for an invalid
  /// state.
  ImagePool resumed(const NamedTensors& state, const at::TensorOptions& options) const;

 private:
  int64_t size_;
  uint64_t seed_;
  std::mt19937_64 random_;
  int64_t draws_ = 0;
  std::vector<at::Tensor> kept_;
};

}  // namespace bidiseg
