// Sums of gradients over processes, sent while later gradients are still computed.
#pragma once

#include <set>

#include "core/distributed/process_group.h"
#include "core/models/network.h"

namespace bidiseg {

/// The sums of one step. All processes must send the same parameters in the same order.
class GradientSums {
 public:
  /// `prepare` is called with gradients that are complete, before they are sent.
  GradientSums(std::shared_ptr<ProcessGroup> group, std::function<void(const std::vector<at::Tensor>&)> prepare);
  /// If sums have started but were not finished, the group counts as failed.
  ~GradientSums();
  GradientSums(const GradientSums&) = delete;
  GradientSums& operator=(const GradientSums&) = delete;

  /// Starts the sums of all gradients that these parameters have after `last_backward`, the last backward pass that
  /// reaches them, and where possible during it. Parameters that were sent before are left out.
  void send(const std::vector<TrainedParameter>& parameters, const std::function<void()>& last_backward = [] {});

  /// Waits for all sums. They replace the gradients.
  void finish();

 private:
  struct Part;
  void start(const Part& part);

  std::shared_ptr<ProcessGroup> group_;
  std::function<void(const std::vector<at::Tensor>&)> prepare_;
  std::set<const void*> sent_;
  std::vector<std::shared_ptr<ProcessGroup::Pending>> pending_;
};

}  // namespace bidiseg
