#include "kernels/upsampled_softmax.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cpu/cell_sweep.h"
#ifdef BIDISEG_CUDA
#include "kernels/cuda/upsampled_softmax.h"
#endif

namespace bidiseg::kernels {
namespace {

using namespace cpu;

// Sources of the samples of one axis: `index` and the next one, weighted 1 - lambda and lambda. As in
// at::upsample_bilinear2d, but in double: in float its weights at 161 columns are off by up to 4e-6, far more than all
// other errors.
template <typename Real>
struct Axis {
  std::vector<int64_t> index;
  std::vector<Real> lambda;

  Axis(int64_t in, int64_t out, bool align_corners) {
    const double scale = in == out       ? 1.0
                         : align_corners ? (out > 1 ? static_cast<double>(in - 1) / static_cast<double>(out - 1) : 0.0)
                                         : static_cast<double>(in) / static_cast<double>(out);
    const double shift = in == out || align_corners ? 0.0 : 0.5;
    for (int64_t i = 0; i < out; ++i) {
      const double source = std::max(scale * (static_cast<double>(i) + shift) - shift, 0.0);
      index.push_back(std::min(static_cast<int64_t>(source), in - 1));
      lambda.push_back(static_cast<Real>(std::min(source - static_cast<double>(index.back()), 1.0)));
    }
  }
};

// Grid with its tables.
template <typename Real>
class GridTables {
 public:
  GridTables(const at::Tensor& logits, const Upsampling& size, int64_t lanes)
      : rows_(logits.size(2), size.height, size.align_corners) {
    grid_.values = logits.const_data_ptr<Real>();
    grid_.batch = logits.size(0);
    grid_.classes = logits.size(1);
    grid_.height = logits.size(2);
    grid_.width = logits.size(3);
    grid_.out_height = size.height;
    grid_.out_width = size.width;
    for (int64_t r = 0; r <= grid_.height; ++r) {
      row_begin_.push_back(std::lower_bound(rows_.index.begin(), rows_.index.end(), r) - rows_.index.begin());
    }
    group_columns(Axis<Real>(grid_.width, grid_.out_width, size.align_corners), lanes);
    grid_.row_begin = row_begin_.data();
    grid_.row_lambda = rows_.lambda.data();
    grid_.vectors = static_cast<int64_t>(first_.size());
    grid_.first = first_.data();
    grid_.count = count_.data();
    grid_.base = base_.data();
    grid_.left = left_.data();
    grid_.right = right_.data();
    grid_.lambda = lambda_.data();
    grid_.scatter = scatter_.data();
  }
  GridTables(const GridTables&) = delete;
  GridTables& operator=(const GridTables&) = delete;

  const Grid<Real>& grid() const { return grid_; }

 private:
  void group_columns(const Axis<Real>& columns, int64_t lanes) {
    const auto right_of = [&](int64_t x) {
      return std::min(columns.index[static_cast<size_t>(x)] + 1, grid_.width - 1);
    };
    for (int64_t x = 0; x < grid_.out_width;) {
      const int64_t base = columns.index[static_cast<size_t>(x)];
      int64_t count = 0;
      while (count < lanes && x + count < grid_.out_width && right_of(x + count) - base < lanes) ++count;
      first_.push_back(x);
      count_.push_back(count);
      base_.push_back(base);
      const size_t begin = scatter_.size();
      scatter_.resize(begin + static_cast<size_t>(lanes * lanes));
      for (int64_t lane = 0; lane < lanes; ++lane) {
        // Lanes without a pixel repeat the last one with weight 0.
        const int64_t pixel = x + std::min(lane, count - 1);
        const int64_t left = columns.index[static_cast<size_t>(pixel)] - base, right = right_of(pixel) - base;
        const Real lambda = columns.lambda[static_cast<size_t>(pixel)];
        left_.push_back(static_cast<int32_t>(left));
        right_.push_back(static_cast<int32_t>(right));
        lambda_.push_back(lambda);
        if (lane >= count) continue;
        scatter_[begin + static_cast<size_t>(lane * lanes + left)] += 1 - lambda;
        scatter_[begin + static_cast<size_t>(lane * lanes + right)] += lambda;
      }
      x += count;
    }
  }

