// Test of the heap with random blocks in several threads: no block overlaps another, each keeps its content, and at the
// end free blocks have merged and go back to the system.
#include "core/block_heap.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

namespace {

using bidiseg::BlockHeap;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "block_heap: %s\n", what);
  std::exit(1);
}

struct Held {
  uint64_t* words;
  size_t count;
  uint64_t mark;
};

void fill(const Held& held) {
  for (size_t i = 0; i < held.count; i += 101) held.words[i] = held.mark + i;
  held.words[held.count - 1] = held.mark;
}

void check(const Held& held) {
  require(held.words[held.count - 1] == held.mark, "the end of a block was overwritten");
  for (size_t i = 0; i + 1 < held.count; i += 101) require(held.words[i] == held.mark + i, "a block was overwritten");
}

void take_and_release(BlockHeap& heap, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<Held> all;
  for (int i = 0; i < 3000; ++i) {
    if (all.size() < 24 && random() % 2 == 0) {
      // From a word to 16 MB, small ones more often; sometimes more than a new segment has.
      const size_t bytes = random() % 500 == 0 ? size_t{80} << 20 : 8 + random() % (size_t{1} << (4 + random() % 21));
      auto* const block = heap.allocate(bytes);
      require(block != nullptr, "no memory");
      require(reinterpret_cast<uintptr_t>(block) % BlockHeap::kPage == 0, "a block does not begin with a page");
      require(heap.size_of(block) >= bytes && heap.size_of(block) < bytes + BlockHeap::kPage,
              "a block of another size");
      all.push_back({static_cast<uint64_t*>(block), bytes / 8, random()});
      fill(all.back());
    } else if (!all.empty()) {
      std::swap(all[random() % all.size()], all.back());
      check(all.back());
      require(heap.release(all.back().words), "a block in use is unknown");
      all.pop_back();
    }
    if (random() % 200 == 0) heap.give_back();
  }
  for (const Held& held : all) {
    check(held);
    require(heap.release(held.words), "a block in use is unknown");
  }
}

}  // namespace

int main() {
  BlockHeap heap;
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 3; ++seed) threads.emplace_back(take_and_release, std::ref(heap), seed);
  for (auto& thread : threads) thread.join();
  heap.give_back();
  require(heap.mapped() == 0, "free blocks were not joined to whole segments");

  // Freed memory is used again without another mapping, in parts and as a whole.
  constexpr size_t kLarge = size_t{48} << 20;
  void* const large = heap.allocate(kLarge);
  const size_t mapped = heap.mapped();
  require(heap.release(large) && !heap.release(large) && heap.size_of(large) == 0, "a block was released twice");
  std::vector<void*> parts;
  for (int i = 0; i < 48; ++i) parts.push_back(heap.allocate(size_t{1} << 20));
  for (int i = 0; i < 48; i += 2) heap.release(parts[i]);
  for (int i = 1; i < 48; i += 2) heap.release(parts[i]);
  require(heap.allocate(kLarge) == large && heap.mapped() == mapped, "the same memory was not used again");

  int on_the_stack = 0;
  require(!heap.release(&on_the_stack) && heap.size_of(&on_the_stack) == 0,
          "an address of another was taken for a block");
  require(heap.allocate(SIZE_MAX) == nullptr, "2^64 bytes were granted");
  require(heap.allocate(size_t{1} << 46) == nullptr, "70 TB were granted");
  std::puts("block_heap: all well");
}
