#include "core/models/activation_checkpoint.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/cancellation.h"
#include "core/models/pass_settings.h"

namespace bidiseg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Autocast settings of a thread. On CUDA the backward pass runs on a thread of its own.
class ThreadState {
 public:
  static ThreadState current(at::DeviceType device) {
    return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device),
            at::autocast::is_autocast_cache_enabled()};
  }
  // Without the cache of casts: casts made in no-grad mode have no graph, so that later passes must not reuse them.
  ThreadState without_cache() const { return {device_, autocast_, dtype_, false}; }
  void apply() const {
    at::autocast::set_autocast_enabled(device_, autocast_);
    at::autocast::set_autocast_dtype(device_, dtype_);
    at::autocast::set_autocast_cache_enabled(cache_);
  }

 private:
  ThreadState(at::DeviceType device, bool autocast, at::ScalarType dtype, bool cache)
      : device_(device), autocast_(autocast), dtype_(dtype), cache_(cache) {}

  at::DeviceType device_;
  bool autocast_;
  at::ScalarType dtype_;
  bool cache_;
};

class ThreadStateScope {
 public:
  ThreadStateScope(const ThreadState& state, at::DeviceType device, SegmentRun run)
      : before_(ThreadState::current(device)), run_(&PassSettings::segment_run, run) {
    state.apply();
  }
  ~ThreadStateScope() { before_.apply(); }
  ThreadStateScope(const ThreadStateScope&) = delete;
  ThreadStateScope& operator=(const ThreadStateScope&) = delete;

 private:
  ThreadState before_;
  PassSettingsScope run_;
};

struct SavedSegment : torch::CustomClassHolder {
  SavedSegment(Segment segment, ThreadState state) : segment(std::move(segment)), state(state) {}
  Segment segment;
  ThreadState state;
};

struct ActivationCheckpoint : torch::autograd::Function<ActivationCheckpoint> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Segment& segment) {
    const at::DeviceType device = x.device().type();
    const ThreadState state = ThreadState::current(device).without_cache();
    context->save_for_backward({x});
    context->saved_data["segment"] = c10::IValue::make_capsule(c10::make_intrusive<SavedSegment>(segment, state));
    const ThreadStateScope scope(state, device, SegmentRun::kFirst);
    return segment(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    const auto saved = c10::static_intrusive_pointer_cast<SavedSegment>(context->saved_data["segment"].toCapsule());
    const at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    at::AutoGradMode with_graph(true);
    const at::Tensor y = [&] {
      const ThreadStateScope scope(saved->state, x.device().type(), SegmentRun::kAgain);
      return saved->segment(x);
    }();
    torch::autograd::backward({y}, {upstream[0]});
    return {x.grad(), {}};
  }
};

}  // namespace

at::Tensor activation_checkpoint(const at::Tensor& x, const Segment& segment) {
  if (!at::GradMode::is_enabled()) return segment(x);
  // Autograd skips an operation without an input that needs a gradient, even if its parameters need one.
  const at::Tensor input = x.requires_grad() ? x : x.detach().requires_grad_();
  return cancellation_point(ActivationCheckpoint::apply(input, segment));
}

}  // namespace bidiseg
