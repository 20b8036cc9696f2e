#include "core/training/gradient_sums.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

namespace bidiseg {
namespace {

// Bytes of gradients that are sent together. The last ones are sent when nothing is left to hide them behind, so fewer
// is better, until messages cost more than they carry.
constexpr int64_t kPartBytes = int64_t{4} << 20;

class Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit Hook(std::function<void()> call) : call_(std::move(call)) {}
  void operator()(const at::Tensor&) override { call_(); }

 private:
  std::function<void()> call_;
};

// Calls a function whenever the gradient of a parameter has arrived, for the lifetime of the scope.
class HookScope {
 public:
  void add(const at::Tensor& parameter, std::function<void()> call) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<Hook>(std::move(call)));
    parameters_.push_back(parameter);
  }
  HookScope() = default;
  ~HookScope() {
    for (const at::Tensor& parameter : parameters_) torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;

 private:
  std::vector<at::Tensor> parameters_;
};

}  // namespace

struct GradientSums::Part {
  std::vector<at::Tensor> parameters;
  int64_t bytes = 0;
  size_t arrived = 0;
};

GradientSums::GradientSums(std::shared_ptr<ProcessGroup> group,
                           std::function<void(const std::vector<at::Tensor>&)> prepare)
    : group_(std::move(group)), prepare_(std::move(prepare)) {}

GradientSums::~GradientSums() {
  if (!pending_.empty()) group_->abandon();
}

void GradientSums::send(const std::vector<TrainedParameter>& parameters, const std::function<void()>& last_backward) {
  // From the last parameter to the first, as a backward pass reaches them.
  std::vector<Part> parts;
  for (size_t i = parameters.size(); i-- > 0;) {
    const at::Tensor& parameter = parameters[i].value;
    if (!sent_.insert(parameter.unsafeGetTensorImpl()).second) continue;
    if (parts.empty() || parts.back().bytes >= kPartBytes) parts.emplace_back();
    parts.back().parameters.push_back(parameter);
    parts.back().bytes += static_cast<int64_t>(parameter.nbytes());
  }

  // Other processes may get their gradients in another order, so parts wait for those before them.
  size_t next = 0;
  {
    HookScope hooks;
    for (size_t i = 0; i < parts.size(); ++i) {
      for (const at::Tensor& parameter : parts[i].parameters) {
        hooks.add(parameter, [this, &parts, &next, i] {
          if (i < next) throw std::logic_error("a gradient changed after it was sent to the other processes");
          ++parts[i].arrived;
          while (next < parts.size() && parts[next].arrived == parts[next].parameters.size()) start(parts[next++]);
        });
      }
    }
    last_backward();
  }
  while (next < parts.size()) start(parts[next++]);
}

void GradientSums::start(const Part& part) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : part.parameters) {
    at::Tensor& gradient = parameter.mutable_grad();
    if (!gradient.defined()) continue;
    // The rest of the backward pass may read the same memory, where an operation hands on a view of its gradient.
    if (gradient.storage().use_count() > 1) gradient = gradient.clone();
    gradients.push_back(gradient);
  }
  prepare_(gradients);
  pending_.push_back(group_->start_add(gradients));
}

void GradientSums::finish() {
  for (const auto& sum : pending_) group_->finish(*sum);
  pending_.clear();
}

}  // namespace bidiseg
