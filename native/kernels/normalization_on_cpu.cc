#include "kernels/normalization_on_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/clones.h"

namespace bidiseg::kernels::cpu {
namespace {

constexpr int64_t kBlock = 64;  // pixels whose values fit the second-level cache

// What is normalized together: for each image and channel, the values of all pixels. BatchNorm has one image.
struct Planes {
  int64_t images, pixels, channels;

  int64_t blocks_of_image() const { return (pixels + kBlock - 1) / kBlock; }

  // Calls `work(block, image, first, count)` for each block, where `first` counts the pixels of all images.
  template <typename Work>
  void for_blocks(const Work& work) const {
    const int64_t of_image = blocks_of_image();
    at::parallel_for(0, images * of_image, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t image = block / of_image, first = block % of_image * kBlock;
        work(block, image, image * pixels + first, std::min(kBlock, pixels - first));
      }
    });
  }
};

Planes planes_of(const at::Tensor& x, bool per_image) {
  const int64_t pixels = x.size(2) * x.size(3);
  return per_image ? Planes{x.size(0), pixels, x.size(1)} : Planes{1, x.size(0) * pixels, x.size(1)};
}

// Rows of [4, images, C], each of one image.
struct Tables {
  Tables(const at::Tensor& statistics, const Planes& planes, int64_t image) {
    float* const first = statistics.mutable_data_ptr<float>() + image * planes.channels;
    const int64_t next = planes.images * planes.channels;
    mean = first, inverse_deviation = first + next, scale = first + 2 * next, shift = first + 3 * next;
  }
  float *mean, *inverse_deviation, *scale, *shift;
};

// sum = Σ x over the pixels of a block.
BIDISEG_CLONES void sum_lines(const float* x, int64_t pixels, int64_t channels, float* sum) {
  std::fill_n(sum, channels, 0.0f);
  int64_t pixel = 0;
  for (; pixel + 4 <= pixels; pixel += 4) {
    const float *a = x + pixel * channels, *b = a + channels, *c = b + channels, *d = c + channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) sum[i] += (a[i] + b[i]) + (c[i] + d[i]);
  }
  for (; pixel < pixels; ++pixel) {
    const float* a = x + pixel * channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) sum[i] += a[i];
  }
}

// mean = sum / pixels, squares = Σ (x - mean)².
BIDISEG_CLONES void square_lines(const float* x, int64_t pixels, int64_t channels, float* sum_to_mean, float* squares) {
  const float share = 1.0f / static_cast<float>(pixels);
#pragma GCC ivdep
  for (int64_t i = 0; i < channels; ++i) sum_to_mean[i] *= share;
  std::fill_n(squares, channels, 0.0f);
  int64_t pixel = 0;
  for (; pixel + 2 <= pixels; pixel += 2) {
    const float *a = x + pixel * channels, *b = a + channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) {
      const float u = a[i] - sum_to_mean[i], v = b[i] - sum_to_mean[i];
      squares[i] += u * u + v * v;
    }
  }
  for (; pixel < pixels; ++pixel) {
    const float* a = x + pixel * channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) squares[i] += (a[i] - sum_to_mean[i]) * (a[i] - sum_to_mean[i]);
  }
}

// y = leaky ReLU(scale x + shift + add). `add` may be null.
BIDISEG_CLONES void normalize_lines(const float* x, const float* add, int64_t pixels, int64_t channels,
                                    const float* scale, const float* shift, float slope, float* y) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel, x += channels, y += channels) {
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) y[i] = x[i] * scale[i] + shift[i];
    if (add != nullptr) {
#pragma GCC ivdep
      for (int64_t i = 0; i < channels; ++i) y[i] += add[i];
      add += channels;
    }
    if (slope == 0) {
#pragma GCC ivdep
      for (int64_t i = 0; i < channels; ++i) y[i] = y[i] < 0 ? 0 : y[i];
    } else if (slope != 1) {
#pragma GCC ivdep
      for (int64_t i = 0; i < channels; ++i) y[i] = y[i] < 0 ? slope * y[i] : y[i];
    }
  }
}

// passed = the gradient before the leaky ReLU.
BIDISEG_CLONES void pass_lines(const float* gradient, const float* y, int64_t count, float slope, float* passed) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) passed[i] = y[i] > 0 ? gradient[i] : slope * gradient[i];
}

// sum = Σ g, products = Σ g (x - mean).
BIDISEG_CLONES void sum_gradient_lines(const float* gradient, const float* x, int64_t pixels, int64_t channels,
                                       const float* mean, float* sum, float* products) {
  std::fill_n(sum, channels, 0.0f);
  std::fill_n(products, channels, 0.0f);
  int64_t pixel = 0;
  for (; pixel + 2 <= pixels; pixel += 2) {
    const float *g = gradient + pixel * channels, *h = g + channels, *a = x + pixel * channels, *b = a + channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) {
      sum[i] += g[i] + h[i];
      products[i] += g[i] * (a[i] - mean[i]) + h[i] * (b[i] - mean[i]);
    }
  }
  for (; pixel < pixels; ++pixel) {
    const float *g = gradient + pixel * channels, *a = x + pixel * channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) {
      sum[i] += g[i];
      products[i] += g[i] * (a[i] - mean[i]);
    }
  }
}

