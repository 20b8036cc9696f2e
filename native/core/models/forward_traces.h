#pragma once

#include "core/distributed/process_group.h"
#include "core/models/network.h"

namespace bidiseg {

/// Restores what forward passes in training mode change, running statistics and the random generator, unless keep() is
/// called. For work that may fail after its forward passes.
class ForwardTraces {
 public:
  explicit ForwardTraces(const Network& network) : network_(network) {
    if (!network.is_training()) return;
    // By dtype, because one call copies tensors of one dtype in one operation.
    for (const auto& buffer : network.buffers()) (buffer.is_floating_point() ? statistics_ : counters_).add(buffer);
    for (auto* buffers : {&statistics_, &counters_}) buffers->copy(buffers->now, buffers->before);
    generator_ = network.generator();
    if (generator_.defined()) random_before_ = generator_.get_state();
  }
  ~ForwardTraces() {
    if (kept_) return;
    for (auto* buffers : {&statistics_, &counters_}) buffers->copy(buffers->before, buffers->now);
    if (generator_.defined()) generator_.set_state(random_before_);
  }
  ForwardTraces(const ForwardTraces&) = delete;
  ForwardTraces& operator=(const ForwardTraces&) = delete;

  void keep() { kept_ = true; }

  /// Makes the running statistics those of one process that made the passes of all processes, rank 0's first. All made
  /// as many.
  void combine(ProcessGroup& others);

 private:
  struct Buffers {
    std::vector<at::Tensor> now, before;

    void add(const at::Tensor& buffer) {
      now.push_back(buffer);
      before.push_back(at::empty_like(buffer));
    }
    static void copy(const std::vector<at::Tensor>& from, std::vector<at::Tensor>& to) {
      at::NoGradGuard no_grad;
      if (!from.empty()) at::_foreach_copy_(to, from);
    }
  };

  const Network& network_;
  Buffers statistics_, counters_;
  at::Generator generator_;
  at::Tensor random_before_;
  bool kept_ = false;
};

}  // namespace bidiseg
