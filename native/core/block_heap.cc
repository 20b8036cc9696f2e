#include "core/block_heap.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace bidiseg {
namespace {

constexpr size_t kLeastSegment = size_t{64} << 20;

}  // namespace

BlockHeap::~BlockHeap() {
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    char* const segment = block->first;
    size_t size = 0;
    do size += block->second.size;
    while (++block != blocks_.end() && !block->second.opens_segment);
    munmap(segment, size);
  }
}

void* BlockHeap::allocate(size_t bytes) {
  if (bytes > SIZE_MAX - kPage) return nullptr;
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  const std::lock_guard lock(mutex_);
  const auto found = free_.lower_bound({size, nullptr});
  const auto block = found == free_.end() ? map_segment(size) : blocks_.find(found->second);
  if (block == blocks_.end()) return nullptr;
  free_.erase({block->second.size, block->first});
  block->second.is_free = false;
  if (const size_t rest = block->second.size - size; rest > 0) {
    block->second.size = size;
    const auto next = blocks_.emplace_hint(std::next(block), block->first + size, Block{rest, true, false});
    free_.emplace(rest, next->first);
  }
  return block->first;
}

size_t BlockHeap::size_of(const void* address) const {
  const std::lock_guard lock(mutex_);
  const auto block = blocks_.find(static_cast<char*>(const_cast<void*>(address)));
  return block == blocks_.end() || block->second.is_free ? 0 : block->second.size;
}

bool BlockHeap::release(void* address) {
  const std::lock_guard lock(mutex_);
  auto block = blocks_.find(static_cast<char*>(address));
  if (block == blocks_.end() || block->second.is_free) return false;
  block->second.is_free = true;
  if (!block->second.opens_segment && std::prev(block)->second.is_free) {
    --block;
    free_.erase({block->second.size, block->first});
  }
  // Merges the free blocks that follow: the released block, the free block after it, or both.
  for (auto next = std::next(block); next != blocks_.end() && next->second.is_free && !next->second.opens_segment;
       next = blocks_.erase(next)) {
    free_.erase({next->second.size, next->first});
    block->second.size += next->second.size;
  }
  free_.emplace(block->second.size, block->first);
  return true;
}

void BlockHeap::give_back() {
  const std::lock_guard lock(mutex_);
  give_back_locked();
}

size_t BlockHeap::mapped() const {
  const std::lock_guard lock(mutex_);
  return mapped_;
}

// Maps a new segment as one free block. Returns blocks_.end() if the system has no room for `size`.
BlockHeap::Blocks::iterator BlockHeap::map_segment(size_t size) {
  const auto map = [](size_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  };
  // Segments grow with the memory in use. Untouched pages cost nothing, and blocks of different segments cannot merge.
  size_t bytes = std::max({size, kLeastSegment, mapped_ / 2 / kPage * kPage});
  void* segment = map(bytes);
  if (segment == MAP_FAILED) {
    give_back_locked();
    bytes = size;
    segment = map(bytes);
    if (segment == MAP_FAILED) return blocks_.end();
  }
  // Only advice: without huge pages the heap is slower.
  madvise(segment, bytes, MADV_HUGEPAGE);
  mapped_ += bytes;
  const auto block = blocks_.emplace(static_cast<char*>(segment), Block{bytes, true, true}).first;
  free_.emplace(bytes, block->first);
  return block;
}

void BlockHeap::give_back_locked() {
  for (auto entry = free_.begin(); entry != free_.end();) {
    const auto [size, address] = *entry;
    const auto block = blocks_.find(address);
    const auto next = std::next(block);
    const bool whole_segment = block->second.opens_segment && (next == blocks_.end() || next->second.opens_segment);
    if (!whole_segment) {
      madvise(address, size, MADV_DONTNEED);
      ++entry;
      continue;
    }
    munmap(address, size);
    mapped_ -= size;
    blocks_.erase(block);
    entry = free_.erase(entry);
  }
}

}  // namespace bidiseg
