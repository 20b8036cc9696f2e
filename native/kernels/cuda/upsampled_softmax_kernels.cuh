// The CUDA kernels, without ATen, so that test/native can run the same code on the CPU and find races and missing
// barriers.
//
// As on the CPU, work is done per cell row: the pixel rows between two rows of the low-resolution grid. In the fast
// path a thread owns one output column of a cell row. It interpolates between the corners of its cells once, from left
// to right, and keeps the logits at the top and their differences to the bottom in registers, together with the sums of
// softmaxes. So a logit costs three multiply-adds, one sum and one exponential. What belongs to the label alone, its
// logit and its share of the gradient, is kept in shared memory, where a label can be an index. A block sums the
// gradients of its columns per grid column in shared memory and writes partial sums, which another kernel adds in a
// fixed order. Only reports of invalid labels use
// atomics, so that the same input gives the same bits.
//
// Grid values are prepared first: relative to the largest logit of the grid point, in units of log 2.
#pragma once

#include <cstdint>

namespace bidiseg::kernels::cuda {

constexpr int kThreads = 128;      // output columns in a block
constexpr int kMaxClasses = 40;    // of the fast path: five arrays of this many registers
constexpr float kTiny = 0x1p-60f;  // sums of exponentials below this are computed again
constexpr float kLn2 = 0.6931471805599453f;

/// One axis of the upsampling, computed in double like the tables of the CPU kernels.
struct Axis {
  int64_t in, out;
  double scale, shift;

  __host__ __device__ Axis(int64_t in, int64_t out, bool align_corners) : in(in), out(out), scale(1), shift(0) {
    if (in == out) return;
    shift = align_corners ? 0 : 0.5;
    scale = !align_corners ? static_cast<double>(in) / static_cast<double>(out)
            : out > 1      ? static_cast<double>(in - 1) / static_cast<double>(out - 1)
                           : 0.0;
  }

  __device__ double source(int64_t i) const {
    // Not contracted to a multiply-add, so that the bits are those of the host.
    const double s = __dsub_rn(__dmul_rn(scale, static_cast<double>(i) + shift), shift);
    return s > 0 ? s : 0;
  }
  /// Sample at or before the source of output i; the other one is next(index).
  __device__ int64_t index(int64_t i) const {
    const auto whole = static_cast<int64_t>(source(i));
    return whole < in - 1 ? whole : in - 1;
  }
  __device__ int64_t next(int64_t index) const { return index + 1 < in ? index + 1 : index; }
  /// Weight of the sample next(index).
  __device__ float lambda(int64_t i, int64_t index) const {
    const double rest = source(i) - static_cast<double>(index);
    return static_cast<float>(rest < 1 ? rest : 1);
  }
  /// First output whose index is at least `index`.
  __device__ int64_t begin(int64_t index) const {
    if (index <= 0) return 0;
    if (scale == 0) return out;
    auto i = static_cast<int64_t>((static_cast<double>(index) + shift) / scale - shift);
    i = i < 0 ? 0 : i > out ? out : i;
    while (i > 0 && this->index(i - 1) >= index) --i;
    while (i < out && this->index(i) < index) ++i;
    return i;
  }
};

/// Upsampling of prepared values [batch, classes, rows.in, columns.in].
struct Grid {
  const float* values;
  int64_t batch, classes;
  Axis rows, columns;

  __device__ int64_t plane() const { return rows.in * columns.in; }
  __device__ int64_t pixels() const { return rows.out * columns.out; }
};

/// Input and output of the cross-entropy. The same pointers may be null as in cpu/cell_sweep.h.
struct CrossEntropy {
  Grid grid;
  const uint8_t* labels8;
  const int64_t* labels64;
  int64_t ignore_index;
  const float* thresholds;
  bool inclusive;
  const float* class_weights;
  const float* pixel_weights;
  bool gradient;
  uint8_t* predicted;
  float* confidence;
  double* loss;              ///< [blocks]
  double* weight;            ///< [blocks]
  long long* invalid_label;  ///< raised to the largest label that is out of range
};

__device__ inline float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return exp2f(x);
#endif
}

