#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace bidiseg {

/// Where the memory of large tensors comes from.
///
/// malloc maps each large block anew and unmaps it when it is freed. A training step takes and frees the same gigabytes
/// every time, and every time the system would clear them page by page. Here they stay mapped until give_back(), in huge
/// pages where there are any. The smallest free block that is large enough is taken; neighbors that are free are one block.
/// Any thread.
class BlockHeap {
 public:
  static constexpr size_t kPage = 4096;

  BlockHeap() = default;
  ~BlockHeap();
  BlockHeap(const BlockHeap&) = delete;
  BlockHeap& operator=(const BlockHeap&) = delete;

  /// `bytes` > 0 rounded up to whole pages, at the beginning of one; what they hold is left open. nullptr where the system
  /// has no more.
  void* allocate(size_t bytes);

  /// The size of a block in use; 0 for any other address.
  size_t size_of(const void* block) const;

  /// Whether `block` was one in use.
  bool release(void* block);

  /// What no block uses goes back to the system.
  void give_back();

  /// Bytes mapped, in use or not.
  size_t mapped() const;

 private:
  struct Block {
    size_t size;
    bool is_free;
    bool opens_segment;  // what lies before it was mapped at another time
  };
  using Blocks = std::map<char*, Block>;

  Blocks::iterator map_segment(size_t bytes);
  void give_back_locked();

  mutable std::mutex mutex_;
  Blocks blocks_;                            // all, by address: a segment's lie side by side
  std::set<std::pair<size_t, char*>> free_;  // those that are free
  size_t mapped_ = 0;
};

}  // namespace bidiseg
