// Base class of the training steps: the order of an iteration, the state, and updates that are all applied or none.
#pragma once

#include "core/distributed/process_group.h"
#include "core/models/convolution.h"
#include "core/training/gradient_sums.h"
#include "core/training/optimizers.h"
#include "core/training/precision.h"
#include "core/training/step_checks.h"
#include "core/training/step_graphs.h"

namespace bidiseg {

/// Options of every training step.
struct StepOptions {
  Precision precision;
  ConvolutionMethod convolutions;
  bool loss_scaling;                    ///< see LossScaler
  bool cuda_graphs;                     ///< CUDA: record forward and backward passes and replay them, see StepGraphs
  std::shared_ptr<ProcessGroup> group;  ///< processes that compute the step together; null: this one alone
};

/// How the passes of a step compute, for the lifetime of the scope.
struct ComputationScope {
  PrecisionScope precision;
  PassSettingsScope convolutions;
};

/// Base class of the training steps. One iteration has three phases:
///
///   1. Gradients: forward and backward passes leave gradients, losses and checks on the device.
///   2. Read: one transfer gives the losses and whether the step may be applied.
///   3. Apply: all updates, or none.
///
/// If an exception ends phase 1 or 2 (NonFiniteLoss, Canceled, ...), everything is as before the step. If the gradients
/// overflow at the current loss scale, the step returns its losses but changes only that scale.
///
/// With a process group, each process computes its share of the micro-batches. Gradients are summed, where possible
/// while others are still computed. In phase 2, all processes learn of the losses and checks of all, so that they
/// decide alike. So every process makes the same updates, and the step is that of one process with all micro-batches.
class Step {
 public:
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  virtual ~Step() = default;

  /// Everything that later steps depend on: networks, optimizers, the loss scale and what a subclass adds. The tensors
  /// share storage with the step, unless stated otherwise. Throws std::runtime_error if an exception, such as one for
  /// memory, interrupted phase 3: some updates were made and others were not.
  virtual NamedTensors state() const;

  /// Restores the state() of a step with the same networks and options; see copy_tensors().
  virtual void load_state(NamedTensors state);

  /// All networks that the step runs, frozen ones included. Nothing else may use them while the step is under way.
  const std::vector<const Network*>& used_networks() const { return used_networks_; }

 protected:
  /// `loss_share`: share of each loss in the step's loss, 1 / n for the mean over n parts of the batches of all
  /// processes. `network`: one of the step's networks. Throws InvalidArgument if it cannot be computed in the precision
  /// or recorded as a CUDA graph.
  Step(const StepOptions& options, double loss_share, const Network& network);

  /// Makes tensors part of the state, with `prefix` before their names.
  void add_state(std::string prefix, std::function<NamedTensors()> tensors);

  /// Makes a network part of used_networks() and its tensors part of the state.
  void add_network(const std::string& name, std::shared_ptr<const Network> network);

  /// Makes a network part of used_networks() alone. The step must keep it alive. Throws InvalidArgument if it is on
  /// another device than the step.
  void use_network(const Network& network);

  /// Makes an optimizer and the gradients of its parameters part of the step. `name` is the name of its networks in
  /// messages. In the state the optimizer is `name`_optimizer.
  Optimizer& add_optimizer(const std::string& name, std::unique_ptr<Optimizer> optimizer);

  /// Selects the stream of CUDA graphs for the rest of the step, see StepGraphs.
  StepGraphs::StepScope begin_step() { return graphs_.begin_step(); }

  /// Runs one iteration. `compute_gradients` does so in calls of run_piece(). `apply` makes all updates. With other
  /// processes, `combine` is called before it for what they combine besides gradients.
  LossValues iterate(const std::function<void()>& compute_gradients, const std::function<void()>& apply,
                     const std::function<void(ProcessGroup&)>& combine = {});

  /// Runs forward and backward passes that can be recorded as one CUDA graph, see StepGraphs::run(). Backward passes
  /// start with loss_gradient(), and checks() takes the losses.
  void run_piece(size_t piece, const std::vector<at::Tensor*>& inputs, const std::function<void()>& passes);

  /// Runs a backward pass. `is_last`: no later one of this iteration reaches the parameters of `optimizer`, and this
  /// one adds to each gradient once. With other processes, their gradients are then sent while it runs.
  void run_backward(const Optimizer& optimizer, bool is_last, const std::function<void()>& pass);

  const at::Tensor& loss_gradient() const { return scaler_.loss_gradient(); }
  StepChecks& checks() { return checks_; }
  ComputationScope computation_scope() const {
    return {PrecisionScope(options_.precision, device_),
            PassSettingsScope(&PassSettings::convolutions, options_.convolutions)};
  }

  /// Other processes that compute the step too; null if there are none.
  ProcessGroup* others() const { return others_.get(); }
  int64_t process_count() const { return others_ ? others_->size() : 1; }
  int64_t rank() const { return others_ ? others_->rank() : 0; }

  static constexpr const char* kWrongState = "the state does not fit the step";

 private:
  void zero_grad();
  void complete_gradients();
  void compare_states();

  StepOptions options_;
  std::shared_ptr<ProcessGroup> others_;
  int64_t iterations_ = 0;
  double loss_share_;
  at::Device device_;
  std::vector<const Network*> used_networks_;
  std::vector<std::pair<std::string, std::function<NamedTensors()>>> state_;
  std::vector<std::pair<std::string, std::unique_ptr<Optimizer>>> optimizers_;
  LossScaler scaler_;
  StepGraphs graphs_;
  std::unique_ptr<GradientSums> sums_;  // with other processes, during an iteration
  StepChecks checks_;                   // with CUDA graphs it refers to their tensors and outlives a step
  bool is_computed_ = false;            // whether passes of this iteration have run, rather than been replayed
  bool is_half_applied_ = false;
};

}  // namespace bidiseg
