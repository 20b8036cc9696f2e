#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace bidiseg {

/// Heap for large tensors.
///
/// malloc maps every large block and unmaps it when it is freed. A training step allocates and frees the same gigabytes
/// each time, and each time the system would clear them page by page. This heap keeps them mapped until give_back(), in
/// huge pages if the system has any. It takes the smallest free block that is large enough and merges adjacent free
/// blocks. All functions are thread-safe.
class BlockHeap {
 public:
  static constexpr size_t kPage = 4096;

  BlockHeap() = default;
  ~BlockHeap();
  BlockHeap(const BlockHeap&) = delete;
  BlockHeap& operator=(const BlockHeap&) = delete;

  /// Allocates `bytes` > 0, rounded up to whole pages and aligned to a page. The content is undefined. Returns nullptr
  /// if the system has no more memory.
  void* allocate(size_t bytes);

  /// Size of a block in use; 0 for any other address.
  size_t size_of(const void* block) const;

  /// Frees a block. Returns whether `block` was in use.
  bool release(void* block);

  /// Unmaps free memory.
  void give_back();

  /// Bytes mapped, in use or free.
  size_t mapped() const;

 private:
  struct Block {
    size_t size;
    bool is_free;
    bool opens_segment;  // first block of its segment
  };
  using Blocks = std::map<char*, Block>;

  Blocks::iterator map_segment(size_t bytes);
  void give_back_locked();

  mutable std::mutex mutex_;
  Blocks blocks_;                            // all blocks by address; those of a segment are adjacent
  std::set<std::pair<size_t, char*>> free_;  // free blocks by size
  size_t mapped_ = 0;
};

}  // namespace bidiseg
