#include "core/training/patch_mask.h"

namespace bidiseg {

at::Tensor patch_mask(int64_t count, int64_t height, int64_t width, const MaskingOptions& options,
                      std::mt19937_64& random) {
  const auto shorter = static_cast<double>(std::min(height, width));
  const int64_t side = std::max<int64_t>(1, std::llround(options.patch * shorter));
  const auto patches_along = [side](int64_t extent) { return (extent + side - 1) / side; };
  at::Tensor patches = at::empty({count, patches_along(height), patches_along(width)}, at::kBool);
  bool* stays = patches.data_ptr<bool>();
  for (int64_t i = 0; i < patches.numel(); ++i) {
    const double fraction = static_cast<double>(random() >> 11) / static_cast<double>(int64_t{1} << 53);
    stays[i] = fraction >= options.ratio;
  }
  const auto patch_of = [side](int64_t extent) { return at::arange(extent).div(side, "floor"); };
  return patches.index_select(1, patch_of(height)).index_select(2, patch_of(width));
}

}  // namespace bidiseg
