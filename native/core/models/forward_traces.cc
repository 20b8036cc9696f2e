#include "core/models/forward_traces.h"

namespace bidiseg {

// n passes with the momentum m make r = (1 - m)^n r0 + s, where s depends on the passes alone. So W processes, of which
// the one of rank k adds s_k, would have made (1 - m)^(nW) r0 + sum_k (1 - m)^(n (W - 1 - k)) s_k one after the other.
void ForwardTraces::combine(ProcessGroup& others) {
  if (counters_.now.empty()) return;
  const at::NoGradGuard no_grad;
  const at::Tensor passes = (at::stack(counters_.now) - at::stack(counters_.before)).cpu();
  const auto later = static_cast<double>(others.size() - 1 - others.rank());
  std::vector<at::Tensor> shares, firsts;
  for (const auto& module : network_.modules()) {
    const auto* norm = module->as<torch::nn::BatchNorm2d>();
    if (norm == nullptr) continue;
    const auto index_of = [](const Buffers& buffers, const at::Tensor& buffer) {
      const auto is_same = [&](const at::Tensor& other) { return other.is_same(buffer); };
      return std::find_if(buffers.now.begin(), buffers.now.end(), is_same) - buffers.now.begin();
    };
    const auto n = static_cast<double>(passes[index_of(counters_, norm->num_batches_tracked)].item<int64_t>());
    const double kept = std::pow(1 - norm->options.momentum().value(), n);
    for (const at::Tensor& running : {norm->running_mean, norm->running_var}) {
      const at::Tensor& before = statistics_.before[index_of(statistics_, running)];
      shares.push_back((running - kept * before) * std::pow(kept, later));
      firsts.push_back(before * std::pow(kept, static_cast<double>(others.size())));
    }
  }
  others.add(shares);
  size_t i = 0;
  for (const auto& module : network_.modules()) {
    const auto* norm = module->as<torch::nn::BatchNorm2d>();
    if (norm == nullptr) continue;
    for (at::Tensor running : {norm->running_mean, norm->running_var}) {
      running.copy_(firsts[i] + shares[i]);
      ++i;
    }
  }
  for (size_t c = 0; c < counters_.now.size(); ++c) {
    counters_.now[c].copy_(counters_.before[c] + (counters_.now[c] - counters_.before[c]) * others.size());
  }
}

}  // namespace bidiseg
