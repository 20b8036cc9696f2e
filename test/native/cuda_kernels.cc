// Comparison of the CUDA kernels of the loss, run on the CPU (cuda_on_cpu.h), with LibTorch's operators in double. The
// launches are those of native/kernels/cuda/upsampled_softmax.cu. Prints one line per error and exits with 1 if one
// exceeds its bound.
#include "cuda_on_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <string>

#include "kernels/cuda/upsampled_softmax_kernels.cuh"

namespace bidiseg::kernels::cuda {

bool check_normalization();  // cuda_normalization.cc

namespace {

struct Case {
  std::string name;
  std::vector<int64_t> logits;  // [N, C, h, w]
  int64_t height, width;
  bool align_corners = true;
  bool online = false;
  bool weights = false;
  bool int64_labels = false;
  double scale = 3;  // standard deviation of the logits
  double ignored = 0.3;
  bool invalid = false;  // whether some labels are out of range
};

bool failed = false;

double relative_error(const at::Tensor& ours, const at::Tensor& reference) {
  const double difference = (ours.to(at::kDouble) - reference).norm().item<double>();
  return difference == 0 ? 0 : difference / std::max(reference.norm().item<double>(), 1e-300);
}

void report(const Case& c, const char* path, const char* what, double error, double bound) {
  std::printf("    %-28s %-8s %-14s %9.1e  %6.0e\n", c.name.c_str(), path, what, error, bound);
  if (!(error <= bound)) failed = true;
}

at::Tensor upsample(const at::Tensor& x, const Case& c) {
  if (x.size(2) == c.height && x.size(3) == c.width) return x;
  return at::upsample_bilinear2d(x, {c.height, c.width}, c.align_corners);
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

at::Tensor prepared(const at::Tensor& logits, int64_t padded, bool softmax) {
  at::Tensor values = at::full({logits.size(0), padded, logits.size(2), logits.size(3)}, std::nan(""), at::kFloat);
  const int64_t points = logits.size(0) * logits.size(2) * logits.size(3);
  cuda_on_cpu::launch({blocks_for(points)}, kThreads, prepare<float>, logits.const_data_ptr<float>(),
                      values.mutable_data_ptr<float>(), logits.size(0), logits.size(1), padded,
                      logits.size(2) * logits.size(3), softmax);
  return values;
}

Grid grid_of(const at::Tensor& values, const Case& c) {
  return {values.const_data_ptr<float>(), c.logits[0], c.logits[1], Axis(c.logits[2], c.height, c.align_corners),
          Axis(c.logits[3], c.width, c.align_corners)};
}

template <int... K>
void launch_cells(int64_t padded, dim3 grid, const CrossEntropy& task, const Partials& partials) {
  ((padded == K ? cuda_on_cpu::launch_with_barriers(grid, kThreads, cross_entropy_cells<K>, task, partials) : void()),
   ...);
}

void check_cross_entropy(const Case& c) {
  const int64_t batch = c.logits[0], classes = c.logits[1], pixels = batch * c.height * c.width;
  at::Tensor logits = at::randn(c.logits, at::kFloat) * c.scale;
  at::Tensor labels = at::randint(classes, {batch, c.height, c.width}, at::kLong);
  labels.masked_fill_(at::rand(labels.sizes()) < c.ignored, 255);
  const at::Tensor is_invalid = at::rand(labels.sizes()) < (c.invalid ? 0.1 : 0.0);
  if (c.invalid) labels = at::where(is_invalid, at::randint(classes, classes + 9, labels.sizes(), at::kLong), labels);
  const at::Tensor bytes = labels.to(at::kByte);
  const at::Tensor class_weights = at::rand({classes}), pixel_weights = at::rand(labels.sizes());
  const at::Tensor thresholds = at::rand({classes}) * 0.5 + 0.3;

  for (const bool fast : {true, false}) {
    if (fast && classes > kMaxClasses) continue;
    int64_t padded = classes;
    if (fast) {
      for (const int64_t k : {4, 8, 12, 16, 19, 24, 32, 40}) {
        if (classes <= k) {
          padded = k;
          break;
        }
      }
    }
    const char* path = fast ? "cells" : "pixels";
    const at::Tensor values = prepared(logits, padded, false);
    const Grid grid = grid_of(values, c);
    Partials partials(grid);
    const dim3 cells{static_cast<unsigned>(partials.tiles), static_cast<unsigned>(grid.rows.in),
                     static_cast<unsigned>(batch)};
    const int64_t blocks = fast ? int64_t{cells.x} * cells.y * cells.z : 3;
    at::Tensor sums = at::full({2, blocks}, std::nan(""), at::kDouble);
    at::Tensor predicted = at::full(labels.sizes(), 99, at::kByte);
    at::Tensor confidence = at::full(labels.sizes(), std::nan(""), at::kFloat);
    at::Tensor gradient = at::full(c.logits, std::nan(""), at::kFloat);
    long long invalid_label = INT64_MIN;
    const CrossEntropy task{grid,
                            c.online || c.int64_labels ? nullptr : bytes.const_data_ptr<uint8_t>(),
                            c.online || !c.int64_labels ? nullptr : labels.const_data_ptr<int64_t>(),
                            255,
                            thresholds.const_data_ptr<float>(),
                            false,
                            c.weights ? class_weights.const_data_ptr<float>() : nullptr,
                            c.weights ? pixel_weights.const_data_ptr<float>() : nullptr,
                            true,
                            predicted.mutable_data_ptr<uint8_t>(),
                            confidence.mutable_data_ptr<float>(),
                            sums.mutable_data_ptr<double>(),
                            sums.mutable_data_ptr<double>() + blocks,
                            &invalid_label};
    if (fast) {
      at::Tensor parts = at::full({partials.size(grid)}, std::nan(""), at::kFloat);
      partials.values = parts.mutable_data_ptr<float>();
      launch_cells<4, 8, 12, 16, 19, 24, 32, 40>(padded, cells, task, partials);
      const dim3 points{blocks_for(grid.batch * grid.plane()),
                        static_cast<unsigned>((grid.classes + kJoined - 1) / kJoined)};
      cuda_on_cpu::launch(points, kThreads, join_partials, grid, partials, gradient.mutable_data_ptr<float>());
    } else {
      std::vector<PixelState> states(static_cast<size_t>(pixels));
      cuda_on_cpu::launch_with_barriers({static_cast<unsigned>(blocks)}, kThreads, cross_entropy_pixels, task,
                                        states.data());
      cuda_on_cpu::launch({blocks_for(gradient.numel())}, kThreads, gather_gradient, grid, states.data(),
                          static_cast<const float*>(nullptr), gradient.mutable_data_ptr<float>());
    }
    float totals[2];
    cuda_on_cpu::launch_with_barriers({1}, kThreads, sum_blocks, task.loss, task.weight, blocks, &totals[0],
                                      &totals[1]);

    at::Tensor reference = logits.to(at::kDouble).requires_grad_(true);
    const at::Tensor log_p = at::log_softmax(upsample(reference, c), 1);
    at::Tensor target = labels;
    if (c.online) {
      const auto [best, argmax] = log_p.detach().exp().max(1);
      report(c, path, "confidence", (confidence - best).abs().max().item<double>(), 1e-6 + c.scale * 3e-7);
      report(c, path, "predicted", (predicted != argmax).sum().item<double>(), 0);
      // The labels found here, because one near its threshold may be on either side.
      const at::Tensor kept =
          confidence > thresholds.index_select(0, predicted.flatten().to(at::kLong)).view_as(confidence);
      target = at::where(kept, predicted.to(at::kLong), at::full_like(labels, 255));
    }
    const at::Tensor counts = (target != 255) & ~is_invalid;
    at::Tensor weights = counts.to(at::kDouble);
    const at::Tensor safe = at::where(counts, target, at::zeros_like(target));
    if (c.weights) {
      weights =
          weights * class_weights.to(at::kDouble).index_select(0, safe.flatten()).view_as(weights) * pixel_weights;
    }
    const at::Tensor loss = -(log_p.gather(1, safe.unsqueeze(1)).squeeze(1) * weights).sum();
    loss.backward();
    report(c, path, "loss", relative_error(at::scalar_tensor(totals[0]), loss.detach()), c.online ? 1e-5 : 1e-6);
    report(c, path, "weight", relative_error(at::scalar_tensor(totals[1]), weights.sum()), 1e-6);
    report(c, path, "gradient", relative_error(gradient, reference.grad()), 1e-5);
    const int64_t largest = c.invalid ? labels.masked_select(is_invalid).max().item<int64_t>() : INT64_MIN;
    report(c, path, "invalid label", invalid_label == largest ? 0 : 1, 0);
  }
}

void check_softmax(const Case& c) {
  const at::Tensor logits = at::randn(c.logits, at::kFloat) * c.scale;
  const at::Tensor values = prepared(logits, c.logits[1], false);
  const Grid grid = grid_of(values, c);
  const int64_t pixels = c.logits[0] * c.height * c.width;
  at::Tensor p = at::full({c.logits[0], c.logits[1], c.height, c.width}, std::nan(""), at::kFloat);
  cuda_on_cpu::launch({blocks_for(pixels)}, kThreads, softmax_pixels, grid, p.mutable_data_ptr<float>());
  at::Tensor reference = logits.to(at::kDouble).requires_grad_(true);
  const at::Tensor expected = at::softmax(upsample(reference, c), 1);
  report(c, "pixels", "softmax", (p - expected.detach()).abs().max().item<double>(), 2e-6);
  const at::Tensor upstream = at::randn(p.sizes(), at::kFloat);
  (expected * upstream.to(at::kDouble)).sum().backward();
  std::vector<PixelState> states(static_cast<size_t>(pixels));
  at::Tensor gradient = at::full(c.logits, std::nan(""), at::kFloat);
  cuda_on_cpu::launch({blocks_for(pixels)}, kThreads, softmax_backward_pixels, grid, upstream.const_data_ptr<float>(),
                      states.data());
  cuda_on_cpu::launch({blocks_for(gradient.numel())}, kThreads, gather_gradient, grid, states.data(),
                      upstream.const_data_ptr<float>(), gradient.mutable_data_ptr<float>());
  report(c, "pixels", "softmax grad", relative_error(gradient, reference.grad()), 1e-5);

  for (const bool probabilities : {false, true}) {
    const at::Tensor prepared_values = prepared(logits, c.logits[1], probabilities);
    at::Tensor predicted = at::full({c.logits[0], c.height, c.width}, 99, at::kByte);
    at::Tensor confidence = at::full(predicted.sizes(), std::nan(""), at::kFloat);
    cuda_on_cpu::launch({blocks_for(pixels)}, kThreads, argmax_pixels, grid_of(prepared_values, c), probabilities,
                        predicted.mutable_data_ptr<uint8_t>(), confidence.mutable_data_ptr<float>());
    const at::Tensor wide = logits.to(at::kDouble);
    const auto [best, argmax] =
        (probabilities ? upsample(at::softmax(wide, 1), c) : at::softmax(upsample(wide, c), 1)).max(1);
    report(c, "pixels", probabilities ? "confidence (p)" : "confidence", (confidence - best).abs().max().item<double>(),
           2e-6);
    report(c, "pixels", probabilities ? "argmax (p)" : "argmax", (predicted != argmax).sum().item<double>(), 0);
  }
}

}  // namespace
}  // namespace bidiseg::kernels::cuda

int main() {
  using bidiseg::kernels::cuda::Case;
  at::manual_seed(1);
  at::set_num_threads(1);
  std::printf("    %-28s %-8s %-14s %9s  %6s\n", "case", "path", "what", "error", "bound");
  const std::vector<Case> cases = {
      {.name = "cells of 8", .logits = {2, 19, 5, 23}, .height = 33, .width = 177},
      {.name = "cells of 7 and 9", .logits = {1, 19, 6, 20}, .height = 44, .width = 150, .weights = true},
      {.name = "corners not aligned", .logits = {1, 5, 4, 20}, .height = 30, .width = 161, .align_corners = false},
      {.name = "no upsampling", .logits = {1, 3, 7, 140}, .height = 7, .width = 140},
      {.name = "hardly any", .logits = {1, 3, 7, 140}, .height = 8, .width = 143, .int64_labels = true},
      {.name = "one cell wider than a tile", .logits = {1, 4, 3, 3}, .height = 9, .width = 401},
      {.name = "one point", .logits = {1, 2, 1, 1}, .height = 3, .width = 5, .ignored = 0},
      {.name = "all ignored", .logits = {1, 9, 3, 5}, .height = 17, .width = 33, .ignored = 1},
      {.name = "40 classes", .logits = {1, 40, 3, 5}, .height = 17, .width = 33},
      {.name = "90 classes", .logits = {1, 90, 3, 5}, .height = 17, .width = 33},
      {.name = "on-line", .logits = {1, 6, 4, 18}, .height = 25, .width = 137, .online = true},
      {.name = "labels out of range", .logits = {1, 6, 4, 18}, .height = 25, .width = 137, .invalid = true},
      {.name = "int64 out of range",
       .logits = {1, 6, 4, 18},
       .height = 25,
       .width = 137,
       .int64_labels = true,
       .invalid = true},
      {.name = "far apart", .logits = {1, 6, 4, 18}, .height = 25, .width = 137, .scale = 1000},
  };
  for (const auto& each : cases) bidiseg::kernels::cuda::check_cross_entropy(each);
  for (const size_t i : {0, 2, 3, 9}) bidiseg::kernels::cuda::check_softmax(cases[i]);
  if (!bidiseg::kernels::cuda::check_normalization()) bidiseg::kernels::cuda::failed = true;
  std::puts(bidiseg::kernels::cuda::failed ? "    failed" : "    all within bounds");
  return bidiseg::kernels::cuda::failed ? 1 : 0;
}