/// values[n, c, i, j] = (logits[n, c, i, j] - max over classes) / ln 2, for `padded` classes; -inf for classes without
/// logits. With `softmax`, their softmax instead. One thread per grid point.
template <typename Logit>
__global__ void prepare(const Logit* logits, float* values, int64_t batch, int64_t classes, int64_t padded,
                        int64_t plane, bool softmax) {
  const int64_t point = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (point >= batch * plane) return;
  const Logit* from = logits + point / plane * classes * plane + point % plane;
  float* to = values + point / plane * padded * plane + point % plane;
  float largest = static_cast<float>(from[0]);
#pragma unroll 8
  for (int64_t c = 1; c < classes; ++c) {
    const auto z = static_cast<float>(from[c * plane]);
    largest = z > largest || z != z ? z : largest;
  }
  constexpr float kLog2E = 1.4426950408889634f;
  const auto relative = [&](int64_t c) { return (static_cast<float>(from[c * plane]) - largest) * kLog2E; };
  if (softmax) {
    float total = 0;
    for (int64_t c = 0; c < classes; ++c) total += exp2_fast(relative(c));
    for (int64_t c = 0; c < classes; ++c) to[c * plane] = exp2_fast(relative(c)) / total;
  } else {
#pragma unroll 8
    for (int64_t c = 0; c < classes; ++c) to[c * plane] = relative(c);
  }
  for (int64_t c = classes; c < padded; ++c) to[c * plane] = -INFINITY;
}

/// Label of a pixel; -1 if it does not count.
__device__ inline int load_label(const CrossEntropy& task, int64_t offset) {
  const int64_t value = task.labels8 != nullptr ? task.labels8[offset] : task.labels64[offset];
  if (value == task.ignore_index) return -1;
  if (value >= 0 && value < task.grid.classes) return static_cast<int>(value);
  atomicMax(task.invalid_label, static_cast<long long>(value));
  return -1;
}

/// The argmax if its probability exceeds the threshold, otherwise -1. Stores both if requested.
__device__ inline int online_label(const CrossEntropy& task, int64_t offset, int argmax, float confidence) {
  if (task.predicted != nullptr) task.predicted[offset] = static_cast<uint8_t>(argmax);
  if (task.confidence != nullptr) task.confidence[offset] = confidence;
  const float threshold = task.thresholds[argmax];
  const bool kept = task.inclusive ? confidence >= threshold : confidence > threshold;
  return kept || confidence != confidence ? argmax : -1;  // a NaN counts, so that the loss becomes NaN
}

__device__ inline float pixel_weight(const CrossEntropy& task, int64_t offset, int label) {
  float weight = 1;
  if (task.class_weights != nullptr) weight *= task.class_weights[label];
  if (task.pixel_weights != nullptr) weight *= task.pixel_weights[offset];
  return weight;
}

