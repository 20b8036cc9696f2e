#pragma once

#include <random>

#include "core/named_tensors.h"

namespace bidiseg {

/// A pool of earlier fakes for D_F (Shrivastava et al. 2017): while it fills, images pass through and are kept; then
/// each image either passes through or, with probability 1/2, takes the place of a random kept one, which is returned
/// instead. Size 0 passes everything through.
///
/// Anyone can replay the choices: a full pool draws one 64-bit number for each image in turn, from std::mt19937_64(seed).
/// The image passes where its highest bit is 0; else the other 63 bits, modulo the size, are the place in the pool.
class ImagePool {
 public:
  ImagePool(int64_t size, uint64_t seed) : size_(size), seed_(seed), random_(seed) {}

  /// [N, C, H, W] detached -> the same shape.
  at::Tensor exchange(const at::Tensor& images);

  /// The kept images, `0`, `1`, …, and `draws`: how many numbers were drawn, from which the engine's state follows.
  NamedTensors state() const;

  /// A pool of this size and seed that goes on from a state(), images on `device`; InvalidArgument for what is none.
  ImagePool resumed(const NamedTensors& state, at::Device device) const;

 private:
  int64_t size_;
  uint64_t seed_;
  std::mt19937_64 random_;
  int64_t draws_ = 0;
  std::vector<at::Tensor> kept_;
};

}  // namespace bidiseg
