#pragma once

#include <random>

#include "core/torch.h"

namespace bidiseg {

/// Mask of the pixels that ClassMix (Olsson et al. 2021) cuts out of each image: those of half of its classes, rounded
/// up, drawn at random. Labels uint8 [N, H, W] on the CPU -> bool [N, H, W]. `ignore_index` is not a class.
///
/// The draws can be reproduced. They are the first half of a shuffle of each image's n classes in ascending order: for
/// i = 0, 1, …, the class at i swaps places with the class at i + r mod (n - i), where r is the next 64-bit number of
/// `random`, and the class that is now at i is cut out.
at::Tensor class_mix_mask(const at::Tensor& labels, int64_t ignore_index, std::mt19937_64& random);

}  // namespace bidiseg
