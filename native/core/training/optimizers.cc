#include "core/training/optimizers.h"

#include <cmath>
#include <map>

namespace bidiseg {

Optimizer::Optimizer(std::vector<TrainedParameter> parameters) : parameters_(std::move(parameters)) {
  std::map<std::pair<double, int>, std::vector<size_t>> groups;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    values_.push_back(parameters_[i].value);
    groups[{parameters_[i].learning_rate_factor, parameters_[i].reference_repeats}].push_back(i);
  }
  for (auto& [key, indices] : groups) groups_.push_back({key.first, key.second, std::move(indices)});
}

void Optimizer::step(double learning_rate) {
  at::NoGradGuard no_grad;
  for (const auto& group : groups_) {
    std::vector<size_t> with_gradient;
    for (const size_t i : group.indices) {
      if (values_[i].grad().defined()) with_gradient.push_back(i);
    }
    if (with_gradient.empty()) continue;
    step_group(with_gradient, group.repeats, learning_rate * group.learning_rate_factor);
    // LibTorch's fused kernels do not change the versions of tensors, which FusedConvolution depends on.
    for (const size_t i : with_gradient) values_[i].unsafeGetTensorImpl()->bump_version();
  }
}

void Optimizer::zero_grad() {
  for (auto& value : values_) value.mutable_grad().reset();
}

NamedTensors Optimizer::named(const std::string& kind, const std::vector<at::Tensor>& tensors) const {
  NamedTensors result;
  for (size_t i = 0; i < tensors.size(); ++i) result.emplace_back(kind + "." + parameters_[i].name, tensors[i]);
  return result;
}

std::vector<at::Tensor> Optimizer::select(const std::vector<at::Tensor>& all, const std::vector<size_t>& indices) {
  std::vector<at::Tensor> result;
  result.reserve(indices.size());
  for (const size_t i : indices) result.push_back(all[i]);
  return result;
}

namespace {

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& values) {
  std::vector<at::Tensor> result;
  result.reserve(values.size());
  for (const auto& value : values) result.push_back(value.grad());
  return result;
}

}  // namespace

Sgd::Sgd(std::vector<TrainedParameter> parameters, const SgdOptions& options)
    : Optimizer(std::move(parameters)), options_(options) {
  // With zeros the first update needs no special case: momentum * 0 + g = g.
  for (const auto& value : values_) momentum_.push_back(at::zeros_like(value));
}

NamedTensors Sgd::state() const { return named("momentum_buffer", momentum_); }

void Sgd::step_group(const std::vector<size_t>& indices, int repeats, double learning_rate) {
  auto values = select(values_, indices);
  auto gradients = gradients_of(values);
  auto momentum = select(momentum_, indices);
  const int moves = options_.repeated_step ? repeats : 1;
  double decay = options_.weight_decay;
  if (moves > 1 && decay != 0) {
    for (auto& gradient : gradients) gradient = gradient.clone();  // the parameter's own gradient must not change
  }
  for (int move = 0; move < moves; ++move) {
    if (moves > 1 && options_.weight_decay != 0) {
      at::_foreach_add_(gradients, values, options_.weight_decay);
      decay = 0;
    }
    // Without momentum the kernel requires an empty list.
    at::_fused_sgd_(values, gradients, options_.momentum == 0 ? std::vector<at::Tensor>() : momentum, decay,
                    options_.momentum, learning_rate, /*dampening=*/0.0, /*nesterov=*/false, /*maximize=*/false,
                    /*is_first_step=*/false);
  }
}

Adam::Adam(std::vector<TrainedParameter> parameters, const AdamOptions& options)
    : Optimizer(std::move(parameters)), options_(options) {
  for (const auto& value : values_) {
    mean_.push_back(at::zeros_like(value));
    square_.push_back(at::zeros_like(value));
    steps_.push_back(at::zeros({}, value.options().dtype(at::kFloat)));
  }
}

NamedTensors Adam::state() const {
  NamedTensors state = named("exp_avg", mean_);
  append(state, "", named("exp_avg_sq", square_));
  append(state, "", named("step", steps_));
  return state;
}

void Adam::step_group(const std::vector<size_t>& indices, int /*repeats*/, double learning_rate) {
  auto values = select(values_, indices);
  auto gradients = gradients_of(values);
  auto mean = select(mean_, indices);
  auto square = select(square_, indices);
  auto steps = select(steps_, indices);
  at::_foreach_add_(steps, 1);
  const auto move = [&](auto values, auto gradients, auto mean, auto square, auto steps, double eps) {
    at::_fused_adam_(values, gradients, mean, square, /*max_exp_avg_sqs=*/{}, steps, learning_rate, options_.beta1,
                     options_.beta2, options_.weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false);
  };
  if (!options_.early_epsilon) {
    move(values, gradients, mean, square, steps, options_.eps);
    return;
  }
  // √c m / (√v + ε) = m / (√(v / c) + ε / √c) for the bias correction c = 1 - β₂ᵗ of v.
  const at::Tensor counts = at::stack(steps).to(at::kCPU, at::kDouble);
  for (size_t i = 0; i < values.size(); ++i) {
    const double correction = 1 - std::pow(options_.beta2, counts.const_data_ptr<double>()[i]);
    const auto one = [i](const std::vector<at::Tensor>& all) { return at::TensorList(&all[i], 1); };
    move(one(values), one(gradients), one(mean), one(square), one(steps), options_.eps / std::sqrt(correction));
  }
}

}  // namespace bidiseg
