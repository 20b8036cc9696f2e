#include "core/training/image_pool.h"

namespace bidiseg {

at::Tensor ImagePool::exchange(const at::Tensor& images) {
  if (size_ == 0) return images;
  std::vector<at::Tensor> result;
  for (const auto& image : images.unbind(0)) {
    if (static_cast<int64_t>(kept_.size()) < size_) {
      kept_.push_back(image.clone());
      result.push_back(image);
      continue;
    }
    // Bits of the engine rather than a std distribution: those differ between standard libraries.
    const uint64_t draw = random_();
    if (draw >> 63 == 0) {
      result.push_back(image);
    } else {
      at::Tensor& slot = kept_[(draw & 0x7fffffffffffffff) % static_cast<uint64_t>(size_)];
      result.push_back(std::exchange(slot, image.clone()));
    }
  }
  return at::stack(result);
}

}  // namespace bidiseg