// result = scale g - constant - (x - mean) slope; `result` may be `gradient`.
BIDISEG_CLONES void gradient_lines(const float* gradient, const float* x, int64_t pixels, int64_t channels,
                                   const float* mean, const float* scale, const float* constant, const float* slope,
                                   float* result) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const int64_t first = pixel * channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < channels; ++i) {
      result[first + i] = scale[i] * gradient[first + i] - constant[i] - (x[first + i] - mean[i]) * slope[i];
    }
  }
}

at::Tensor channels_last(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

at::Tensor empty_as(const at::Tensor& x) {
  return at::empty(x.sizes(), x.options().requires_grad(false), at::MemoryFormat::ChannelsLast);
}

const float* floats_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

// Mean and sum of squared deviations of each channel.
struct Moments {
  std::vector<double> mean, squares;
};

// Joins the blocks of an image by the update of Chan et al. 1979.
Moments join_blocks(const Planes& planes, const float* means, const float* squares) {
  const int64_t channels = planes.channels, blocks = planes.blocks_of_image();
  Moments all = {std::vector<double>(static_cast<size_t>(channels)),
                 std::vector<double>(static_cast<size_t>(channels))};
  double count = 0;
  for (int64_t block = 0; block < blocks; ++block, means += channels, squares += channels) {
    const auto more = static_cast<double>(std::min(kBlock, planes.pixels - block * kBlock));
    const double share = more / (count + more), weight = count * share;
    for (int64_t i = 0; i < channels; ++i) {
      const auto c = static_cast<size_t>(i);
      const double difference = means[i] - all.mean[c];
      all.mean[c] += difference * share;
      all.squares[c] += squares[i] + difference * difference * weight;
    }
    count += more;
  }
  return all;
}

void update(const RunningStatistics& running, const Moments& moments, int64_t count) {
  if (!running.mean.defined()) return;
  auto* mean = running.mean.mutable_data_ptr<float>();
  auto* variance = running.variance.mutable_data_ptr<float>();
  const double kept = 1 - running.momentum;
  for (size_t c = 0; c < moments.mean.size(); ++c) {
    const double unbiased = moments.squares[c] / static_cast<double>(count - 1);
    mean[c] = static_cast<float>(kept * mean[c] + running.momentum * moments.mean[c]);
    variance[c] = static_cast<float>(kept * variance[c] + running.momentum * unbiased);
  }
  ++*running.batches.mutable_data_ptr<int64_t>();
}

void fill(const Tables& tables, const Moments& moments, double count, const NormalizationOptions& options) {
  const float *weight = floats_or_null(options.weight), *bias = floats_or_null(options.bias);
  for (size_t c = 0; c < moments.mean.size(); ++c) {
    const double inverse = 1 / std::sqrt(moments.squares[c] / count + options.eps);
    const double scale = weight ? weight[c] * inverse : inverse;
    tables.mean[c] = static_cast<float>(moments.mean[c]);
    tables.inverse_deviation[c] = static_cast<float>(inverse);
    tables.scale[c] = static_cast<float>(scale);
    tables.shift[c] = static_cast<float>((bias ? bias[c] : 0) - moments.mean[c] * scale);
  }
}

Moments given(const at::Tensor& mean, const at::Tensor& variance) {
  const auto* means = mean.const_data_ptr<float>();
  const auto* variances = variance.const_data_ptr<float>();
  return {{means, means + mean.numel()}, {variances, variances + mean.numel()}};
}

void find_statistics(const at::Tensor& x, const Planes& planes, const NormalizationOptions& options,
                     const at::Tensor& statistics) {
  if (options.fixed_mean.defined()) {
    fill(Tables(statistics, planes, 0), given(options.fixed_mean, options.fixed_variance), 1, options);
    return;
  }
  const int64_t channels = planes.channels, blocks = planes.blocks_of_image();
  const at::Tensor partial = at::empty({2, planes.images * blocks, channels}, statistics.options());
  auto *means = partial[0].mutable_data_ptr<float>(), *squares = partial[1].mutable_data_ptr<float>();
  const auto* from = x.const_data_ptr<float>();
  planes.for_blocks([&](int64_t block, int64_t, int64_t first, int64_t count) {
    sum_lines(from + first * channels, count, channels, means + block * channels);
    square_lines(from + first * channels, count, channels, means + block * channels, squares + block * channels);
  });
  for (int64_t image = 0; image < planes.images; ++image) {
    const int64_t offset = image * blocks * channels;
    const Moments moments = join_blocks(planes, means + offset, squares + offset);
    fill(Tables(statistics, planes, image), moments, static_cast<double>(planes.pixels), options);
    update(options.running, moments, planes.pixels);
  }
}

// Constant and slope of the gradient (gradient_lines()), [2, images, C], from sums over blocks [2, blocks, C].
at::Tensor join_gradients(const Planes& planes, const at::Tensor& partial, const at::Tensor& statistics) {
  const int64_t channels = planes.channels, blocks = planes.blocks_of_image();
  at::Tensor result = at::empty({2, planes.images, channels}, statistics.options());
  std::vector<double> total(static_cast<size_t>(channels));
  for (int64_t image = 0; image < planes.images; ++image) {
    const Tables tables(statistics, planes, image);
    for (int64_t kind = 0; kind < 2; ++kind) {
      const auto* sums = partial[kind].const_data_ptr<float>() + image * blocks * channels;
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t i = 0; i < blocks * channels; ++i) total[static_cast<size_t>(i % channels)] += sums[i];
      auto* to = result.mutable_data_ptr<float>() + (kind * planes.images + image) * channels;
      for (int64_t i = 0; i < channels; ++i) {
        const double inverse = kind == 0 ? 1.0 : tables.inverse_deviation[i];
        const double mean = total[static_cast<size_t>(i)] / static_cast<double>(planes.pixels);
        to[i] = static_cast<float>(tables.scale[i] * mean * inverse * inverse);
      }
    }
  }
  return result;
}

}  // namespace

