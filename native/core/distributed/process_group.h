// Processes that train together, over LibTorch's own engine c10d: Gloo on CPUs, NCCL on GPUs.
#pragma once

#include "core/torch.h"

namespace bidiseg {

struct ProcessGroupOptions {
  std::string backend;  ///< "gloo" or "nccl"
  int64_t rank;         ///< 0 to size - 1
  int64_t size;
  std::string store;       ///< "tcp", or "file" for processes that share a file system
  std::string host;        ///< tcp: where the store is
  int64_t port;            ///< tcp
  bool hosts_store;        ///< tcp: whether this process serves the store; torchrun's agent may do it instead
  std::string file;        ///< file: a new file, the same in all processes
  std::string name;        ///< prefix of keys in the store: groups of one name meet
  double timeout_seconds;  ///< of each operation, and of the start
};

/// The names of the backends that this build and this LibTorch have.
std::vector<std::string> process_group_backends();

/// A call that all processes of a group make together.
enum class GroupCall { kAdd, kAverage, kBroadcast, kAllGather, kBarrier };

/// A group of processes. All of them must make the same calls in the same order. An operation that fails throws
/// ProcessGroupError, which names the ranks that have not shown up since the timeout. The group cannot be used after
/// that.
class ProcessGroup {
 public:
  /// Waits for all processes.
  explicit ProcessGroup(const ProcessGroupOptions& options);
  ~ProcessGroup();

  int64_t rank() const { return options_.rank; }
  int64_t size() const { return options_.size; }
  const std::string& backend() const { return options_.backend; }

  /// Replaces each tensor by its sum over all processes. Small tensors of one dtype and device travel together, in
  /// buckets. All processes get the same bits. A tensor that comes twice counts once. After an error, the tensors may
  /// hold parts of the sum.
  void add(const std::vector<at::Tensor>& tensors);
  /// A collective that has started. Its tensors must not be used before finish().
  struct Pending;
  /// Starts add(). Until finish(), other collectives may run. All processes must start their sums in the same order.
  /// `name`: the call in the message of an error, here and below.
  std::shared_ptr<Pending> start_add(const std::vector<at::Tensor>& tensors, const char* name = "add");
  /// Starts all_gather(), likewise.
  std::shared_ptr<Pending> start_all_gather(const at::Tensor& tensor, const char* name = "allGather");
  /// Waits for the results, and returns those of a gather.
  std::vector<at::Tensor> finish(Pending& pending);
  /// Makes later calls fail: this process will not make the calls that the others wait for.
  void abandon();
  /// add(), divided by the number of processes.
  void average(const std::vector<at::Tensor>& tensors);
  /// Replaces each tensor by the one of `root`.
  void broadcast(const std::vector<at::Tensor>& tensors, int64_t root);
  /// The tensors of all processes, by rank. They must have one shape.
  std::vector<at::Tensor> all_gather(const at::Tensor& tensor) { return finish(*start_all_gather(tensor)); }
  /// Numbers of all processes, by rank; each has as many.
  std::vector<std::vector<int64_t>> gather_numbers(const std::vector<int64_t>& numbers, const char* name = "allGather");
  /// Returns when all processes have called it. Throws InvalidArgument, in all of them, if they are not about to make
  /// the same call with tensors of the same shapes, dtypes and kinds of device: Gloo would end the process. `root`:
  /// that of a broadcast. Steps do without, because they compare their states.
  void require_same(GroupCall call, const std::vector<at::Tensor>& tensors, int64_t root = -1);

  /// Bytes that this process has handed to collectives so far.
  int64_t bytes_sent() const { return bytes_sent_; }

 private:
  struct Engine;
  template <typename Operation>
  void run(const char* name, const Operation& operation);
  template <typename Start>
  std::shared_ptr<Pending> start(const char* name, const std::vector<at::Tensor>& tensors, const Start& start);
  /// Message for a failed operation, with the ranks that no longer report.
  std::string failure(const char* name, const char* reason);

  ProcessGroupOptions options_;
  std::unique_ptr<Engine> engine_;
  int64_t bytes_sent_ = 0;
};

}  // namespace bidiseg