/// Sum of a double over the block, in a fixed order, in thread 0. `shared` holds kThreads doubles.
__device__ inline double block_sum(double value, double* shared) {
  __syncthreads();
  shared[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  __syncthreads();
  return shared[0];
}

/// Partial gradients of the fast path: [image, cell row, tile, above or below, class, column]. `columns` is the largest
/// number of grid columns that the kThreads output columns of a tile can touch.
struct Partials {
  float* values;
  int64_t tiles, columns;

  explicit Partials(const Grid& grid)
      : values(nullptr),
        tiles((grid.columns.out + kThreads - 1) / kThreads),
        // The sources of the first to the last output column, the next one, and one for rounding.
        columns(static_cast<int64_t>(kThreads * grid.columns.scale) + 3) {
    if (columns > grid.columns.in) columns = grid.columns.in;
  }

  int64_t size(const Grid& grid) const { return grid.batch * grid.rows.in * tiles * 2 * grid.classes * columns; }

  __device__ float* at(const Grid& grid, int64_t image, int64_t row, int64_t tile, int side, int64_t c) const {
    return values + ((((image * grid.rows.in + row) * tiles + tile) * 2 + side) * grid.classes + c) * columns;
  }
};

/// Output column of a cell row, by the indices of its corners, the four grid points around its pixels.
struct Column {
  int64_t image, row, below;  ///< grid rows above and below
  int64_t left, right;        ///< grid columns
  float lambda;               ///< weight of the right corners
};

/// Logits of a column's pixels, in registers: z_c = top[c] + lambda * difference[c] for a pixel whose weight of the
/// grid row below is lambda.
template <int K>
struct ColumnLogits {
  float top[K], difference[K];

  __device__ __forceinline__ ColumnLogits(const Grid& grid, const Column& column) {
    const int64_t plane = grid.plane();
#pragma unroll
    for (int c = 0; c < K; ++c) {
      const float* above_corners = grid.values + (column.image * K + c) * plane + column.row * grid.columns.in;
      const float* below_corners = grid.values + (column.image * K + c) * plane + column.below * grid.columns.in;
      const float top_left = above_corners[column.left], top_right = above_corners[column.right];
      const float bottom_left = below_corners[column.left], bottom_right = below_corners[column.right];
      // A padded class is -inf everywhere, and -inf - -inf is not a number.
      const bool exists = c < grid.classes;
      top[c] = exists ? top_left + column.lambda * (top_right - top_left) : top_left;
      difference[c] = exists ? bottom_left + column.lambda * (bottom_right - bottom_left) - top[c] : 0.0f;
    }
  }

  __device__ __forceinline__ float at(int c, float lambda) const { return top[c] + lambda * difference[c]; }

  /// First class with the largest logit, which is stored in `best`.
  __device__ __forceinline__ int find_argmax(float lambda, float& best) const {
    int argmax = 0;
    best = -INFINITY;
#pragma unroll
    for (int c = 0; c < K; ++c) {
      const float z = at(c, lambda);
      if (z > best) {
        best = z;
        argmax = c;
      }
    }
    return argmax;
  }

  /// Computes e[c] = 2^(z_c - shift) and returns their sum. Some z_c is 0 at each grid point, but between points with
  /// different best classes all may be far below 0. Only if the sum would underflow, `shift` is the largest z_c instead
  /// of 0.
  __device__ __forceinline__ float exponentials(float lambda, float (&e)[K], float& shift) const {
    float total = 0;
    shift = 0;
#pragma unroll
    for (int c = 0; c < K; ++c) {
      e[c] = exp2_fast(at(c, lambda));
      total += e[c];
    }
    if (total < kTiny) {
      shift = at(0, lambda);
#pragma unroll
      for (int c = 1; c < K; ++c) shift = fmaxf(shift, at(c, lambda));
      total = 0;
#pragma unroll
      for (int c = 0; c < K; ++c) {
        e[c] = exp2_fast(at(c, lambda) - shift);
        total += e[c];
      }
    }
    return total;
  }
};

/// Softmaxes of a column's pixels, in registers: their sum, and their sum weighted by lambda, the part of the grid row
/// below. Each has the weight of its pixel.
template <int K>
struct ColumnSoftmax {
  float sum[K], sum_below[K];

  __device__ __forceinline__ ColumnSoftmax() {
#pragma unroll
    for (int c = 0; c < K; ++c) sum[c] = sum_below[c] = 0;
  }

  __device__ __forceinline__ void add(const float (&e)[K], float total, float weight, float lambda) {
    const float scale = weight / total, scale_below = scale * lambda;
#pragma unroll
    for (int c = 0; c < K; ++c) {
      sum[c] += e[c] * scale;
      sum_below[c] += e[c] * scale_below;
    }
  }
};

/// What the threads of a tile share. A tile is kThreads output columns of a cell row, from column `first` on; `base` is
/// the first grid column that it touches.
template <int K>
struct Tile {
  /// Logits of the label by an index, up to as many classes as fit beside the gradients in 48 KiB.
  static constexpr bool kHasLogits = K <= 20;
  /// One more than the columns, so that the classes of a column lie in different banks.
  static constexpr int kStride = kThreads + 1;

  float gradients[2][K][kStride];                ///< for the grid rows above and below
  float logits[2][kHasLogits ? K : 1][kStride];  ///< ColumnLogits: top, difference
  float lambdas[kThreads];                       ///< weight of the grid column to the right of each column
  int indices[kThreads];                         ///< grid column to the left of each column, from `base`
  int begins[kThreads + 8];                      ///< first column at or after grid column base - 1 + k, from `first`
  int64_t rows[2];                               ///< the pixel rows of the cell row: begin and end
};

/// Writes the sums of `loss` and `weight` over the block. `shared` holds kThreads doubles.
__device__ inline void write_block_sums(const CrossEntropy& task, double loss, double weight, int64_t block,
                                        double* shared) {
  const double block_loss = block_sum(loss, shared), block_weight = block_sum(weight, shared);
  if (threadIdx.x == 0) {
    task.loss[block] = block_loss;
    task.weight[block] = block_weight;
  }
}

/// Grid columns that a tile touches, from the index of its first column on.
struct Touched {
  int64_t first, last;  ///< output columns of the tile; `last` is one more
  int64_t base;
  int count;

  __device__ Touched(const Axis& columns, int64_t tile) : first(tile * kThreads), last(first + kThreads) {
    if (last > columns.out) last = columns.out;
    base = columns.index(first);
    count = static_cast<int>(columns.next(columns.index(last - 1)) - base) + 1;
  }
};

/// Writes the partial gradients of a tile from tile.gradients. One thread a class, side and grid column: it sums over
/// the output columns of the cells to the left and right of the grid column.
template <int K>
__device__ __forceinline__ void write_partials(const Grid& grid, const Partials& partials, int64_t image, int64_t row,
                                               const Touched& touched, const Tile<K>& tile) {
  const int classes = static_cast<int>(grid.classes),
            last_column = static_cast<int>(grid.columns.in - touched.base) - 1;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * classes * touched.count; i += kThreads) {
    // Classes are next to each other: they lie in different banks.
    const int c = i % classes, side = i / classes % 2, j = i / classes / 2;
    const float* gradients = tile.gradients[side][c];
    float sum = 0;
    for (int column = tile.begins[j]; column < tile.begins[j + 2]; ++column) {
      const int source = tile.indices[column];
      const float behind = tile.lambdas[column];
      float share = source == j ? 1 - behind : 0.0f;
      if ((source < last_column ? source + 1 : source) == j) share += behind;
      sum += share * gradients[column];
    }
    partials.at(grid, image, row, blockIdx.x, side, c)[j] = sum;
  }
}

