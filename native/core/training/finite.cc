#include "core/training/finite.h"

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
  // The kernel of gradient scalers, with a scale of 1: one pass, on the CPU ten times as quick as norms.
  const auto options = gradients.front().options().dtype(at::kFloat);
  at::Tensor found = at::zeros({}, options);
  at::_amp_foreach_non_finite_check_and_unscale_(gradients, found, at::ones({}, options));
  if (found.item<float>() == 0) return;
  size_t first = 0;
  while (first + 1 < gradients.size() && gradients[first].isfinite().all().item<bool>()) ++first;
  throw NonFiniteLoss("The gradient of the " + names[first] +
                      " has values that are NaN or infinite; the step was not applied");
}

}  // namespace bidiseg
