#pragma once

#include "core/models/network.h"

namespace bidiseg {

/// A translator's network: RGB in [-1, 1] -> RGB in [-1, 1], [N, 3, H, W], H and W multiples of size_multiple().
class ImageGenerator : public Network {
 public:
  using Network::Network;
  virtual int64_t size_multiple() const = 0;

 protected:
  /// Throws InvalidArgument where H or W is no multiple of size_multiple().
  void check_size(const at::Tensor& input) const;
};

/// Generator output of any size: pads to what the generator can take, by reflection (by repeating the border where the image
/// is too small for that), and crops back, so that an image keeps its size (the reference turns 562 rows into 564).
at::Tensor generate_same_size(ImageGenerator& generator, const at::Tensor& input);

}  // namespace bidiseg
