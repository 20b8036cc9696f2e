// Comparison of matrix products on the CPU (kernels/products.h) with LibTorch's in double, on random shapes and
// strides, and of their bits with one, two and three threads, and alone and among other images. usage: cpu_products
// [TRIALS [SEED]]. Exits with 1 if an error exceeds its bound.
#include "kernels/products.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace bidiseg::kernels {
namespace {

class Trial {
 public:
  explicit Trial(std::mt19937_64& random) : random_(random) {}

  // Largest error by the bound for rounding, (K + 1) epsilon |a| |b|. Infinite if bits differ or the surroundings of
  // `out` have changed.
  double run() {
    const int64_t rows = size(), images = draw(1, 3), depth = size(), columns = size();
    const at::Tensor a = matrix(images * rows, depth), b = matrix(depth, columns);
    return std::max(error_of_one(a, b, rows), error_of_each(draw(1, 4), rows, depth, columns));
  }

 private:
  int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }

  // Often at or beside a multiple of a block's size.
  int64_t size() {
    if (draw(0, 1) == 0) return draw(1, 40);
    return std::max<int64_t>(1, draw(1, 6) * (draw(0, 1) == 0 ? 96 : 16) + draw(-1, 1));
  }

  // By rows, by columns, or every second element of either.
  at::Tensor matrix(int64_t rows, int64_t columns) {
    switch (draw(0, 3)) {
      case 0: return at::randn({rows, columns});
      case 1: return at::randn({columns, rows}).t();
      case 2: return at::randn({rows, columns + draw(0, 9)}).narrow(1, 0, columns);
      default: return at::randn({rows, 2 * columns}).slice(1, 0, 2 * columns, 2);
    }
  }

  static double error(const at::Tensor& ours, const at::Tensor& a, const at::Tensor& b, const at::Tensor& start) {
    const at::Tensor a64 = a.to(at::kDouble), b64 = b.to(at::kDouble), start64 = start.to(at::kDouble);
    const double steps = static_cast<double>(a.size(-1)) + 1;
    const at::Tensor bound = (at::matmul(a64.abs(), b64.abs()) + start64.abs()) * steps * 6e-8 + 1e-30;
    return ((ours.to(at::kDouble) - at::matmul(a64, b64) - start64).abs() / bound).max().item<double>();
  }

  double error_of_one(const at::Tensor& a, const at::Tensor& b, int64_t rows_of_image) {
    const int64_t rows = a.size(0), columns = b.size(1), beside = draw(0, 5);
    at::Tensor first;
    for (const int threads : {1, 2, 3}) {
      at::set_num_threads(threads);
      const at::Tensor whole = at::full({rows, columns + beside}, 7.0);
      at::Tensor out = whole.narrow(1, 0, columns);
      multiply(a, b, rows_of_image, out);
      if (!whole.narrow(1, columns, beside).eq(7).all().item<bool>()) return differs("written beside the product");
      if (first.defined() && !first.equal(out)) return differs("other bits with other threads");
      first = out;
    }
    at::Tensor alone = at::empty({rows_of_image, columns});
    multiply(a.narrow(0, rows - rows_of_image, rows_of_image), b, rows_of_image, alone);
    if (!alone.equal(first.narrow(0, rows - rows_of_image, rows_of_image))) return differs("other bits alone");
    return error(first, a, b, at::zeros({1}));
  }

  double error_of_each(int64_t count, int64_t rows, int64_t depth, int64_t columns) {
    const bool turns = draw(0, 1) == 0, add = draw(0, 1) == 0, in_parts = !add && draw(0, 1) == 0;
    const at::Tensor a = turns ? at::randn({count, depth, rows}).transpose(1, 2) : at::randn({count, rows, depth});
    const at::Tensor b =
        draw(0, 1) == 0 ? at::randn({count, columns, depth}).transpose(1, 2) : at::randn({count, depth, columns});
    const at::Tensor start = at::randn({count, rows, columns});
    at::Tensor first;
    for (const int threads : {1, 2, 3}) {
      at::set_num_threads(threads);
      at::Tensor out = start.clone();
      if (in_parts) {
        multiply_each_in_parts(a, b, out);
      } else {
        multiply_each(a, b, add, out);
      }
      if (first.defined() && !first.equal(out)) return differs("other bits of each with other threads");
      first = out;
    }
    return error(first, a, b, add ? start : at::zeros({1}));
  }

  static double differs(const char* what) {
    std::printf("%s\n", what);
    return INFINITY;
  }

  std::mt19937_64& random_;
};

}  // namespace
}  // namespace bidiseg::kernels

int main(int count, char** values) {
  const long trials = count > 1 ? std::atol(values[1]) : 200;
  const unsigned long seed = count > 2 ? std::strtoul(values[2], nullptr, 10) : 1;
  at::manual_seed(seed);
  std::mt19937_64 random(seed);
  double largest = 0;
  for (long i = 0; i < trials; ++i) largest = std::max(largest, bidiseg::kernels::Trial(random).run());
  std::printf("    products, %s, %ld trials with seed %lu, largest error by its bound: %.2g\n",
              bidiseg::kernels::has_own_products() ? "our own" : "LibTorch's", trials, seed, largest);
  return largest <= 1 ? 0 : 1;
}
