#include "core/models/image_generator.h"

#include "core/errors.h"

namespace bidiseg {

void ImageGenerator::check_size(const at::Tensor& input) const {
  const int64_t multiple = size_multiple();
  if (input.size(2) % multiple == 0 && input.size(3) % multiple == 0) return;
  throw InvalidArgument("Expected an image height and width that are multiples of " + std::to_string(multiple) +
                        " for the generator but received " + std::to_string(input.size(2)) + " x " +
                        std::to_string(input.size(3)));
}

at::Tensor generate_same_size(ImageGenerator& generator, const at::Tensor& input) {
  const int64_t height = input.size(2), width = input.size(3), multiple = generator.size_multiple();
  const int64_t bottom = (multiple - height % multiple) % multiple, right = (multiple - width % multiple) % multiple;
  if (bottom == 0 && right == 0) return generator.forward(input);
  const std::array<int64_t, 4> margin = {0, right, 0, bottom};
  const at::Tensor padded =
      bottom < height && right < width ? at::reflection_pad2d(input, margin) : at::replication_pad2d(input, margin);
  return generator.forward(padded).narrow(2, 0, height).narrow(3, 0, width);
}

}  // namespace bidiseg
