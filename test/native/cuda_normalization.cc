// Comparison of the CUDA kernels for normalization and padding, run on the CPU (cuda_on_cpu.h), with LibTorch's
// operators in double. The launches are those of native/kernels/cuda/normalization.cu.
#include "cuda_on_cpu.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <string>

#include "kernels/cuda/normalization_kernels.cuh"

namespace bidiseg::kernels::cuda {
namespace {

struct Case {
  std::string name;
  std::vector<int64_t> size;  // [N, C, H, W]
  bool per_image = false;
  bool affine = true;
  bool sum = false;
  float slope = 0;
  double center = 0.5;  // of x
  bool fixed = false;   // whether statistics are given
  unsigned blocks = 3;  // rows of blocks
};

constexpr double kEps = 1e-5, kMomentum = 0.1;

bool failed = false;

double relative_error(const at::Tensor& ours, const at::Tensor& reference) {
  const double difference = (ours.to(at::kDouble) - reference).norm().item<double>();
  return difference == 0 ? 0 : difference / std::max(reference.norm().item<double>(), 1e-300);
}

void report(const std::string& name, const char* type, const char* what, double error, double bound) {
  std::printf("    %-28s %-8s %-14s %9.1e  %6.0e\n", name.c_str(), type, what, error, bound);
  if (!(error <= bound)) failed = true;
}

template <typename T>
T* data(at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* data(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// Random values of the type with channels last.
at::Tensor random(at::IntArrayRef size, at::ScalarType type, double center) {
  return (at::randn(size, at::kDouble) + center).to(type).contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor unwritten(const at::Tensor& like) { return at::full_like(like, std::nan("")); }

template <typename T, bool kHasSum>
void check_normalization(const Case& c, at::ScalarType type, const char* name, double bound) {
  const at::Tensor x = random(c.size, type, c.center), sum = random(c.size, type, 0);
  const at::Tensor upstream = random(c.size, type, 0);
  const int64_t channels = c.size[1], pixels = c.size[2] * c.size[3];
  const Planes planes = c.per_image ? Planes{c.size[0], pixels, channels} : Planes{1, c.size[0] * pixels, channels};
  const at::Tensor weight = at::rand({channels}) + 0.5, bias = at::randn({channels});
  at::Tensor tables = at::full({4, planes.images, channels}, std::nan(""), at::kFloat);
  at::Tensor running_mean = at::randn({channels}), running_variance = at::rand({channels}) + 0.5;
  const at::Tensor mean_before = running_mean.to(at::kDouble), variance_before = running_variance.to(at::kDouble);
  int64_t batches = 7;
  const Running running = c.per_image || c.fixed ? Running{}
                                                 : Running{data<float>(running_mean), data<float>(running_variance),
                                                           &batches, static_cast<float>(kMomentum)};
  const auto table = [&](int64_t i) { return tables.mutable_data_ptr<float>() + i * planes.images * channels; };
  const Normalization norm{table(0), table(1), table(2), table(3), c.slope};

  const int64_t packs = channels / Pack<T>::kSize, lanes = lanes_of<T>(planes);
  const dim3 grid{static_cast<unsigned>((packs + lanes - 1) / lanes), c.blocks, static_cast<unsigned>(planes.images)};
  const dim3 finish{static_cast<unsigned>((channels + kFinishedChannels - 1) / kFinishedChannels),
                    static_cast<unsigned>(planes.images)};
  at::Tensor partials = at::full({planes.images, c.blocks, 2, channels}, std::nan(""), at::kFloat);
  at::Tensor y = unwritten(x), passed = unwritten(x), gradient = unwritten(x);
  if (c.fixed) {
    cuda_on_cpu::launch(
        {static_cast<unsigned>((channels + kPackThreads - 1) / kPackThreads)}, kPackThreads, use_statistics,
        data<float>(std::as_const(running_mean)), data<float>(std::as_const(running_variance)), channels, kEps,
        c.affine ? weight.const_data_ptr<float>() : nullptr, c.affine ? bias.const_data_ptr<float>() : nullptr, norm);
  } else {
    cuda_on_cpu::launch_with_barriers(grid, kPackThreads, sum_planes<T>, data<T>(x), planes, data<float>(partials));
    cuda_on_cpu::launch_with_barriers(finish, kPackThreads, finish_statistics<T>, data<T>(x), planes,
                                      data<float>(std::as_const(partials)), c.blocks, kEps,
                                      c.affine ? weight.const_data_ptr<float>() : nullptr,
                                      c.affine ? bias.const_data_ptr<float>() : nullptr, norm, running);
  }
  cuda_on_cpu::launch(grid, kPackThreads, normalize_planes<T, kHasSum>, data<T>(x), data<T>(sum), planes, norm,
                      data<T>(y));
  partials.fill_(std::nan(""));
  at::Tensor means = at::full({planes.images, 2, channels}, std::nan(""), at::kFloat);
  cuda_on_cpu::launch_with_barriers(grid, kPackThreads, sum_gradients<T, kHasSum>, data<T>(upstream), data<T>(x),
                                    data<T>(std::as_const(y)), planes, norm, data<T>(passed), data<float>(partials));
  cuda_on_cpu::launch_with_barriers(finish, kPackThreads, finish_gradients, planes,
                                    data<float>(std::as_const(partials)), c.blocks,
                                    static_cast<const float*>(norm.scale), data<float>(means));
  cuda_on_cpu::launch(grid, kPackThreads, normalize_gradients<T, kHasSum>,
                      kHasSum ? data<T>(std::as_const(passed)) : data<T>(upstream), data<T>(x), planes, norm,
                      c.fixed ? nullptr : data<float>(std::as_const(means)), data<T>(gradient));

  const at::Tensor wide = x.to(at::kDouble).contiguous().requires_grad_();
  const at::Tensor wide_sum = sum.to(at::kDouble).contiguous().requires_grad_();
  at::Tensor expected_mean = mean_before.clone(), expected_variance = variance_before.clone();
  at::Tensor weight64, bias64;
  if (c.affine) weight64 = weight.to(at::kDouble), bias64 = bias.to(at::kDouble);
  at::Tensor expected = c.per_image ? at::instance_norm(wide, weight64, bias64, {}, {}, true, 0, kEps, false)
                                    : at::batch_norm(wide, weight64, bias64, expected_mean, expected_variance, !c.fixed,
                                                     kMomentum, kEps, false);
  if (c.sum) expected = expected + wide_sum;
  if (c.slope != 1) expected = at::leaky_relu(expected, static_cast<double>(c.slope));
  (expected * upstream.to(at::kDouble)).sum().backward();
  report(c.name, name, "y", relative_error(y, expected.detach()), bound);
  report(c.name, name, "gradient", relative_error(gradient, wide.grad()), bound);
  if (c.sum) report(c.name, name, "of the sum", relative_error(passed, wide_sum.grad()), bound);
  if (!c.per_image && !c.fixed) {
    report(c.name, name, "running mean", relative_error(running_mean, expected_mean), 1e-6);
    report(c.name, name, "… variance", relative_error(running_variance, expected_variance), 1e-6);
    report(c.name, name, "… batches", static_cast<double>(batches - 8), 0);
  }
}

template <typename T>
void check_padding(const std::vector<int64_t>& size, int64_t margin, at::ScalarType type, const char* name,
                   double bound) {
  const at::Tensor x = random(size, type, 0);
  const Padding padding{size[0], size[2], size[3], size[1], margin};
  const at::Tensor wide = x.to(at::kDouble).contiguous().requires_grad_();
  const at::Tensor expected = at::reflection_pad2d(wide, {margin, margin, margin, margin});
  const at::Tensor upstream = random(expected.sizes(), type, 0);
  (expected * upstream.to(at::kDouble)).sum().backward();
  at::Tensor y = unwritten(upstream), gradient = unwritten(x);
  const auto grid_of = [](const at::Tensor& image) {
    const int64_t packs = image.size(3) * image.size(1) / Pack<T>::kSize;
    return dim3{static_cast<unsigned>((packs + kPackThreads - 1) / kPackThreads), static_cast<unsigned>(image.size(2)),
                static_cast<unsigned>(image.size(0))};
  };
  cuda_on_cpu::launch(grid_of(y), kPackThreads, copy_reflected<T>, data<T>(x), padding, data<T>(y));
  cuda_on_cpu::launch(grid_of(gradient), kPackThreads, sum_reflected<T>, data<T>(upstream), padding, data<T>(gradient));
  const std::string title = "padding by " + std::to_string(margin);
  report(title, name, "y", relative_error(y, expected.detach()), 0);
  report(title, name, "gradient", relative_error(gradient, wide.grad()), bound);
}

// Threads of a block are threads here, so that few blocks have to do.
template <typename T>
void check(const std::vector<Case>& cases, at::ScalarType type, const char* name, double bound) {
  for (const Case& each : cases) {
    const double loose = each.center > 1 ? 2 * bound : bound;
    each.sum ? check_normalization<T, true>(each, type, name, loose)
             : check_normalization<T, false>(each, type, name, loose);
  }
  for (const int64_t margin : {1, 3}) check_padding<T>({2, 16, 5, 4}, margin, type, name, bound);
  check_padding<T>({1, 8, 9, 70}, 3, type, name, bound);
}

}  // namespace

bool check_normalization() {
  const std::vector<Case> basic = {
      {.name = "BatchNorm, ReLU", .size = {2, 24, 7, 11}},
      {.name = "InstanceNorm, sum", .size = {3, 8, 6, 6}, .per_image = true, .affine = false, .sum = true, .slope = 1},
      {.name = "far from 0", .size = {1, 16, 31, 17}, .slope = 1, .center = 100},
  };
  const std::vector<Case> special = {
      {.name = "BatchNorm, sum, ReLU", .size = {1, 64, 5, 9}, .sum = true},
      {.name = "BatchNorm alone", .size = {1, 8, 3, 5}, .slope = 1, .blocks = 1},
      {.name = "many channels", .size = {1, 296, 4, 4}, .sum = true, .blocks = 2},
      {.name = "few pixels", .size = {1, 16, 2, 3}, .slope = 1},
      {.name = "InstanceNorm, leaky ReLU", .size = {2, 16, 9, 8}, .per_image = true, .affine = false, .slope = 0.2f},
      {.name = "given statistics", .size = {2, 24, 7, 11}, .fixed = true},
      {.name = "given statistics, sum", .size = {1, 72, 5, 9}, .sum = true, .fixed = true},
  };
  check<c10::BFloat16>(basic, at::kBFloat16, "bfloat16", 4e-3);
  check<c10::Half>(basic, at::kHalf, "half", 5e-4);
  check<float>(basic, at::kFloat, "float", 1e-6);
  check<float>(special, at::kFloat, "float", 1e-6);
  return !failed;
}

}  // namespace bidiseg::kernels::cuda
