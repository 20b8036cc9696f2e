#pragma once

#include <random>

#include "core/torch.h"

namespace bidiseg {

/// Masked image consistency (MIC, Hoyer et al. 2023).
struct MaskingOptions {
  double ratio;   ///< probability that a patch is removed
  double patch;   ///< side of a patch as a share of the image's shorter side
  double weight;  ///< of the loss on masked images
  bool source;    ///< masks source images too, each domain for half of the loss
};

/// Mask of the pixels that stay in `count` images -> bool [N, H, W] on the CPU. Patches are squares of
/// max(1, round(patch * min(H, W))) pixels from the upper left corner on. The last ones of a row and column are cut.
///
/// The draws can be reproduced. The patches of an image take their turns row by row. A patch stays if the highest 53
/// bits of the next number of `random`, as a fraction from 0 to below 1, are at least the ratio.
at::Tensor patch_mask(int64_t count, int64_t height, int64_t width, const MaskingOptions& options,
                      std::mt19937_64& random);

}  // namespace bidiseg
