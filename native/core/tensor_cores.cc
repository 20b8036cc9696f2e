#include "core/tensor_cores.h"

#include <ATen/autocast_mode.h>

namespace bidiseg {

void turn_off_tf32() { [[maybe_unused]] static const bool once = (at::globalContext().setAllowTF32CuDNN(false), true); }

bool uses_tensor_cores(at::Device device) {
  return device.is_cuda() && (at::autocast::is_autocast_enabled(at::kCUDA) || at::globalContext().allowTF32CuDNN());
}

}  // namespace bidiseg
