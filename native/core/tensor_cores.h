// Tensor cores of CUDA devices, which compute products of shorter numbers.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Turns TensorFloat-32 off, which LibTorch has on for convolutions. A PrecisionScope turns it on where it was asked
/// for. Has an effect once, because another thread may be in such a scope later.
void turn_off_tf32();

/// True if convolutions on the device use tensor cores now: within a PrecisionScope of any precision but kFloat32.
bool uses_tensor_cores(at::Device device);

}  // namespace bidiseg