/// Fast path of the cross-entropy. Grid: (tiles, cell rows, images), kThreads threads. grid.values is padded to K
/// classes.
template <int K>
__global__ void __launch_bounds__(kThreads, K <= 20 ? 4 : 2) cross_entropy_cells(CrossEntropy task, Partials partials) {
  __shared__ Tile<K> tile;
  __shared__ double sums[kThreads];
  const Grid& grid = task.grid;
  const int64_t row = blockIdx.y, image = blockIdx.z, below = grid.rows.next(row);
  const Touched touched(grid.columns, blockIdx.x);
  const int me = static_cast<int>(threadIdx.x);
  const int64_t x = touched.first + me;

  // The column of this thread. Threads past the last column repeat it but have no pixels.
  const bool inside = x < grid.columns.out;
  const int64_t source = inside ? x : grid.columns.out - 1;
  const int64_t left = grid.columns.index(source);
  const float lambda_x = grid.columns.lambda(source, left);
  const ColumnLogits<K> logits(
      grid,
      {.image = image, .row = row, .below = below, .left = left, .right = grid.columns.next(left), .lambda = lambda_x});
  tile.lambdas[me] = lambda_x;
  tile.indices[me] = static_cast<int>(left - touched.base);
  if (me < 2) tile.rows[me] = grid.rows.begin(row + me);
  for (int k = me; k < touched.count + 2; k += kThreads) {
    int64_t begin = grid.columns.begin(touched.base - 1 + k);
    begin = begin < touched.first ? touched.first : begin > touched.last ? touched.last : begin;
    tile.begins[k] = static_cast<int>(begin - touched.first);
  }
#pragma unroll
  for (int c = 0; c < K; ++c) {
    tile.gradients[0][c][me] = tile.gradients[1][c][me] = 0;
    if constexpr (Tile<K>::kHasLogits) {
      tile.logits[0][c][me] = logits.top[c];
      tile.logits[1][c][me] = logits.difference[c];
    }
  }
  __syncthreads();

  // Its pixels, from top to bottom.
  ColumnSoftmax<K> softmax;
  double loss = 0, weights = 0;
  const int64_t end = inside ? tile.rows[1] : 0;
  for (int64_t y = inside ? tile.rows[0] : 0; y < end; ++y) {
    const int64_t offset = (image * grid.rows.out + y) * grid.columns.out + x;
    const bool labeled = task.labels8 != nullptr || task.labels64 != nullptr;
    int label = labeled ? load_label(task, offset) : 0;
    if (label < 0) continue;
    const float lambda = grid.rows.lambda(y, row);
    float e[K], shift;
    const float total = logits.exponentials(lambda, e, shift);
    if (!labeled) {
      float best;
      label = logits.find_argmax(lambda, best);
      label = online_label(task, offset, label, exp2_fast(best - shift) / total);
      if (label < 0) continue;
    }
    const float weight = pixel_weight(task, offset, label);
    float z_label = 0;
    if constexpr (Tile<K>::kHasLogits) {
      z_label = tile.logits[0][label][me] + lambda * tile.logits[1][label][me] - shift;
    } else {
#pragma unroll
      for (int c = 0; c < K; ++c) z_label = c == label ? logits.at(c, lambda) - shift : z_label;
    }
    loss += weight * ((log2f(total) - z_label) * kLn2);
    weights += weight;
    softmax.add(e, total, weight, lambda);
    tile.gradients[0][label][me] += weight;
    tile.gradients[1][label][me] += weight * lambda;
  }
  write_block_sums(task, loss, weights, (image * gridDim.y + row) * gridDim.x + blockIdx.x, sums);
  if (!task.gradient) return;

  // The gradients of the block's columns, softmax minus one-hot label, for the grid rows above and below.
#pragma unroll
  for (int c = 0; c < K; ++c) {
    const bool at_bottom = below == row;
    const float all = softmax.sum[c] - tile.gradients[0][c][me];
    const float of_below = at_bottom ? 0.0f : softmax.sum_below[c] - tile.gradients[1][c][me];
    tile.gradients[0][c][me] = all - of_below;
    tile.gradients[1][c][me] = of_below;
  }
  __syncthreads();
  write_partials<K>(grid, partials, image, row, touched, tile);
}