  Axis<Real> rows_;
  std::vector<int64_t> row_begin_, first_, count_, base_;
  std::vector<int32_t> left_, right_;
  std::vector<Real> lambda_, scatter_;
  Grid<Real> grid_;
};

// Kernels of the best instruction set that LibTorch uses too, so that ATEN_CPU_CAPABILITY=default, avx2 or avx512
// applies to both.
template <typename Real>
const Kernels<Real>& kernels() {
  static const Kernels<Real>& chosen = []() -> const Kernels<Real>& {
    [[maybe_unused]] const std::string capability = at::get_cpu_capability();
    const auto pick = [](const Kernels<float>& of_float, const Kernels<double>& of_double) -> const Kernels<Real>& {
      if constexpr (std::is_same_v<Real, float>) return of_float;
      else return of_double;
    };
#ifdef BIDISEG_X86_KERNELS
    if (capability.starts_with("AVX512")) return pick(avx512::float_kernels(), avx512::double_kernels());
    if (capability == "AVX2") return pick(avx2::float_kernels(), avx2::double_kernels());
#endif
    return pick(portable::float_kernels(), portable::double_kernels());
  }();
  return chosen;
}

struct FreeAligned {
  void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};

// Runs the jobs of a task on LibTorch's threads.
template <typename Real, typename Task>
void run_jobs(const Task& task, void (*run)(const Task&, int64_t, void*)) {
  const auto bytes = static_cast<size_t>(kernels<Real>().scratch_bytes(task.grid));
  at::parallel_for(0, task.grid.jobs(), 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<std::byte, FreeAligned> scratch(
        static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64})));
    for (int64_t job = begin; job < end; ++job) run(task, job, scratch.get());
  });
}

// Gradient that jobs write in parts.
template <typename Real>
class GradientParts {
 public:
  GradientParts(const at::Tensor& logits, const Grid<Real>& grid)
      : gradient_(at::empty(logits.sizes(), logits.options().requires_grad(false))),
        seam_(at::empty({grid.jobs(), grid.classes, grid.width}, gradient_.options())) {}

  GradientOut<Real> out() const { return {gradient_.mutable_data_ptr<Real>(), seam_.mutable_data_ptr<Real>()}; }

  /// Whole gradient, after all jobs have run.
  at::Tensor join(const Grid<Real>& grid) const {
    auto* gradient = gradient_.mutable_data_ptr<Real>();
    const auto* seam = seam_.const_data_ptr<Real>();
    for (int64_t job = 0; job < grid.jobs(); ++job) {
      const int64_t image = job / grid.bands(), band = job % grid.bands();
      if (band + 1 == grid.bands()) continue;
      for (int64_t c = 0; c < grid.classes; ++c) {
        Real* row = gradient + ((image * grid.classes + c) * grid.height + (band + 1) * kBand) * grid.width;
        const Real* part = seam + (job * grid.classes + c) * grid.width;
        for (int64_t x = 0; x < grid.width; ++x) row[x] += part[x];
      }
    }
    return gradient_;
  }

 private:
  at::Tensor gradient_, seam_;
};

template <typename Real>
const Real* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<Real>() : nullptr;
}

template <typename Real>
CrossEntropyOutput cross_entropy_cpu(const CrossEntropyInput& input) {
  const GridTables<Real> tables(input.logits, input.size, kernels<Real>().lanes);
  const Grid<Real>& grid = tables.grid();
  const auto jobs = static_cast<size_t>(grid.jobs());
  CrossEntropyOutput output;
  CrossEntropy<Real> task;
  task.grid = grid;
  if (input.labels.defined()) {
    if (input.labels.scalar_type() == at::kByte) {
      task.labels8 = input.labels.const_data_ptr<uint8_t>();
    } else {
      task.labels64 = input.labels.const_data_ptr<int64_t>();
    }
  }
  task.ignore_index = input.ignore_index;
  task.thresholds = data_or_null<Real>(input.thresholds);
  task.inclusive = input.inclusive;
  task.class_weights = data_or_null<Real>(input.class_weights);
  task.pixel_weights = data_or_null<Real>(input.pixel_weights);
  std::optional<GradientParts<Real>> parts;
  if (input.with_gradient) {
    parts.emplace(input.logits, grid);
    task.out = parts->out();
  }
  if (input.with_prediction) {
    const std::vector<int64_t> shape = {grid.batch, grid.out_height, grid.out_width};
    output.predicted = at::empty(shape, input.logits.options().dtype(at::kByte).requires_grad(false));
    output.confidence = at::empty(shape, input.logits.options().requires_grad(false));
    task.predicted = output.predicted.mutable_data_ptr<uint8_t>();
    task.confidence = output.confidence.mutable_data_ptr<Real>();
  }
  std::vector<double> loss(jobs), weight(jobs);
  std::vector<int64_t> invalid(jobs, kNoInvalidLabel);
  task.loss = loss.data();
  task.weight = weight.data();
  task.invalid_label = invalid.data();
  run_jobs<Real>(task, kernels<Real>().cross_entropy);
  const auto total = [&](const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return at::scalar_tensor(sum, input.logits.options().requires_grad(false));
  };
  output.loss = total(loss);
  output.weight = total(weight);
  output.invalid_label = at::scalar_tensor(*std::max_element(invalid.begin(), invalid.end()), at::kLong);
  if (parts) output.gradient = parts->join(grid);
  return output;
}