bool can_normalize(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.dim() == 4 && x.numel() > x.size(1) &&
         x.is_contiguous(at::MemoryFormat::ChannelsLast);
}

NormalizationOutput normalize(const at::Tensor& x, const at::Tensor& sum, const NormalizationOptions& options) {
  const Planes planes = planes_of(x, options.per_image);
  const at::Tensor added = sum.defined() ? channels_last(sum) : sum;
  const at::Tensor statistics = at::empty({4, planes.images, planes.channels}, x.options().requires_grad(false));
  const at::Tensor y = empty_as(x);
  find_statistics(x, planes, options, statistics);
  const float *from = x.const_data_ptr<float>(), *add = floats_or_null(added);
  auto* to = y.mutable_data_ptr<float>();
  const auto slope = static_cast<float>(options.slope);
  planes.for_blocks([&](int64_t, int64_t image, int64_t first, int64_t count) {
    const Tables tables(statistics, planes, image);
    const int64_t offset = first * planes.channels;
    normalize_lines(from + offset, add ? add + offset : nullptr, count, planes.channels, tables.scale, tables.shift,
                    slope, to + offset);
  });
  return {y, statistics};
}

std::pair<at::Tensor, at::Tensor> normalize_backward(const at::Tensor& upstream, const at::Tensor& x,
                                                     const NormalizationOutput& forward, bool has_sum,
                                                     const NormalizationOptions& options) {
  const Planes planes = planes_of(x, options.per_image);
  const int64_t channels = planes.channels;
  const at::Tensor gradient = channels_last(upstream), result = empty_as(x);
  const bool passes = options.slope == 1;
  const at::Tensor for_sum = !has_sum ? at::Tensor() : passes ? gradient : empty_as(x);
  const at::Tensor before = passes ? gradient : has_sum ? for_sum : result;  // before the leaky ReLU
  const at::Tensor partial =
      at::empty({2, planes.images * planes.blocks_of_image(), channels}, forward.statistics.options());
  const float *from = gradient.const_data_ptr<float>(), *input = x.const_data_ptr<float>();
  const float* y = passes ? nullptr : forward.y.const_data_ptr<float>();
  const float* passed = before.const_data_ptr<float>();
  float *to_passed = passes ? nullptr : before.mutable_data_ptr<float>(), *to = result.mutable_data_ptr<float>();
  float *sums = partial[0].mutable_data_ptr<float>(), *products = partial[1].mutable_data_ptr<float>();
  const auto slope = static_cast<float>(options.slope);
  planes.for_blocks([&](int64_t block, int64_t image, int64_t first, int64_t count) {
    const int64_t offset = first * channels;
    if (!passes) pass_lines(from + offset, y + offset, count * channels, slope, to_passed + offset);
    sum_gradient_lines(passed + offset, input + offset, count, channels, Tables(forward.statistics, planes, image).mean,
                       sums + block * channels, products + block * channels);
  });
  const at::Tensor terms = options.fixed_mean.defined() ? at::zeros({2, 1, channels}, forward.statistics.options())
                                                        : join_gradients(planes, partial, forward.statistics);
  const auto* constants = terms.const_data_ptr<float>();
  planes.for_blocks([&](int64_t, int64_t image, int64_t first, int64_t count) {
    const Tables tables(forward.statistics, planes, image);
    const int64_t offset = first * channels;
    const float* constant = constants + image * channels;
    gradient_lines(passed + offset, input + offset, count, channels, tables.mean, tables.scale, constant,
                   constant + planes.images * channels, to + offset);
  });
  return {result, for_sum};
}

}  // namespace bidiseg::kernels::cpu
