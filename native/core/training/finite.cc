#include "core/training/finite.h"

#include <limits>

namespace bidiseg {

void check_gradients(std::initializer_list<std::pair<const char*, const Optimizer*>> optimizers) {
  std::vector<at::Tensor> gradients;
  std::vector<std::string> names;
  for (const auto& [name, optimizer] : optimizers) {
    if (optimizer == nullptr) continue;
    for (const auto& parameter : optimizer->parameters()) {
      if (!parameter.value.grad().defined()) continue;
      gradients.push_back(parameter.value.grad());
      names.push_back(std::string(name) + "'s " + parameter.name);
    }
  }
  if (gradients.empty()) return;
  // The maximum norm: it hands on NaN, and unlike the Euclidean one it is infinite only where a value is.
  const auto largest = at::_foreach_norm(gradients, std::numeric_limits<double>::infinity());
  const at::Tensor finite = at::stack(largest).isfinite().cpu();
  if (finite.all().item<bool>()) return;
  const auto first = finite.logical_not().nonzero()[0].item<int64_t>();
  throw NonFiniteLoss("The gradient of the " + names[static_cast<size_t>(first)] +
                      " is not finite: its largest value is " +
                      std::to_string(largest[static_cast<size_t>(first)].item<double>()) + "; the step was not applied");
}

}  // namespace bidiseg
