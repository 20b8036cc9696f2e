#include "core/training/step.h"

#include "core/cancellation.h"

namespace bidiseg {

Step::Step(const StepOptions& options, double loss_share, const Network& network)
    : options_(options),
      loss_share_(loss_share),
      device_(network.device()),
      scaler_(options.loss_scaling, loss_share, at::dtype(network.dtype()).device(device_)),
      graphs_(options.cuda_graphs, network),
      checks_(loss_share) {
  require_precision(options.precision, network);
}

void Step::add_state(std::string prefix, std::function<NamedTensors()> tensors) {
  state_.emplace_back(std::move(prefix), std::move(tensors));
}

void Step::add_network(const std::string& name, std::shared_ptr<const Network> network) {
  use_network(*network);
  add_state(name + ".", [network = std::move(network)] { return state_of(*network); });
}

Optimizer& Step::add_optimizer(const std::string& name, std::unique_ptr<Optimizer> optimizer) {
  Optimizer& added = *optimizers_.emplace_back(name, std::move(optimizer)).second;
  add_state(name + "_optimizer.", [&added] { return added.state(); });
  return added;
}

LossValues Step::iterate(const std::function<void()>& compute_gradients, const std::function<void()>& apply) {
  zero_grad();
  scaler_.prepare();
  is_computed_ = false;
  compute_gradients();
  if (is_computed_) {
    for (const auto& [name, optimizer] : optimizers_) checks_.gradients(name, *optimizer);
  } else {
    checks_.restore_gradients();
  }

  // Between the phases: gradients, losses and checks are complete, on the device, and nothing has been read or applied.
  StepChecks::Result result = checks_.read(scaler_);
  if (!graphs_.enabled()) checks_ = StepChecks(loss_share_);
  throw_if_canceled();

  scaler_.update(result.finite);
  if (result.finite) {
    is_half_applied_ = true;
    apply();
    is_half_applied_ = false;
  }
  zero_grad();
  return std::move(result.losses);
}

void Step::run_piece(size_t piece, const std::vector<at::Tensor*>& inputs, const std::function<void()>& passes) {
  graphs_.run(piece, inputs, [&] {
    if (!is_computed_) checks_ = StepChecks(loss_share_);
    is_computed_ = true;
    passes();
  });
}

void Step::zero_grad() {
  for (const auto& [name, optimizer] : optimizers_) optimizer->zero_grad();
}

NamedTensors Step::state() const {
  if (is_half_applied_) {
    throw std::runtime_error("the last step was interrupted while it was applied; its state cannot be used");
  }
  NamedTensors state;
  for (const auto& [prefix, tensors] : state_) append(state, prefix, tensors());
  append(state, "loss_scaler.", scaler_.state());
  return state;
}

void Step::load_state(NamedTensors state) { copy_tensors(Step::state(), state, kWrongState); }

}  // namespace bidiseg
