#pragma once

#include "core/errors.h"
#include "core/training/optimizers.h"

namespace bidiseg {

/// The value of a scalar loss; throws NonFiniteLoss naming it where it is NaN or infinite.
inline double finite_value(const char* name, const at::Tensor& loss) {
  const double value = loss.item<double>();
  if (!std::isfinite(value)) {
    throw NonFiniteLoss(std::string("The ") + name + " loss is " + std::to_string(value) +
                        "; the step was not applied");
  }
  return value;
}

/// Throws NonFiniteLoss naming a parameter whose gradient has a value that is NaN or infinite. Optimizers may be null;
/// their names are for the message. Waits for the device once.
void check_gradients(std::initializer_list<std::pair<const char*, const Optimizer*>> optimizers);

}  // namespace bidiseg
