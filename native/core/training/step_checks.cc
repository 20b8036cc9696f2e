#include "core/training/step_checks.h"

#include "kernels/upsampled_softmax.h"

namespace bidiseg {
namespace {

[[noreturn]] void throw_non_finite(const std::string& what, const std::string& is, int64_t rank) {
  const std::string of_rank = rank < 0 ? "" : " of rank " + std::to_string(rank);
  NonFiniteLoss error(what + of_rank + " " + is + "; the step was not applied");
  error.rank = rank;
  throw error;
}

}  // namespace

double LossValues::operator[](std::string_view name) const {
  for (const auto& [known, value] : values_) {
    if (known == name) return value;
  }
  return 0;
}

void StepChecks::loss(const char* name, const at::Tensor& loss) {
  for (auto& known : losses_) {
    if (std::string_view(known.name) != name) continue;
    known.sum = known.sum + loss.detach();
    return;
  }
  losses_.push_back({name, loss.detach()});
}

void StepChecks::gradients(const std::string& name, const Optimizer& optimizer) {
  for (const auto& parameter : optimizer.parameters()) {
    if (!parameter.value.grad().defined()) continue;
    parameters_.push_back(parameter.value);
    gradients_.push_back(parameter.value.grad());
    gradient_names_.push_back(name + "'s " + parameter.name);
  }
}

void StepChecks::restore_gradients() {
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients_[i];
}

void StepChecks::check(const std::vector<at::Tensor>& gradients, const LossScaler& scaler) {
  if (gradients.empty()) return;
  if (!found_.defined()) found_ = at::zeros({}, gradients.front().options().dtype(at::kFloat));
  // The kernel of gradient scalers, for a scale of 1 too: it takes one pass, on the CPU a tenth of the time of norms.
  at::_amp_foreach_non_finite_check_and_unscale_(gradients, found_, scaler.inverse());
}

StepChecks::Result StepChecks::read(const LossScaler& scaler, ProcessGroup* others) {
  std::vector<at::Tensor> scalars;
  for (const auto& loss : losses_) scalars.push_back(loss.sum);
  for (const auto& labels : labels_) scalars.push_back(labels.invalid_label);
  const bool with_gradients = found_.defined();
  if (with_gradients) scalars.push_back(std::exchange(found_, {}));
  if (scalars.empty()) return {{}, true};
  const at::Tensor own = at::stack(scalars).to(at::kCPU, at::kDouble);
  const std::vector<at::Tensor> values = others != nullptr ? others->all_gather(own) : std::vector<at::Tensor>{own};
  const auto value = [&](size_t rank, size_t index) { return values[rank].const_data_ptr<double>()[index]; };

  LossValues losses;
  for (size_t i = 0; i < losses_.size(); ++i) {
    double sum = 0;
    for (size_t rank = 0; rank < values.size(); ++rank) sum += value(rank, i);
    losses.set(losses_[i].name, share_ * sum);
  }
  for (size_t i = 0; i < labels_.size(); ++i) {
    for (size_t rank = 0; rank < values.size(); ++rank) {
      // kNoInvalidLabel is a power of two, which every dtype holds. A label is read again for all of its digits.
      const double label = value(rank, losses_.size() + i);
      if (label == static_cast<double>(kernels::kNoInvalidLabel)) continue;
      if (others == nullptr) labels_[i].throw_if_invalid();
      std::ostringstream text;
      text << "Rank " << rank << ": expected labels from 0 to " << labels_[i].class_count - 1 << " or the ignore index "
           << labels_[i].ignore_index << " but found " << label;
      throw InvalidArgument(text.str());
    }
  }
  for (size_t i = 0; i < losses_.size(); ++i) {
    const double sum = losses[losses_[i].name];
    if (std::isfinite(sum)) continue;
    size_t rank = 0;
    while (rank + 1 < values.size() && std::isfinite(value(rank, i))) ++rank;
    throw_non_finite(std::string("The ") + losses_[i].name + " loss", "is " + std::to_string(sum),
                     others != nullptr ? static_cast<int64_t>(rank) : -1);
  }
  size_t rank = 0;  // of the first process with a gradient that is not finite
  while (with_gradients && rank < values.size() && value(rank, scalars.size() - 1) == 0) ++rank;
  const bool finite = !with_gradients || rank == values.size();
  if (!finite && !scaler.may_overflow()) {
    throw_non_finite_gradient(others != nullptr ? static_cast<int64_t>(rank) : -1);
  }
  return {std::move(losses), finite};
}

void StepChecks::throw_non_finite_gradient(int64_t rank) const {
  size_t first = 0;
  while (first + 1 < gradients_.size() && parameters_[first].grad().isfinite().all().item<bool>()) ++first;
  throw_non_finite("The gradient of the " + gradient_names_[first], "has values that are NaN or infinite", rank);
}

}  // namespace bidiseg
