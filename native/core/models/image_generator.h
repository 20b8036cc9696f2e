#pragma once

#include "core/models/network.h"

namespace bidiseg {

/// Network of a translator: RGB in [-1, 1] -> RGB in [-1, 1], [N, 3, H, W], H and W multiples of size_multiple().
class ImageGenerator : public Network {
 public:
  using Network::Network;
  virtual int64_t size_multiple() const = 0;

 protected:
  /// Throws InvalidArgument if H or W is not a multiple of size_multiple().
  void check_size(const at::Tensor& input) const;
};

/// Generator output for images of any size, with the same size. It pads the image to multiples of size_multiple() and
/// crops the output. Padding reflects the image; an image too small for that repeats its border. (The reference turns
/// 562 rows into 564.)
at::Tensor generate_same_size(ImageGenerator& generator, const at::Tensor& input);

}  // namespace bidiseg
