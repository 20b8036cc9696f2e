#include "core/models/running_statistics.h"

#include "core/errors.h"
#include "core/models/forward_traces.h"

namespace bidiseg {
namespace {

// Sets the momentum of all BatchNorm layers for the lifetime of the scope.
class MomentumScope {
 public:
  MomentumScope(const Network& network, double momentum) {
    for (const auto& module : network.modules()) {
      auto* norm = module->as<torch::nn::BatchNorm2d>();
      if (!norm) continue;
      had_.emplace_back(norm, norm->options.momentum());
      norm->options.momentum(momentum);
    }
  }
  ~MomentumScope() {
    for (const auto& [norm, momentum] : had_) norm->options.momentum(momentum);
  }
  MomentumScope(const MomentumScope&) = delete;
  MomentumScope& operator=(const MomentumScope&) = delete;

  bool empty() const { return had_.empty(); }

 private:
  std::vector<std::pair<torch::nn::BatchNorm2dImpl*, std::optional<double>>> had_;
};

}  // namespace

void update_running_statistics(Network& network, const at::Tensor& input, double momentum) {
  const MomentumScope scope(network, momentum);
  if (scope.empty()) throw InvalidArgument("Expected a network with BatchNorm; it has no running statistics");
  const at::NoGradGuard no_grad;
  const TrainingScope training(network);
  ForwardTraces traces(network);
  network.forward(input);
  traces.keep();
}

void combine_running_statistics(Network& network, int64_t own, int64_t all, ProcessGroup& group) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> shares, statistics;
  for (at::Tensor& buffer : network.buffers()) {
    if (buffer.is_floating_point()) {
      shares.push_back(buffer * (static_cast<double>(own) / static_cast<double>(all)));
      statistics.push_back(buffer);
    } else {
      buffer.add_(all - own);  // batches
    }
  }
  group.add(shares);
  if (!shares.empty()) at::_foreach_copy_(statistics, shares);
}

}  // namespace bidiseg
