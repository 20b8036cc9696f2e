#pragma once

#include "core/errors.h"
#include "core/torch.h"

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

}  // namespace bidiseg
