#pragma once

#include <cstdint>

namespace bidiseg {

/// Seed of the draws for the micro-batch at `place` in step `step`, whoever computes it. The bits of all three are
/// mixed as in SplitMix64 (Steele et al. 2014).
inline uint64_t draw_seed(uint64_t seed, int64_t step, int64_t place) {
  const auto mixed = [](uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  };
  return mixed(mixed(mixed(seed) + static_cast<uint64_t>(step)) + static_cast<uint64_t>(place));
}

}  // namespace bidiseg