constexpr int kJoined = 4;  // classes of a thread in join_partials

/// gradient[n, c, i, j] from the partial sums of the cell rows above and below grid row i, and of the tiles that touch
/// grid column j. One thread a grid point and kJoined classes, whose number is the y of the block.
__global__ void join_partials(Grid grid, Partials partials, float* gradient) {
  const int64_t point = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t plane = grid.plane();
  if (point >= grid.batch * plane) return;
  const int64_t j = point % grid.columns.in, i = point / grid.columns.in % grid.rows.in, image = point / plane;
  const int64_t from = grid.columns.begin(j - 1), to = grid.columns.begin(j + 1);
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kJoined;
  float sums[kJoined] = {};
  for (int side = 1; side >= 0; --side) {
    const int64_t row = i - side;
    if (row < 0) continue;
    for (int64_t tile = from / kThreads; tile * kThreads < to; ++tile) {
      const float* values = partials.at(grid, image, row, tile, side, first) + j - grid.columns.index(tile * kThreads);
#pragma unroll
      for (int c = 0; c < kJoined; ++c) {
        if (first + c < grid.classes) sums[c] += values[c * partials.columns];
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kJoined; ++c) {
    if (first + c < grid.classes) gradient[(image * grid.classes + first + c) * plane + point % plane] = sums[c];
  }
}

/// Sums `losses` and `weights` over blocks, in a fixed order. One block.
__global__ void sum_blocks(const double* losses, const double* weights, int64_t blocks, float* loss, float* weight) {
  __shared__ double sums[kThreads];
  double my_loss = 0, my_weight = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) {
    my_loss += losses[i];
    my_weight += weights[i];
  }
  const double total_loss = block_sum(my_loss, sums), total_weight = block_sum(my_weight, sums);
  if (threadIdx.x == 0) {
    *loss = static_cast<float>(total_loss);
    *weight = static_cast<float>(total_weight);
  }
}

/// Upsampled values of one pixel, by class.
struct Pixel {
  const float* top_left;        ///< the corner of class 0
  int64_t plane, right, below;  ///< steps to the same corner of the next class, and to the other corners
  float lambda_x, lambda_y;

  __device__ Pixel(const Grid& grid, int64_t padded, int64_t image, int64_t y, int64_t x) : plane(grid.plane()) {
    const int64_t i = grid.rows.index(y), j = grid.columns.index(x);
    top_left = grid.values + image * padded * plane + i * grid.columns.in + j;
    right = grid.columns.next(j) - j;
    below = (grid.rows.next(i) - i) * grid.columns.in;
    lambda_x = grid.columns.lambda(x, j);
    lambda_y = grid.rows.lambda(y, i);
  }

  __device__ float operator()(int64_t c) const {
    const float* corner = top_left + c * plane;
    const float top = corner[0] + lambda_x * (corner[right] - corner[0]);
    const float bottom = corner[below] + lambda_x * (corner[below + right] - corner[below]);
    return top + lambda_y * (bottom - top);
  }
};

/// Sum of 2^(z_c - shift); `shift` is 0 unless the sum would underflow.
__device__ inline float sum_exponentials(const Pixel& pixel, int64_t classes, float& shift) {
  shift = 0;
  float total = 0;
  for (int64_t c = 0; c < classes; ++c) total += exp2_fast(pixel(c));
  if (!(total < kTiny)) return total;
  shift = pixel(0);
  for (int64_t c = 1; c < classes; ++c) shift = fmaxf(shift, pixel(c));
  total = 0;
  for (int64_t c = 0; c < classes; ++c) total += exp2_fast(pixel(c) - shift);
  return total;
}

/// First class with the largest value, which is stored in `best`.
__device__ inline int find_argmax(const Pixel& pixel, int64_t classes, float& best) {
  int argmax = 0;
  best = pixel(0);
  for (int64_t c = 1; c < classes; ++c) {
    const float z = pixel(c);
    if (z > best) {
      best = z;
      argmax = static_cast<int>(c);
    }
  }
  return argmax;
}

/// Argmax and its probability, from prepared logits or from probabilities. One thread per pixel.
__global__ void argmax_pixels(Grid grid, bool probabilities, uint8_t* predicted, float* confidence) {
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (offset >= grid.batch * grid.pixels()) return;
  const Pixel pixel(grid, grid.classes, offset / grid.pixels(), offset % grid.pixels() / grid.columns.out,
                    offset % grid.columns.out);
  float best, shift;
  predicted[offset] = static_cast<uint8_t>(find_argmax(pixel, grid.classes, best));
  if (confidence == nullptr) return;
  if (!probabilities) {
    const float total = sum_exponentials(pixel, grid.classes, shift);
    best = exp2_fast(best - shift) / total;
  }
  confidence[offset] = best;
}

/// Softmax of the upsampled logits, [batch, classes, H, W]. One thread per pixel.
__global__ void softmax_pixels(Grid grid, float* result) {
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t pixels = grid.pixels();
  if (offset >= grid.batch * pixels) return;
  const int64_t image = offset / pixels, at = offset % pixels;
  const Pixel pixel(grid, grid.classes, image, at / grid.columns.out, at % grid.columns.out);
  float shift;
  const float scale = 1 / sum_exponentials(pixel, grid.classes, shift);
  for (int64_t c = 0; c < grid.classes; ++c) {
    result[(image * grid.classes + c) * pixels + at] = exp2_fast(pixel(c) - shift) * scale;
  }
}

/// Values for the gradient of a pixel: g_c = 2^(z_c - shift) * scale - (label == c) * weight for the cross-entropy, and
/// g_c = 2^(z_c - shift) * scale * (upstream_c - weight) for the softmax.
struct PixelState {
  float shift, scale, weight;
  int label;
};

/// Cross-entropy of any number of classes, first half: loss and state of each pixel. Grid-stride loop over pixels.
__global__ void cross_entropy_pixels(CrossEntropy task, PixelState* states) {
  __shared__ double sums[kThreads];
  const Grid& grid = task.grid;
  double loss = 0, weights = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t offset = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; offset < grid.batch * grid.pixels();
       offset += stride) {
    const bool labeled = task.labels8 != nullptr || task.labels64 != nullptr;
    PixelState state{0, 0, 0, labeled ? load_label(task, offset) : 0};
    if (state.label >= 0) {
      const Pixel pixel(grid, grid.classes, offset / grid.pixels(), offset % grid.pixels() / grid.columns.out,
                        offset % grid.columns.out);
      const float total = sum_exponentials(pixel, grid.classes, state.shift);
      if (!labeled) {
        float best;
        const int argmax = find_argmax(pixel, grid.classes, best);
        state.label = online_label(task, offset, argmax, exp2_fast(best - state.shift) / total);
      }
      if (state.label >= 0) {
        state.weight = pixel_weight(task, offset, state.label);
        state.scale = state.weight / total;
        loss += state.weight * ((log2f(total) - (pixel(state.label) - state.shift)) * kLn2);
        weights += state.weight;
      }
    }
    if (states != nullptr) states[offset] = state;
  }
  write_block_sums(task, loss, weights, blockIdx.x, sums);
}

