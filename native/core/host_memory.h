// Accounting and limit of LibTorch's host memory.
//
// LibTorch has one CPU allocator per process, so all of this is per process. Memory of tensors is counted; scratch
// memory inside oneDNN and small bookkeeping are not.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Replaces LibTorch's allocator by a counting one. Earlier allocations are not counted. Large blocks come from a
/// BlockHeap, which keeps freed memory, and small ones from LibTorch's allocator. Idempotent.
void count_host_memory();

/// Returns free memory of the heap, and of malloc, to the system. Call it while nothing computes: the system clears
/// memory that it maps again.
void give_back_host_memory();

/// From now on, malloc returns each block of a MiB and more to the system when it is freed. glibc otherwise raises this
/// limit to the size of the blocks that it sees, and what lies between such blocks keeps their memory. For the whole
/// process.
void give_back_large_blocks();

/// Bytes of tensors in host memory.
int64_t host_memory_in_use();

inline constexpr int64_t kNoMemoryLimit = INT64_MAX;

/// Limits host_memory_in_use(). An allocation that would exceed the limit throws c10::OutOfMemoryError with the sizes
/// in its message. Memory already in use stays.
void set_host_memory_limit(int64_t bytes);

/// Counts memory outside of tensors, such as copies of images that wait for their turn, while it exists. The
/// constructor throws c10::OutOfMemoryError where an allocation of as many bytes would.
class HostMemoryReservation {
 public:
  explicit HostMemoryReservation(int64_t bytes);
  ~HostMemoryReservation();
  HostMemoryReservation(const HostMemoryReservation&) = delete;
  HostMemoryReservation& operator=(const HostMemoryReservation&) = delete;

 private:
  int64_t bytes_;
};

/// Limits the bytes that this thread allocates within a scope, including those that it frees. Beyond it, allocations
/// throw InvalidArgument with `complaint`. For work whose size an untrusted file determines.
class AllocationBudget {
 public:
  AllocationBudget(int64_t bytes, std::string complaint);
  ~AllocationBudget();
  AllocationBudget(const AllocationBudget&) = delete;
  AllocationBudget& operator=(const AllocationBudget&) = delete;

  /// Called for each allocation of the thread.
  static void spend(int64_t bytes);

 private:
  int64_t left_;
  std::string complaint_;
  AllocationBudget* outer_;
};

}  // namespace bidiseg
