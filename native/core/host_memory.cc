#include "core/host_memory.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <atomic>

#include "core/block_heap.h"
#include "core/errors.h"

namespace bidiseg {
namespace {

std::atomic<int64_t> in_use{0};
std::atomic<int64_t> limit{kNoMemoryLimit};
thread_local AllocationBudget* budget = nullptr;

#if defined(__SANITIZE_ADDRESS__)
// The address sanitizer would see no bounds within blocks of the heap.
constexpr size_t kLeastHeapBlock = SIZE_MAX;
#else
/// Smaller blocks are kept by malloc itself.
constexpr size_t kLeastHeapBlock = size_t{256} << 10;
#endif

// Never destroyed: tensors outlive static destructors.
BlockHeap& heap() {
  static auto* const result = new BlockHeap;
  return *result;
}

// Usable size: the only size that is known both at allocation and at release.
int64_t size_of(void* block) {
  const size_t size = heap().size_of(block);
  return static_cast<int64_t>(size > 0 ? size : malloc_usable_size(block));
}

[[noreturn]] void throw_out_of_memory(const char* what, size_t bytes, const std::string& reason) {
  TORCH_CHECK_WITH(OutOfMemoryError, false, "out of memory: ", what, " of ", bytes,
                   " bytes was asked for while tensors hold ", host_memory_in_use(), " bytes; ", reason);
}

/// Counts `bytes` that are about to be allocated. Throws if they would exceed the limit.
void count_checked(const char* what, int64_t bytes) {
  // Adds first and checks then, because several threads may allocate at once.
  const int64_t allowed = limit.load(std::memory_order_relaxed);
  const int64_t before = in_use.fetch_add(bytes, std::memory_order_relaxed);
  if (bytes <= allowed - std::min(before, allowed)) return;
  in_use.fetch_sub(bytes, std::memory_order_relaxed);
  throw_out_of_memory(what, static_cast<size_t>(bytes), "the limit is " + std::to_string(allowed) + " bytes");
}

class CountingAllocator final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    // More than a signed size can hold: LibTorch's own allocator throws a suitable error.
    const auto wanted = static_cast<int64_t>(std::min(bytes, static_cast<size_t>(INT64_MAX)));
    AllocationBudget::spend(wanted);
    count_checked("a tensor", wanted);
    try {
      at::DataPtr data = bytes < kLeastHeapBlock ? from_malloc(bytes) : from_heap(bytes);
      in_use.fetch_add(size_of(data.get()) - wanted, std::memory_order_relaxed);
      return data;
    } catch (const c10::Error&) {
      in_use.fetch_sub(wanted, std::memory_order_relaxed);
      throw_out_of_memory("a tensor", bytes, "the system has no more");
    }
  }

  at::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  at::DataPtr from_malloc(size_t bytes) {
    at::DataPtr data = base_.allocate(bytes);
    TORCH_INTERNAL_ASSERT(data.get() == nullptr || data.compare_exchange_deleter(base_.raw_deleter(), &release));
    return data;
  }

  static at::DataPtr from_heap(size_t bytes) {
    void* const block = heap().allocate(bytes);
    TORCH_CHECK(block != nullptr, "the system has no room for ", bytes, " bytes");
    return {block, block, &release, at::kCPU};
  }

  static void release(void* block) {
    in_use.fetch_sub(size_of(block), std::memory_order_relaxed);
    if (!heap().release(block)) c10::GetDefaultCPUAllocator()->raw_deleter()(block);
  }

  at::Allocator& base_ = *c10::GetDefaultCPUAllocator();
};

}  // namespace

void count_host_memory() {
  // Never destroyed: tensors outlive static destructors, and the library stays loaded as long as the process (-z
  // nodelete).
  static auto* const allocator = [] {
    auto* result = new CountingAllocator;
    c10::SetCPUAllocator(result);
    return result;
  }();
  (void)allocator;
}

void give_back_host_memory() {
  heap().give_back();
#if defined(__GLIBC__)
  // glibc keeps what its arenas have freed, one arena a thread. After a load of images that may be 200 MiB.
  malloc_trim(0);
#endif
}

void give_back_large_blocks() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

int64_t host_memory_in_use() { return in_use.load(std::memory_order_relaxed); }

void set_host_memory_limit(int64_t bytes) { limit.store(bytes, std::memory_order_relaxed); }

HostMemoryReservation::HostMemoryReservation(int64_t bytes) : bytes_(bytes) { count_checked("a copy", bytes); }

HostMemoryReservation::~HostMemoryReservation() { in_use.fetch_sub(bytes_, std::memory_order_relaxed); }

AllocationBudget::AllocationBudget(int64_t bytes, std::string complaint)
    : left_(bytes), complaint_(std::move(complaint)), outer_(std::exchange(budget, this)) {}

AllocationBudget::~AllocationBudget() { budget = outer_; }

void AllocationBudget::spend(int64_t bytes) {
  if (budget == nullptr) return;
  if (bytes > budget->left_) throw InvalidArgument(budget->complaint_);
  budget->left_ -= bytes;
}

}  // namespace bidiseg
