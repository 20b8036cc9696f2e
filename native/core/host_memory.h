// What LibTorch takes of the host's memory: counted, and limited where somebody wants it so.
//
// LibTorch has one CPU allocator for the whole process, so all of this is the process's. Counted is what tensors hold;
// scratch memory inside oneDNN and small bookkeeping are not.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Puts a counting allocator in the place of LibTorch's own; what was allocated before is not counted. It takes large blocks
/// from a BlockHeap, which keeps what was freed, and small ones from LibTorch's. Idempotent.
void count_host_memory();

/// Memory that was kept for later goes back to the system. For when nothing computes: it has to be cleared anew.
void give_back_host_memory();

/// Bytes that tensors on the host hold.
int64_t host_memory_in_use();

inline constexpr int64_t kNoMemoryLimit = INT64_MAX;

/// An allocation with which more than this would be in use throws c10::OutOfMemoryError, with the sizes in its message.
/// Nothing is taken away from what is in use already.
void set_host_memory_limit(int64_t bytes);

/// For a scope, this thread may allocate so many bytes in all, whether or not it frees them; then InvalidArgument with
/// `complaint`. For work whose size an untrusted file decides.
class AllocationBudget {
 public:
  AllocationBudget(int64_t bytes, std::string complaint);
  ~AllocationBudget();
  AllocationBudget(const AllocationBudget&) = delete;
  AllocationBudget& operator=(const AllocationBudget&) = delete;

  /// Called for every allocation of the thread.
  static void spend(int64_t bytes);

 private:
  int64_t left_;
  std::string complaint_;
  AllocationBudget* outer_;
};

}  // namespace bidiseg
