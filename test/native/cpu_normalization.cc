// Comparison of normalization on the CPU (kernels/normalization_on_cpu.h) with LibTorch's operators in double, on
// random shapes and options, and of its bits with one, two and three threads. usage: cpu_normalization [TRIALS [SEED]].
// Exits with 1 if an error exceeds its bound.
#include "kernels/normalization_on_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

namespace bidiseg::kernels::cpu {
namespace {

double relative_error(const at::Tensor& ours, const at::Tensor& reference) {
  const double difference = (ours.to(at::kDouble) - reference).norm().item<double>();
  return difference == 0 ? 0 : difference / std::max(reference.norm().item<double>(), 1e-300);
}

at::Tensor channels_last(const at::Tensor& x) { return x.to(at::kFloat).contiguous(at::MemoryFormat::ChannelsLast); }

struct Results {
  at::Tensor y, of_x, of_sum, mean, variance, batches;

  bool equal(const Results& other) const {
    const auto same = [](const at::Tensor& a, const at::Tensor& b) { return a.defined() ? a.equal(b) : !b.defined(); };
    return same(y, other.y) && same(of_x, other.of_x) && same(of_sum, other.of_sum) && same(mean, other.mean) &&
           same(variance, other.variance) && same(batches, other.batches);
  }
};

Results compute(const at::Tensor& x, const at::Tensor& sum, const at::Tensor& upstream, NormalizationOptions options,
                bool updates, int threads) {
  at::set_num_threads(threads);
  const int64_t channels = x.size(1);
  Results results;
  if (updates) {
    results.mean = at::linspace(-1, 1, channels);
    results.variance = at::linspace(0.5, 2, channels);
    results.batches = at::full({}, 7, at::kLong);
    options.running = {results.mean, results.variance, results.batches, 0.1};
  }
  const NormalizationOutput output = cpu::normalize(x, sum, options);
  results.y = output.y;
  std::tie(results.of_x, results.of_sum) = cpu::normalize_backward(upstream, x, output, sum.defined(), options);
  return results;
}

// Errors of each result.
std::map<std::string, double> errors_of(const Results& ours, const at::Tensor& x, const at::Tensor& sum,
                                        const at::Tensor& upstream, const NormalizationOptions& options) {
  const auto wide = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(at::kDouble).contiguous().clone() : tensor;
  };
  const at::Tensor x64 = wide(x).requires_grad_(), weight = wide(options.weight), bias = wide(options.bias);
  at::Tensor sum64 = wide(sum);
  if (sum64.defined()) sum64.requires_grad_();
  at::Tensor mean = wide(options.fixed_mean), variance = wide(options.fixed_variance);
  const bool fixed = mean.defined();
  if (ours.mean.defined()) {
    mean = at::linspace(-1, 1, x.size(1)).to(at::kDouble);
    variance = at::linspace(0.5, 2, x.size(1)).to(at::kDouble);
  }
  at::Tensor y = options.per_image ? at::instance_norm(x64, weight, bias, {}, {}, true, 0, options.eps, false)
                                   : at::batch_norm(x64, weight, bias, mean, variance, !fixed, 0.1, options.eps, false);
  if (sum.defined()) y = y + sum64;
  // The sign of values near 0 is a matter of rounding. Ours decides for both.
  if (options.slope != 1) y = at::where(ours.y.contiguous() > 0, y, options.slope * y);
  (y * wide(upstream)).sum().backward();
  std::map<std::string, double> errors = {{"y", relative_error(ours.y, y.detach())},
                                          {"gradient", relative_error(ours.of_x, x64.grad())}};
  if (sum.defined()) errors["gradient of the sum"] = relative_error(ours.of_sum, sum64.grad());
  if (ours.mean.defined()) {
    errors["running mean"] = relative_error(ours.mean, mean);
    errors["running variance"] = relative_error(ours.variance, variance);
    errors["batches"] = static_cast<double>(ours.batches.item<int64_t>() - 8);
  }
  return errors;
}

bool run_trial(std::mt19937_64& random, std::map<std::string, double>& largest) {
  const auto draw = [&](int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(random); };
  const int64_t images = draw(1, 3), channels = draw(1, 70), height = draw(2, 20), width = draw(2, 20);
  const double center = draw(0, 4) == 0 ? 30 : 0.5;
  const at::Tensor x = channels_last(at::randn({images, channels, height, width}, at::kDouble) + center);
  const at::Tensor upstream = channels_last(at::randn(x.sizes(), at::kDouble));
  const at::Tensor sum = draw(0, 1) == 0 ? channels_last(at::randn(x.sizes(), at::kDouble)) : at::Tensor();
  NormalizationOptions options;
  options.per_image = draw(0, 2) == 0;
  const bool fixed = !options.per_image && draw(0, 3) == 0;
  if (fixed) {
    options.fixed_mean = at::randn({channels});
    options.fixed_variance = at::rand({channels}) + 0.1;
  }
  if (draw(0, 1) == 0) {
    options.weight = at::randn({channels});
    options.bias = at::randn({channels});
  }
  options.slope = std::array{0.0, 0.2, 1.0}[static_cast<size_t>(draw(0, 2))];
  const bool updates = !options.per_image && !fixed;
  const Results ours = compute(x, sum, upstream, options, updates, 1);
  bool fine = true;
  for (const int threads : {2, 3}) {
    if (ours.equal(compute(x, sum, upstream, options, updates, threads))) continue;
    std::printf("other bits with %d threads\n", threads);
    fine = false;
  }
  for (const auto& [what, error] : errors_of(ours, x, sum, upstream, options)) {
    // Of values around 30 with a deviation of 1, a thirtieth is left.
    const double bound = center > 1 ? 3e-5 : 1e-6;
    largest[what] = std::max(largest[what], error);
    if (error <= bound) continue;
    std::printf("[%ld, %ld, %ld, %ld], per image %d, fixed %d, sum %d, slope %g, center %g: %s %g > %g\n", images,
                channels, height, width, options.per_image, fixed, sum.defined(), options.slope, center, what.c_str(),
                error, bound);
    fine = false;
  }
  return fine;
}

}  // namespace
}  // namespace bidiseg::kernels::cpu

int main(int count, char** values) {
  const long trials = count > 1 ? std::atol(values[1]) : 200;
  const unsigned long seed = count > 2 ? std::strtoul(values[2], nullptr, 10) : 1;
  at::manual_seed(seed);
  std::mt19937_64 random(seed);
  std::map<std::string, double> largest;
  long failed = 0;
  for (long i = 0; i < trials; ++i) failed += !bidiseg::kernels::cpu::run_trial(random, largest);
  std::printf("    normalization, %ld trials with seed %lu, largest errors:", trials, seed);
  for (const auto& [what, error] : largest) std::printf(" %s %.1e;", what.c_str(), error);
  std::printf(" %ld failed\n", failed);
  return failed == 0 ? 0 : 1;
}