template <typename Real>
void argmax_cpu(const at::Tensor& logits, const Upsampling& size, SoftmaxOrder order, at::Tensor& predicted,
                at::Tensor* confidence) {
  const GridTables<Real> tables(logits, size, kernels<Real>().lanes);
  Predict<Real> task;
  task.grid = tables.grid();
  task.probabilities = order == SoftmaxOrder::kBeforeUpsampling;
  task.predicted = predicted.mutable_data_ptr<uint8_t>();
  if (confidence != nullptr) task.confidence = confidence->mutable_data_ptr<Real>();
  run_jobs<Real>(task, kernels<Real>().predict);
}

template <typename Real>
at::Tensor softmax_cpu(const at::Tensor& logits, const Upsampling& size) {
  at::Tensor probabilities =
      at::empty({logits.size(0), logits.size(1), size.height, size.width}, logits.options().requires_grad(false));
  const GridTables<Real> tables(logits, size, kernels<Real>().lanes);
  Softmax<Real> task;
  task.grid = tables.grid();
  task.probabilities = probabilities.mutable_data_ptr<Real>();
  run_jobs<Real>(task, kernels<Real>().softmax);
  return probabilities;
}

template <typename Real>
at::Tensor softmax_backward_cpu(const at::Tensor& logits, const Upsampling& size, const at::Tensor& upstream) {
  const GridTables<Real> tables(logits, size, kernels<Real>().lanes);
  const GradientParts<Real> parts(logits, tables.grid());
  SoftmaxBackward<Real> task;
  task.grid = tables.grid();
  task.upstream = upstream.const_data_ptr<Real>();
  task.out = parts.out();
  run_jobs<Real>(task, kernels<Real>().softmax_backward);
  return parts.join(tables.grid());
}

// Calls run<float>() or run<double>() by the dtype of the logits.
template <typename Run>
auto with_dtype(const at::Tensor& logits, Run run) {
  return logits.scalar_type() == at::kFloat ? run.template operator()<float>() : run.template operator()<double>();
}

}  // namespace

CrossEntropyOutput upsampled_cross_entropy(const CrossEntropyInput& input) {
#ifdef BIDISEG_CUDA
  if (input.logits.is_cuda()) return cuda::upsampled_cross_entropy(input);
#endif
  return with_dtype(input.logits, [&]<typename Real>() { return cross_entropy_cpu<Real>(input); });
}

void upsampled_argmax(const at::Tensor& logits, const Upsampling& size, SoftmaxOrder order, at::Tensor& predicted,
                      at::Tensor* confidence) {
  const std::vector<int64_t> shape = {logits.size(0), size.height, size.width};
  predicted = at::empty(shape, logits.options().dtype(at::kByte).requires_grad(false));
  if (confidence != nullptr) *confidence = at::empty(shape, logits.options().requires_grad(false));
#ifdef BIDISEG_CUDA
  if (logits.is_cuda()) return cuda::upsampled_argmax(logits, size, order, predicted, confidence);
#endif
  with_dtype(logits, [&]<typename Real>() { argmax_cpu<Real>(logits, size, order, predicted, confidence); });
}

at::Tensor upsampled_softmax(const at::Tensor& logits, const Upsampling& size) {
#ifdef BIDISEG_CUDA
  if (logits.is_cuda()) return cuda::upsampled_softmax(logits, size);
#endif
  return with_dtype(logits, [&]<typename Real>() { return softmax_cpu<Real>(logits, size); });
}

at::Tensor upsampled_softmax_backward(const at::Tensor& logits, const Upsampling& size, const at::Tensor& upstream) {
#ifdef BIDISEG_CUDA
  if (logits.is_cuda()) return cuda::upsampled_softmax_backward(logits, size, upstream);
#endif
  return with_dtype(logits, [&]<typename Real>() { return softmax_backward_cpu<Real>(logits, size, upstream); });
}

}  // namespace bidiseg::kernels
