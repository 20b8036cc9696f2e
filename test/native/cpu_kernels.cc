// Comparison of the CPU kernels with LibTorch's operators in double, on random shapes and options. For a build with
// AddressSanitizer and UndefinedBehaviorSanitizer (scripts/check-kernels-sanitized.sh): shapes are small and odd, so
// that an access out of bounds is likely. usage: cpu_kernels [TRIALS [SEED]]. Exits with 1 if an error exceeds its
// bound.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <cstdlib>
#include <random>

#include "kernels/upsampled_softmax.h"

namespace bidiseg::kernels {
namespace {

double relative_error(const at::Tensor& ours, const at::Tensor& reference) {
  const double difference = (ours.to(at::kDouble) - reference).norm().item<double>();
  return difference == 0 ? 0 : difference / std::max(reference.norm().item<double>(), 1e-300);
}

bool run_trial(std::mt19937_64& random) {
  const auto draw = [&](int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(random); };
  const bool twice = draw(0, 3) == 0;  // in double
  const int64_t classes = draw(0, 9) == 0 ? draw(2, 256) : draw(2, 24);
  const int64_t h = draw(1, 12), w = draw(1, 40), batch = draw(1, 2);
  const Upsampling size{draw(0, 4) == 0 ? h : draw(h, 8 * h + 3), draw(0, 4) == 0 ? w : draw(w, 5 * w + 3),
                        draw(0, 1) == 0};
  const at::ScalarType dtype = twice ? at::kDouble : at::kFloat;
  const double spread = draw(0, 5) == 0 ? 1000 : 3;
  at::set_num_threads(static_cast<int>(draw(1, 3)));

  const at::Tensor logits = at::randn({batch, classes, h, w}, dtype) * spread;
  at::Tensor reference = logits.to(at::kDouble).requires_grad_(true);
  const at::Tensor up = size.height == h && size.width == w
                            ? reference
                            : at::upsample_bilinear2d(reference, {size.height, size.width}, size.align_corners);
  const at::Tensor log_p = at::log_softmax(up, 1);

  CrossEntropyInput input{};
  input.logits = logits;
  input.size = size;
  input.with_gradient = true;
  input.ignore_index = draw(0, 1) == 0 ? 255 : 0;
  at::Tensor target = at::randint(classes, {batch, size.height, size.width}, at::kLong);
  target.masked_fill_(at::rand(target.sizes()) < draw(0, 10) / 10.0, input.ignore_index);
  const bool online = draw(0, 3) == 0;
  // From a generator of their own, so that they do not change the other draws.
  const bool with_invalid = !online && classes < 200 && h % 3 == 0;
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(classes));
  const at::Tensor is_invalid = at::rand(target.sizes(), generator) < (with_invalid ? 0.1 : 0.0);
  if (with_invalid) {
    target = at::where(is_invalid, at::randint(classes, 250, target.sizes(), generator, at::kLong), target);
  }
  const bool has_invalid = is_invalid.any().item<bool>();
  const int64_t largest = has_invalid ? target.masked_select(is_invalid).max().item<int64_t>() : kNoInvalidLabel;
  if (online) {
    input.ignore_index = 300;
    input.thresholds = at::rand({classes}, dtype) * 0.9;
    input.with_prediction = true;
  } else if (classes > 255 || draw(0, 1) == 0) {
    input.labels = target;
  } else {
    input.labels = target.to(at::kByte);
  }
  if (draw(0, 2) == 0) input.class_weights = at::rand({classes}, dtype);
  if (draw(0, 2) == 0) input.pixel_weights = at::rand(target.sizes(), dtype);
  const CrossEntropyOutput output = upsampled_cross_entropy(input);
  if (online) {
    const at::Tensor threshold = input.thresholds.index_select(0, output.predicted.flatten().to(at::kLong));
    target = at::where(output.confidence > threshold.view_as(output.confidence), output.predicted.to(at::kLong),
                       at::full_like(target, input.ignore_index));
  }
  const at::Tensor counts = (target != input.ignore_index) & ~is_invalid;
  const at::Tensor safe = at::where(counts, target, at::zeros_like(target));
  at::Tensor weights = counts.to(at::kDouble);
  if (input.class_weights.defined()) {
    weights = weights * input.class_weights.index_select(0, safe.flatten()).view_as(weights);
  }
  if (input.pixel_weights.defined()) weights = weights * input.pixel_weights;
  const at::Tensor loss = -(log_p.gather(1, safe.unsqueeze(1)).squeeze(1) * weights).sum();

  const at::Tensor p = upsampled_softmax(logits, size);
  const at::Tensor upstream = at::randn(p.sizes(), dtype);
  const at::Tensor gradient = upsampled_softmax_backward(logits, size, upstream);
  at::Tensor predicted, confidence;
  upsampled_argmax(logits, size, draw(0, 1) == 0 ? SoftmaxOrder::kAfterUpsampling : SoftmaxOrder::kBeforeUpsampling,
                   predicted, &confidence);

  const double rounding = spread * (twice ? 1e-14 : 3e-6);
  struct Check {
    const char* what;
    double error, bound;
  };
  std::vector<Check> checks = {
      {"weight", relative_error(output.weight, weights.sum()), 1e-6},
      {"softmax", (p - log_p.detach().exp()).abs().max().item<double>(), rounding},
      {"invalid label", output.invalid_label.item<int64_t>() == largest ? 0.0 : 1.0, 0.5},
      {"classes", predicted.max().item<double>(), static_cast<double>(classes - 1)},
      {"confidence", (confidence - 0.5).abs().max().item<double>(), 0.5 + rounding},
  };
  loss.backward({}, /*retain_graph=*/true);
  // The loss of a pixel with a probability near 1 is mostly rounding.
  const double share = online ? 1e-3 * spread : 1e-6;
  checks.push_back({"loss", relative_error(output.loss, loss.detach()), share});
  checks.push_back({"gradient", relative_error(output.gradient, reference.grad()), online ? share : 1e-5});
  reference.mutable_grad() = at::Tensor();
  (log_p.exp() * upstream.to(at::kDouble)).sum().backward();
  // Relative to the upstream gradient, because for probabilities near 1 the gradient itself is mostly rounding.
  const double scale = upstream.norm().item<double>();
  checks.push_back({"softmax gradient", (gradient - reference.grad()).norm().item<double>() / scale, rounding});
  bool fine = true;
  for (const auto& [what, error, bound] : checks) {
    if (error <= bound) continue;
    std::printf("[%ld, %ld, %ld, %ld] to %ldx%ld, corners %d, online %d, double %d, spread %g: %s %g > %g\n", batch,
                classes, h, w, size.height, size.width, size.align_corners, online, twice, spread, what, error, bound);
    fine = false;
  }
  return fine;
}

}  // namespace
}  // namespace bidiseg::kernels

int main(int count, char** values) {
  const long trials = count > 1 ? std::atol(values[1]) : 300;
  const unsigned long seed = count > 2 ? std::strtoul(values[2], nullptr, 10) : 1;
  at::manual_seed(seed);
  std::mt19937_64 random(seed);
  long failed = 0;
  for (long i = 0; i < trials; ++i) failed += !bidiseg::kernels::run_trial(random);
  std::printf("cpu_kernels: %ld trials with seed %lu (%s): %ld failed\n", trials, seed,
              std::getenv("ATEN_CPU_CAPABILITY") ? std::getenv("ATEN_CPU_CAPABILITY") : "best instructions", failed);
  return failed == 0 ? 0 : 1;
}
