#pragma once

#include <random>

#include "core/torch.h"

namespace bidiseg {

/// Which pixels of each image ClassMix (Olsson et al. 2021) cuts out: those of half of its classes, rounded up, chosen at
/// random. Labels uint8 [N, H, W] on the CPU -> bool [N, H, W]; a label of `ignore_index` is no class.
///
/// Anyone can replay the choices: of each image's classes, ascending, the i-th place (i = 0, 1, … below half of the count)
/// is swapped with the one that lies (a 64-bit draw modulo the places from i on) behind it; what then stands there is
/// cut out.
at::Tensor class_mix_mask(const at::Tensor& labels, int64_t ignore_index, std::mt19937_64& random);

}  // namespace bidiseg
