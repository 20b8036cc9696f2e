// Subset of CUDA's language that runs kernels on the CPU. The threads of a block are threads; blocks run one after the
// other. It is slow, but it finds wrong results on a machine without a GPU and, with ThreadSanitizer, races and missing
// barriers.
#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __forceinline__ inline

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
inline thread_local std::barrier<>* block_barrier = nullptr;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dsub_rn(double a, double b) { return a - b; }

inline long long atomicMax(long long* at, long long value) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const long long before = *at;
  *at = std::max(before, value);
  return before;
}

namespace cuda_on_cpu {

inline void each_block(dim3 grid, auto&& run) {
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) run(dim3{x, y, z});
    }
  }
}

/// Launches a kernel whose threads wait for each other.
template <typename... Parameters, typename... Arguments>
void launch_with_barriers(dim3 grid, unsigned threads, void (*kernel)(Parameters...), Arguments... arguments) {
  each_block(grid, [&](dim3 block) {
    std::barrier<> barrier(threads);
    std::vector<std::jthread> team;
    for (unsigned thread = 0; thread < threads; ++thread) {
      team.emplace_back([&, thread] {
        threadIdx = {thread, 0, 0};
        blockIdx = block;
        blockDim = {threads, 1, 1};
        gridDim = grid;
        block_barrier = &barrier;
        kernel(arguments...);
      });
    }
  });
}

/// Launches a kernel without barriers.
template <typename... Parameters, typename... Arguments>
void launch(dim3 grid, unsigned threads, void (*kernel)(Parameters...), Arguments... arguments) {
  each_block(grid, [&](dim3 block) {
    for (unsigned thread = 0; thread < threads; ++thread) {
      threadIdx = {thread, 0, 0};
      blockIdx = block;
      blockDim = {threads, 1, 1};
      gridDim = grid;
      kernel(arguments...);
    }
  });
}

}  // namespace cuda_on_cpu
