#include "core/training/step.h"

#include <c10/util/ScopeExit.h>

#include "core/cancellation.h"
#include "core/errors.h"

namespace bidiseg {
namespace {

constexpr int64_t kIterationsBetweenComparisons = 100;

// Sum of the tensors' bits. Equal for equal tensors, however they lie in memory.
int64_t checksum_of(const NamedTensors& tensors) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> sums;
  for (const auto& [name, tensor] : tensors) {
    if (tensor.numel() == 0) continue;
    const int64_t bytes = tensor.element_size();
    const auto type = bytes == 8 ? at::kLong : bytes == 4 ? at::kInt : bytes == 2 ? at::kShort : at::kByte;
    sums.push_back(tensor.detach().contiguous().view(type).sum(at::kLong).cpu());
  }
  uint64_t checksum = 0;
  for (const at::Tensor& sum : sums) checksum = checksum * 31 + static_cast<uint64_t>(sum.item<int64_t>());
  return static_cast<int64_t>(checksum);
}

}  // namespace

Step::Step(const StepOptions& options, double loss_share, const Network& network)
    : options_(options),
      others_(options.group && options.group->size() > 1 ? options.group : nullptr),
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

void Step::use_network(const Network& network) {
  if (network.device() != device_) {
    throw InvalidArgument("Expected all networks of a step on one device but they are on " + device_.str() + " and " +
                          network.device().str());
  }
  used_networks_.push_back(&network);
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

LossValues Step::iterate(const std::function<void()>& compute_gradients, const std::function<void()>& apply,
                         const std::function<void(ProcessGroup&)>& combine) {
  if (others_ && iterations_++ % kIterationsBetweenComparisons == 0) compare_states();
  zero_grad();
  scaler_.prepare();
  is_computed_ = false;
  if (others_) {
    sums_ = std::make_unique<GradientSums>(
        others_, [this](const std::vector<at::Tensor>& gradients) { checks_.check(gradients, scaler_); });
  }
  const auto end_sums = c10::make_scope_exit([this] { sums_.reset(); });
  compute_gradients();
  complete_gradients();

  // Between the phases: gradients, losses and checks are complete, on the device, and nothing has been read or applied.
  StepChecks::Result result = checks_.read(scaler_, others_.get());
  if (!graphs_.enabled()) checks_ = StepChecks(loss_share_);
  throw_if_canceled();
  if (others_ && result.finite && combine) combine(*others_);

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

void Step::complete_gradients() {
  if (is_computed_) {
    for (const auto& [name, optimizer] : optimizers_) checks_.gradients(name, *optimizer);
  } else {
    checks_.restore_gradients();
  }
  if (!sums_) {
    checks_.check(checks_.gradients(), scaler_);
    return;
  }
  for (const auto& [name, optimizer] : optimizers_) sums_->send(optimizer->parameters());
  sums_->finish();
}

void Step::run_backward(const Optimizer& optimizer, bool is_last, const std::function<void()>& pass) {
  // A replayed graph makes all gradients before any can be sent.
  if (is_last && sums_ && !graphs_.enabled()) {
    sums_->send(optimizer.parameters(), pass);
  } else {
    pass();
  }
}

// The same sums and the same updates keep the processes equal. A difference means a broken machine or a bug.
void Step::compare_states() {
  const auto checksums = others_->gather_numbers({checksum_of(state())});
  for (size_t rank = 1; rank < checksums.size(); ++rank) {
    if (checksums[rank] == checksums[0]) continue;
    throw ProcessGroupError("The state of rank " + std::to_string(rank) +
                            " differs from that of rank 0; resume from the last checkpoint");
  }
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
