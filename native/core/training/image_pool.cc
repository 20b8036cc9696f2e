#include "core/training/image_pool.h"

#include "core/errors.h"

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
    // Bits of the engine, because std distributions differ between standard libraries.
    const uint64_t draw = random_();
    ++draws_;
    if (draw >> 63 == 0) {
      result.push_back(image);
    } else {
      at::Tensor& slot = kept_[(draw & 0x7fffffffffffffff) % static_cast<uint64_t>(size_)];
      result.push_back(std::exchange(slot, image.clone()));
    }
  }
  return at::stack(result);
}

NamedTensors ImagePool::state() const {
  NamedTensors state = {{"draws", at::scalar_tensor(draws_, at::kLong)}};
  for (size_t i = 0; i < kept_.size(); ++i) state.emplace_back(std::to_string(i), kept_[i]);
  return state;
}

ImagePool ImagePool::resumed(const NamedTensors& state, const at::TensorOptions& options) const {
  constexpr int64_t kMaxDraws = int64_t{1} << 36;  // takes a minute to skip, and no training comes near
  ImagePool pool(size_, seed_);
  int64_t draws = -1;
  for (const auto& [name, tensor] : state) {
    if (name == "draws" && tensor.numel() == 1) {
      draws = tensor.item<int64_t>();
    } else if (name == std::to_string(pool.kept_.size()) && tensor.dim() == 3) {
      pool.kept_.push_back(tensor.to(options, /*non_blocking=*/false, /*copy=*/true));
    } else {
      throw InvalidArgument("'" + name + "' does not belong in the state of an image pool");
    }
  }
  if (draws < 0 || draws > kMaxDraws || static_cast<int64_t>(pool.kept_.size()) > size_) {
    throw InvalidArgument("the state of an image pool has " + std::to_string(pool.kept_.size()) + " images of " +
                          std::to_string(size_) + " and " + std::to_string(draws) + " draws");
  }
  pool.random_.discard(static_cast<uint64_t>(draws));
  pool.draws_ = draws;
  return pool;
}

}  // namespace bidiseg