/// First half of the softmax's gradient: the state of each pixel. Its weight is the mean of the upstream gradient under
/// the softmax.
__global__ void softmax_backward_pixels(Grid grid, const float* upstream, PixelState* states) {
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t pixels = grid.pixels();
  if (offset >= grid.batch * pixels) return;
  const int64_t image = offset / pixels, at = offset % pixels;
  const Pixel pixel(grid, grid.classes, image, at / grid.columns.out, at % grid.columns.out);
  PixelState state{0, 0, 0, 0};
  state.scale = 1 / sum_exponentials(pixel, grid.classes, state.shift);
  for (int64_t c = 0; c < grid.classes; ++c) {
    state.weight +=
        exp2_fast(pixel(c) - state.shift) * state.scale * upstream[(image * grid.classes + c) * pixels + at];
  }
  states[offset] = state;
}

/// Second half of both: each element of the gradient sums over its pixels, in order. One thread per element. `upstream`
/// is null for the cross-entropy.
__global__ void gather_gradient(Grid grid, const PixelState* states, const float* upstream, float* gradient) {
  const int64_t element = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t plane = grid.plane(), pixels = grid.pixels();
  if (element >= grid.batch * grid.classes * plane) return;
  const int64_t j = element % grid.columns.in, i = element / grid.columns.in % grid.rows.in;
  const int64_t c = element / plane % grid.classes, image = element / plane / grid.classes;
  const auto share = [](const Axis& axis, int64_t output, int64_t input) {
    const int64_t index = axis.index(output);
    const float behind = axis.lambda(output, index);
    return (index == input ? 1 - behind : 0.0f) + (axis.next(index) == input ? behind : 0.0f);
  };
  float sum = 0;
  for (int64_t y = grid.rows.begin(i - 1); y < grid.rows.begin(i + 1); ++y) {
    float row = 0;
    for (int64_t x = grid.columns.begin(j - 1); x < grid.columns.begin(j + 1); ++x) {
      const int64_t at = y * grid.columns.out + x;
      const PixelState state = states[image * pixels + at];
      if (state.scale == 0) continue;
      const float e = exp2_fast(Pixel(grid, grid.classes, image, y, x)(c) - state.shift) * state.scale;
      const float g = upstream == nullptr ? e - (state.label == c ? state.weight : 0.0f)
                                          : e * (upstream[(image * grid.classes + c) * pixels + at] - state.weight);
      row += share(grid.columns, x, j) * g;
    }
    sum += share(grid.rows, y, i) * row;
  }
  gradient[element] = sum;
}

}  // namespace bidiseg::kernels::cuda
