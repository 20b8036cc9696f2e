#pragma once

#include <string_view>

#include "core/distributed/process_group.h"
#include "core/errors.h"
#include "core/losses/segmentation.h"
#include "core/training/loss_scaler.h"
#include "core/training/optimizers.h"

namespace bidiseg {

/// Losses of a step, as numbers.
class LossValues {
 public:
  void set(const char* name, double value) { values_.emplace_back(name, value); }

  /// Value of a loss; 0 if the loss took no part in the step.
  double operator[](std::string_view name) const;

 private:
  std::vector<std::pair<const char*, double>> values_;
};

/// Losses of a step and what decides whether the step may be applied. All of it is collected on the device and read in
/// one transfer, the only time that a step waits for its device.
class StepChecks {
 public:
  /// Result of read().
  struct Result {
    LossValues losses;
    bool finite;  ///< whether all gradients are finite
  };

  /// `share`: factor of every loss in the result, 1 / n if each loss is given for n parts of a batch and averaged.
  explicit StepChecks(double share) : share_(share) {}

  /// Adds a scalar loss, or one batch part's term of it: terms of equal name are summed. `name` is also for messages.
  void loss(const char* name, const at::Tensor& loss);

  /// Labels that must be in range.
  void labels(const LabelCheck& check) { labels_.push_back(check); }

  /// Notes the current gradients of an optimizer's parameters for restore_gradients(). `name` is for messages.
  void gradients(const std::string& name, const Optimizer& optimizer);

  /// Attaches the noted gradients to their parameters again, for a replayed graph writes to them (see StepGraphs).
  void restore_gradients();

  /// The noted gradients.
  const std::vector<at::Tensor>& gradients() const { return gradients_; }

  /// Divides gradients by the scale, and notes whether they are finite.
  void check(const std::vector<at::Tensor>& gradients, const LossScaler& scaler);

  /// Waits for the device. Throws InvalidArgument for a label out of range and
  /// NonFiniteLoss for a loss that is NaN or infinite. A gradient that is NaN or infinite is a NonFiniteLoss only if
  /// the scale cannot be the reason. Call it once a step, after everything else.
  ///
  /// `others`: processes with the rest of the step, or null. Losses are then sums over all of them, as the gradients
  /// must be by now, and all throw if one has a reason to.
  Result read(const LossScaler& scaler, ProcessGroup* others);

 private:
  struct Loss {
    const char* name;
    at::Tensor sum;
  };
  /// `rank`: of the process that found it, or -1 without a group.
  [[noreturn]] void throw_non_finite_gradient(int64_t rank) const;

  double share_;
  std::vector<Loss> losses_;
  std::vector<LabelCheck> labels_;
  std::vector<std::string> gradient_names_;
  std::vector<at::Tensor> parameters_, gradients_;
  at::Tensor found_;  // not 0 if a gradient of this process is not finite
};

}  // namespace bidiseg
