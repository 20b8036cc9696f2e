// The CPU kernels, written once with the compiler's vector types and compiled for each instruction set. Each such
// source defines BIDISEG_ISA, the namespace, and BIDISEG_VECTOR_BYTES before it includes this file.
//
// Nothing here may instantiate an inline function of another header: the linker keeps one copy of each, and a copy
// compiled for AVX-512 would then run everywhere. Hence no <algorithm>, no <cmath>, no ATen.
#pragma once

#include "kernels/cpu/cell_sweep.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace bidiseg::kernels::cpu::BIDISEG_ISA {
namespace {

// Vectors with the same number of lanes: reals, integers of their size, doubles and bytes.
template <typename Real>
struct Types;
template <>
struct Types<float> {
  static constexpr int kLanes = BIDISEG_VECTOR_BYTES / 4;
  typedef float Vec __attribute__((vector_size(BIDISEG_VECTOR_BYTES)));
  typedef int32_t Int __attribute__((vector_size(BIDISEG_VECTOR_BYTES)));
  typedef double Wide __attribute__((vector_size(kLanes * 8)));
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
};
template <>
struct Types<double> {
  static constexpr int kLanes = BIDISEG_VECTOR_BYTES / 8;
  typedef double Vec __attribute__((vector_size(BIDISEG_VECTOR_BYTES)));
  typedef int64_t Int __attribute__((vector_size(BIDISEG_VECTOR_BYTES)));
  typedef double Wide __attribute__((vector_size(kLanes * 8)));
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
};
template <typename Real>
using Vec = typename Types<Real>::Vec;
template <typename Real>
using Int = typename Types<Real>::Int;
template <typename Real>
using Lane = decltype(Int<Real>{}[0] + 0);
template <typename Real>
inline constexpr int kLanes = Types<Real>::kLanes;

template <typename Real>
inline Vec<Real> load(const Real* from) {
  Vec<Real> value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <typename Real>
inline void store(Real* to, Vec<Real> value) {
  __builtin_memcpy(to, &value, sizeof(value));
}

template <typename Real>
inline Vec<Real> broadcast(Real value) {
  return value - Vec<Real>{};
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Returns a NaN in `a`: maximum instructions return their second operand then.
template <typename Real>
inline Vec<Real> at_least(Vec<Real> a, Vec<Real> floor) {
  return floor > a ? floor : a;
}

template <typename Real>
inline bool any(Int<Real> mask) {
  bool result = false;
  for (int lane = 0; lane < kLanes<Real>; ++lane) result |= mask[lane] != 0;
  return result;
}

// Lane i of the result is lane index[i] of `window`.
template <typename Real>
inline Vec<Real> pick(Vec<Real> window, Int<Real> index) {
  Vec<Real> result;
  for (int lane = 0; lane < kLanes<Real>; ++lane) result[lane] = window[index[lane]];
  return result;
}

#if defined(__AVX512F__)
template <>
inline bool any<float>(Int<float> mask) {
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
}
template <>
inline Vec<float> pick<float>(Vec<float> window, Int<float> index) {
  // The form with a mask, because GCC 12 warns of an undefined vector in the other one.
  return (Vec<float>)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index, (__m512)window);
}
#elif defined(__AVX2__)
template <>
inline bool any<float>(Int<float> mask) {
  return _mm256_testz_si256((__m256i)mask, (__m256i)mask) == 0;
}
template <>
inline Vec<float> pick<float>(Vec<float> window, Int<float> index) {
  return (Vec<float>)_mm256_permutevar8x32_ps((__m256)window, (__m256i)index);
}
#endif

// 2^x for x <= 0 (a little above is fine too), relative error below 1e-7. 2^x = 2^n 2^f with n the integer nearest to
// x: adding 1.5 * 2^23 leaves n in the low bits of the sum. 2^f is the minimax polynomial on [-1/2, 1/2] with 2^0 = 1.
inline Vec<float> exp2(Vec<float> x) {
  const Vec<float> magic = broadcast(12582912.0f);
  x = at_least<float>(x, broadcast(-126.0f));
  const Vec<float> shifted = x + magic;
  const Vec<float> f = x - (shifted - magic);
  Vec<float> p = f * 1.5469734997351268e-4f + 1.3390866853003128e-3f;
  p = p * f + 9.6180307711801e-3f;
  p = p * f + 5.550357105498893e-2f;
  p = p * f + 2.4022651084211674e-1f;
  p = p * f + 6.931471880289531e-1f;
  p = p * f + 1.0f;
  return (Vec<float>)((Int<float>)p + ((Int<float>)shifted << 23));
}

// log2 of a positive normal number: its exponent, and for the mantissa m in [1/sqrt 2, sqrt 2) the minimax polynomial
// of log2(m) / (m - 1), relative error below 1e-7.
inline Vec<float> log2(Vec<float> x) {
  const Int<float> bits = (Int<float>)x;
  const Int<float> exponent = (bits - 0x3f3504f3) >> 23;  // the bits of 1/sqrt 2
  const Vec<float> u = (Vec<float>)(bits - (exponent << 23)) - 1.0f;
  Vec<float> p = u * 1.25837051294937e-1f - 2.072697618510278e-1f;
  p = p * u + 2.1571560119667593e-1f;
  p = p * u - 2.389448187514479e-1f;
  p = p * u + 2.8791624833466606e-1f;
  p = p * u - 3.6070368294282473e-1f;
  p = p * u + 4.8091064294106833e-1f;
  p = p * u - 7.213473468015884e-1f;
  p = p * u + 1.4426950036524329f;
  const Vec<float> result = p * u + __builtin_convertvector(exponent, Vec<float>);
  return x == x ? result : x;
}

inline Vec<double> exp2(Vec<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = __builtin_exp2(x[lane]);
  return x;
}

inline Vec<double> log2(Vec<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = __builtin_log2(x[lane]);
  return x;
}

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

template <typename Real>
int64_t padded_width(const Grid<Real>& grid) {
  return (grid.width / kLanes<Real> + 2) * kLanes<Real>;
}

// Working memory of a job.
template <typename Real>
struct Scratch {
  Real* rows;                            // [kBand + 1][classes][padded width]: the band's grid rows and the one below
  Real* gradient;                        // of the same shape
  Vec<Real>*above, *below, *difference;  // [classes]: column-interpolated grid rows, and below - above
  Vec<Real>*sum, *weighted;              // [classes]: sums of g and of lambda g down the pixel rows of a cell row
  Vec<Real>*carry, *work;                // [classes]
};

template <typename Real>
int64_t scratch_bytes(const Grid<Real>& grid) {
  const int64_t rows = 2 * (kBand + 1) * grid.classes * padded_width(grid);
  const int64_t vectors = 7 * grid.classes * kLanes<Real>;
  return (rows + vectors) * static_cast<int64_t>(sizeof(Real));
}

template <typename Real>
Scratch<Real> scratch_at(void* memory, const Grid<Real>& grid) {
  const int64_t rows = (kBand + 1) * grid.classes * padded_width(grid);
  auto* real = static_cast<Real*>(memory);
  auto* vec = reinterpret_cast<Vec<Real>*>(real + 2 * rows);
  const int64_t n = grid.classes;
  return {real, real + rows, vec, vec + n, vec + 2 * n, vec + 3 * n, vec + 4 * n, vec + 5 * n, vec + 6 * n};
}

enum class Prepare { kLogits, kSoftmax };

// Prepares all classes of one grid row, from `from` (classes `plane` apart) to `to` (`padded` apart). Logits become
// relative to the largest one of the grid point, in units of log 2. That changes no softmax, but keeps the relevant
// values near 0, where floats are dense. With kSoftmax they are replaced by their softmax.
template <typename Real>
void prepare_row(const Grid<Real>& grid, Prepare how, const Real* from, int64_t plane, Real* to, int64_t padded) {
  constexpr int L = kLanes<Real>;
  for (int64_t c = 0; c < grid.classes; ++c) {
    __builtin_memcpy(to + c * padded, from + c * plane, static_cast<uint64_t>(grid.width) * sizeof(Real));
    for (int64_t x = grid.width; x < padded; ++x) to[c * padded + x] = 0;
  }
  for (int64_t x = 0; x < padded; x += L) {
    Vec<Real> largest = load(to + x);
    for (int64_t c = 1; c < grid.classes; ++c) largest = at_least<Real>(load(to + c * padded + x), largest);
    for (int64_t c = 0; c < grid.classes; ++c) {
      store(to + c * padded + x, (load(to + c * padded + x) - largest) * static_cast<Real>(kLog2E));
    }
    if (how == Prepare::kLogits) continue;
    Vec<Real> total{};
    for (int64_t c = 0; c < grid.classes; ++c) {
      const Vec<Real> e = exp2(load(to + c * padded + x));
      store(to + c * padded + x, e);
      total += e;
    }
    for (int64_t c = 0; c < grid.classes; ++c) store(to + c * padded + x, load(to + c * padded + x) / total);
  }
}

// Neighboring pixels of one output row, one in each lane.
template <typename Real>
struct Pixels {
  const Vec<Real>* above;       // [classes]
  const Vec<Real>* difference;  // [classes]
  Vec<Real> lambda;             // of the row
  int64_t image, row, column;   // of the first pixel
  int64_t count;                // number of pixels
  Vec<Real>* sum;               // [classes]: sums of gradients g,
  Vec<Real>* weighted;          // and lambda g
  Vec<Real>* work;              // [classes]

  Vec<Real> value(int64_t c) const { return above[c] + lambda * difference[c]; }

  void add_gradient(int64_t c, Vec<Real> g) const {
    sum[c] += g;
    weighted[c] += lambda * g;
  }

  int64_t offset(const Grid<Real>& grid) const { return (image * grid.out_height + row) * grid.out_width + column; }
};

// row[c][base + k] += sum over lanes l of values[c][l] * scatter[l][k].
template <typename Real>
void scatter_columns(const Grid<Real>& grid, const Vec<Real>* values, const Real* scatter, Real* row, int64_t padded) {
  constexpr int L = kLanes<Real>;
  const auto add = [&](int64_t c, Vec<Real> partial) { store(row + c * padded, load(row + c * padded) + partial); };
  int64_t c = 0;
  for (; c + 4 <= grid.classes; c += 4) {
    Vec<Real> partial[4] = {};
    for (int lane = 0; lane < L; ++lane) {
      const Vec<Real> weight = load(scatter + lane * L);
      for (int i = 0; i < 4; ++i) partial[i] += values[c + i][lane] * weight;
    }
    for (int i = 0; i < 4; ++i) add(c + i, partial[i]);
  }
  for (; c < grid.classes; ++c) {
    Vec<Real> partial{};
    for (int lane = 0; lane < L; ++lane) partial += values[c][lane] * load(scatter + lane * L);
    add(c, partial);
  }
}

// Calls `look(Pixels)` for every pixel of a job; it returns whether it added a gradient. The gradient g of a pixel with
// row weight lambda is distributed to the grid rows above, (1 - lambda) g, and below, lambda g. So a cell row needs
// only the sums of g and of lambda g over its pixel rows, and columns are distributed once per grid row.
template <bool kGradient, typename Real, typename Look>
void sweep(const Grid<Real>& grid, int64_t job, Prepare how, const GradientOut<Real>& out, void* memory, Look&& look) {
  constexpr int L = kLanes<Real>;
  Scratch<Real> scratch = scratch_at(memory, grid);
  const int64_t classes = grid.classes, padded = padded_width(grid), row_size = classes * padded;
  const int64_t image = job / grid.bands(), begin = job % grid.bands() * kBand;
  const int64_t end = smaller(begin + kBand, grid.height), last = smaller(end, grid.height - 1);
  const int64_t plane = grid.height * grid.width;
  const Real* values = grid.values + image * classes * plane;
  for (int64_t r = begin; r <= last; ++r) {
    prepare_row(grid, how, values + r * grid.width, plane, scratch.rows + (r - begin) * row_size, padded);
  }
  if constexpr (kGradient) {
    for (int64_t i = 0; i < (kBand + 1) * row_size; i += L) store(scratch.gradient + i, Vec<Real>{});
  }

  for (int64_t v = 0; v < grid.vectors; ++v) {
    Int<Real> left, right;
    for (int lane = 0; lane < L; ++lane) {
      left[lane] = grid.left[v * L + lane];
      right[lane] = grid.right[v * L + lane];
    }
    const Vec<Real> lambda = load(grid.lambda + v * L);
    const Real* scatter = grid.scatter + v * L * L;
    const auto interpolate = [&](int64_t r, Vec<Real>* to) {
      const Real* row = scratch.rows + (r - begin) * row_size + grid.base[v];
      for (int64_t c = 0; c < classes; ++c) {
        const Vec<Real> window = load(row + c * padded);
        const Vec<Real> from = pick<Real>(window, left);
        to[c] = from + lambda * (pick<Real>(window, right) - from);
      }
    };
    const auto emit = [&](const Vec<Real>* partial, int64_t r) {
      scatter_columns(grid, partial, scatter, scratch.gradient + (r - begin) * row_size + grid.base[v], padded);
    };
    interpolate(begin, scratch.above);
    bool carried = false;
    for (int64_t r = begin; r < end; ++r) {
      const bool at_bottom = r + 1 == grid.height;  // the row below is this one again
      if (at_bottom) {
        for (int64_t c = 0; c < classes; ++c) scratch.difference[c] = Vec<Real>{};
      } else {
        interpolate(r + 1, scratch.below);
        for (int64_t c = 0; c < classes; ++c) scratch.difference[c] = scratch.below[c] - scratch.above[c];
      }
      if constexpr (kGradient) {
        for (int64_t c = 0; c < classes; ++c) scratch.sum[c] = scratch.weighted[c] = Vec<Real>{};
      }
      bool added = false;
      for (int64_t y = grid.row_begin[r]; y < grid.row_begin[r + 1]; ++y) {
        added |= look(Pixels<Real>{scratch.above, scratch.difference, broadcast(grid.row_lambda[y]), image, y,
                                   grid.first[v], grid.count[v], scratch.sum, scratch.weighted, scratch.work});
      }
      if constexpr (kGradient) {
        if (added || carried) {
          for (int64_t c = 0; c < classes; ++c) {
            const Vec<Real> carry = carried ? scratch.carry[c] : Vec<Real>{};
            scratch.carry[c] = at_bottom ? Vec<Real>{} : scratch.weighted[c];
            scratch.work[c] = carry + scratch.sum[c] - scratch.carry[c];
          }
          emit(scratch.work, r);
          carried = added;
        }
      }
      Vec<Real>* const unused = scratch.above;
      scratch.above = scratch.below;
      scratch.below = unused;
    }
    if constexpr (kGradient) {
      if (carried && end < grid.height) emit(scratch.carry, end);
    }
  }

  if constexpr (kGradient) {
    const auto row_bytes = static_cast<uint64_t>(grid.width) * sizeof(Real);
    for (int64_t c = 0; c < classes; ++c) {
      for (int64_t r = begin; r < end; ++r) {
        __builtin_memcpy(out.gradient + (image * classes + c) * plane + r * grid.width,
                         scratch.gradient + (r - begin) * row_size + c * padded, row_bytes);
      }
      __builtin_memcpy(out.seam + (job * classes + c) * grid.width,
                       scratch.gradient + (end - begin) * row_size + c * padded, row_bytes);
    }
  }
}

// Values for a softmax over the classes of some pixels.
template <typename Real>
struct Exponentials {
  Vec<Real> sum;       // of 2^(z_c - shift), which are in `work`
  Vec<Real> label;     // z_label - shift
  Vec<Real> best;      // max z_c - shift
  Int<Real> argmax{};  // the first class that reaches it
};

enum class Seek { kNothing, kLabel, kArgmax };

template <Seek kSeek, bool kShifted, typename Real>
inline Exponentials<Real> exponentials_from(const Pixels<Real>& pixels, int64_t classes, Vec<Real> shift,
                                            Int<Real> label) {
  Exponentials<Real> found{};
  found.best = broadcast(static_cast<Real>(-__builtin_inf()));
  Int<Real> index{};
  for (int64_t c = 0; c < classes; ++c) {
    Vec<Real> z = pixels.value(c);
    if constexpr (kShifted) z -= shift;
    const Vec<Real> e = exp2(z);
    pixels.work[c] = e;
    found.sum += e;
    if constexpr (kSeek == Seek::kLabel) found.label = label == index ? z : found.label;
    if constexpr (kSeek == Seek::kArgmax) {
      const Int<Real> better = z > found.best;
      found.best = better ? z : found.best;
      found.argmax = better ? index : found.argmax;
    }
    index += 1;
  }
  return found;
}

// Grid values are at most 0, and 0 for some class at each grid point. Between two points with different best classes
// all may be far below 0. Only if the sum would underflow, the largest value is found first and subtracted.
template <Seek kSeek, typename Real>
inline Exponentials<Real> exponentials(const Pixels<Real>& pixels, int64_t classes, Int<Real> label) {
  const auto found = exponentials_from<kSeek, false>(pixels, classes, Vec<Real>{}, label);
  constexpr Real kTiny = 0x1p-60;
  if (!any<Real>(found.sum < broadcast(kTiny))) return found;
  Vec<Real> largest = pixels.value(0);
  for (int64_t c = 1; c < classes; ++c) largest = at_least<Real>(pixels.value(c), largest);
  return exponentials_from<kSeek, true>(pixels, classes, largest, label);
}

template <typename Real>
inline Int<Real> lane_index() {
  Int<Real> index;
  for (int lane = 0; lane < kLanes<Real>; ++lane) index[lane] = lane;
  return index;
}

// Adds the lanes to a total in double.
template <typename Real>
struct Total {
  typename Types<Real>::Wide lanes{};

  void add(Vec<Real> value) { lanes += __builtin_convertvector(value, typename Types<Real>::Wide); }
  double value() const {
    double result = 0;
    for (int lane = 0; lane < kLanes<Real>; ++lane) result += lanes[lane];
    return result;
  }
};

// Classes of the pixels from their labels; -1 for a pixel that does not count.
template <typename Real>
inline Int<Real> load_labels(const CrossEntropy<Real>& task, const Pixels<Real>& pixels, int64_t* invalid) {
  constexpr int L = kLanes<Real>;
  const int64_t offset = pixels.offset(task.grid), classes = task.grid.classes;
  Int<Real> label;
  if (task.labels8 != nullptr && pixels.count == L) {
    typename Types<Real>::Bytes bytes;
    __builtin_memcpy(&bytes, task.labels8 + offset, sizeof(bytes));
    label = __builtin_convertvector(bytes, Int<Real>);
    label = label == static_cast<Lane<Real>>(task.ignore_index) ? Int<Real>{} - 1 : label;
    if (!any<Real>(label >= static_cast<Lane<Real>>(classes))) return label;
  }
  for (int lane = 0; lane < L; ++lane) {
    label[lane] = -1;
    if (lane >= pixels.count) continue;
    const int64_t value = task.labels8 != nullptr ? task.labels8[offset + lane] : task.labels64[offset + lane];
    if (value == task.ignore_index) continue;
    if (value >= 0 && value < classes) {
      label[lane] = static_cast<Lane<Real>>(value);
    } else if (value > *invalid) {
      *invalid = value;
    }
  }
  return label;
}

template <typename Real>
inline void store_pixels(Real* to, Vec<Real> value, int64_t count) {
  if (count == kLanes<Real>) {
    store(to, value);
  } else {
    for (int64_t lane = 0; lane < count; ++lane) to[lane] = value[lane];
  }
}

template <typename Real>
inline void store_classes(uint8_t* to, Int<Real> value, int64_t count) {
  const auto bytes = __builtin_convertvector(value, typename Types<Real>::Bytes);
  if (count == kLanes<Real>) {
    __builtin_memcpy(to, &bytes, sizeof(bytes));
  } else {
    for (int64_t lane = 0; lane < count; ++lane) to[lane] = bytes[lane];
  }
}

template <bool kGradient, bool kLabeled, typename Real>
void cross_entropy_job(const CrossEntropy<Real>& task, int64_t job, void* memory) {
  constexpr int L = kLanes<Real>;
  const int64_t classes = task.grid.classes;
  Total<Real> loss, weights;
  sweep<kGradient>(task.grid, job, Prepare::kLogits, task.out, memory, [&](const Pixels<Real>& pixels) {
    const int64_t offset = pixels.offset(task.grid);
    Int<Real> label{};
    Exponentials<Real> found;
    if constexpr (kLabeled) {
      label = load_labels(task, pixels, task.invalid_label + job);
      if (!any<Real>(label >= Int<Real>{})) return false;
      found = exponentials<Seek::kLabel>(pixels, classes, label);
    } else {
      found = exponentials<Seek::kArgmax>(pixels, classes, label);
      const Vec<Real> confidence = exp2(found.best) / found.sum;
      if (task.predicted != nullptr) store_classes<Real>(task.predicted + offset, found.argmax, pixels.count);
      if (task.confidence != nullptr) store_pixels<Real>(task.confidence + offset, confidence, pixels.count);
      Vec<Real> threshold;
      for (int lane = 0; lane < L; ++lane) threshold[lane] = task.thresholds[found.argmax[lane]];
      Int<Real> kept = confidence > threshold;
      if (task.inclusive) kept |= confidence == threshold;
      kept &= lane_index<Real>() < static_cast<Lane<Real>>(pixels.count);
      // A NaN counts, so that the loss becomes NaN.
      label = kept | (confidence != confidence) ? found.argmax : Int<Real>{} - 1;
      found.label = found.best;
      if (!any<Real>(label >= Int<Real>{})) return false;
    }
    const Int<Real> counts = label >= Int<Real>{};
    Vec<Real> weight = counts ? broadcast(Real{1}) : Vec<Real>{};
    if (task.class_weights != nullptr || task.pixel_weights != nullptr) {
      for (int lane = 0; lane < L; ++lane) {
        if (label[lane] < 0) continue;
        if (task.class_weights != nullptr) weight[lane] *= task.class_weights[label[lane]];
        if (task.pixel_weights != nullptr) weight[lane] *= task.pixel_weights[offset + lane];
      }
    }
    const Vec<Real> each = weight * ((log2(found.sum) - found.label) * static_cast<Real>(kLn2));
    loss.add(counts ? each : Vec<Real>{});
    weights.add(weight);
    if constexpr (kGradient) {
      const Vec<Real> scale = weight / found.sum;
      Int<Real> index{};
      for (int64_t c = 0; c < classes; ++c) {
        const Vec<Real> one_hot = label == index ? weight : Vec<Real>{};
        pixels.add_gradient(c, pixels.work[c] * scale - one_hot);
        index += 1;
      }
    }
    return true;
  });
  task.loss[job] = loss.value();
  task.weight[job] = weights.value();
}

template <typename Real>
void cross_entropy(const CrossEntropy<Real>& task, int64_t job, void* memory) {
  const bool labeled = task.labels8 != nullptr || task.labels64 != nullptr;
  const bool gradient = task.out.gradient != nullptr;
  const auto run = labeled ? (gradient ? cross_entropy_job<true, true, Real> : cross_entropy_job<false, true, Real>)
                           : (gradient ? cross_entropy_job<true, false, Real> : cross_entropy_job<false, false, Real>);
  run(task, job, memory);
}

template <typename Real>
void predict(const Predict<Real>& task, int64_t job, void* memory) {
  const int64_t classes = task.grid.classes;
  const auto write = [&](const Pixels<Real>& pixels, Int<Real> argmax, Vec<Real> confidence) {
    const int64_t offset = pixels.offset(task.grid);
    store_classes<Real>(task.predicted + offset, argmax, pixels.count);
    if (task.confidence != nullptr) store_pixels<Real>(task.confidence + offset, confidence, pixels.count);
    return false;
  };
  if (task.confidence != nullptr && !task.probabilities) {
    sweep<false>(task.grid, job, Prepare::kLogits, {}, memory, [&](const Pixels<Real>& pixels) {
      const auto found = exponentials<Seek::kArgmax>(pixels, classes, Int<Real>{});
      return write(pixels, found.argmax, exp2(found.best) / found.sum);
    });
    return;
  }
  // The largest logit has the largest probability, so that without confidences no exponential is needed.
  const Prepare how = task.probabilities ? Prepare::kSoftmax : Prepare::kLogits;
  sweep<false>(task.grid, job, how, {}, memory, [&](const Pixels<Real>& pixels) {
    Vec<Real> best = pixels.value(0);
    Int<Real> argmax{}, index{};
    for (int64_t c = 1; c < classes; ++c) {
      index += 1;
      const Vec<Real> value = pixels.value(c);
      const Int<Real> better = value > best;
      best = better ? value : best;
      argmax = better ? index : argmax;
    }
    return write(pixels, argmax, best);
  });
}

template <typename Real>
void softmax(const Softmax<Real>& task, int64_t job, void* memory) {
  const Grid<Real>& grid = task.grid;
  const int64_t plane = grid.out_height * grid.out_width;
  sweep<false>(grid, job, Prepare::kLogits, {}, memory, [&](const Pixels<Real>& pixels) {
    const auto found = exponentials<Seek::kNothing>(pixels, grid.classes, Int<Real>{});
    const Vec<Real> scale = Real{1} / found.sum;
    Real* to = task.probabilities + pixels.image * grid.classes * plane + pixels.row * grid.out_width + pixels.column;
    for (int64_t c = 0; c < grid.classes; ++c) {
      store_pixels<Real>(to + c * plane, pixels.work[c] * scale, pixels.count);
    }
    return false;
  });
}

template <typename Real>
void softmax_backward(const SoftmaxBackward<Real>& task, int64_t job, void* memory) {
  const Grid<Real>& grid = task.grid;
  const int64_t plane = grid.out_height * grid.out_width;
  sweep<true>(grid, job, Prepare::kLogits, task.out, memory, [&](const Pixels<Real>& pixels) {
    const auto found = exponentials<Seek::kNothing>(pixels, grid.classes, Int<Real>{});
    const Real* from =
        task.upstream + pixels.image * grid.classes * plane + pixels.row * grid.out_width + pixels.column;
    const auto upstream = [&](int64_t c) {
      if (pixels.count == kLanes<Real>) return load(from + c * plane);
      Vec<Real> value{};
      for (int64_t lane = 0; lane < pixels.count; ++lane) value[lane] = from[c * plane + lane];
      return value;
    };
    Vec<Real> mean{};  // of the upstream gradient under the softmax
    for (int64_t c = 0; c < grid.classes; ++c) mean += pixels.work[c] * upstream(c);
    const Vec<Real> scale = Real{1} / found.sum;
    mean *= scale;
    for (int64_t c = 0; c < grid.classes; ++c) {
      pixels.add_gradient(c, pixels.work[c] * scale * (upstream(c) - mean));
    }
    return true;
  });
}

template <typename Real>
constexpr Kernels<Real> kKernels = {kLanes<Real>,  scratch_bytes<Real>, cross_entropy<Real>,
                                    predict<Real>, softmax<Real>,       softmax_backward<Real>};

}  // namespace

const Kernels<float>& float_kernels() { return kKernels<float>; }
const Kernels<double>& double_kernels() { return kKernels<double>; }

}  // namespace bidiseg::kernels::cpu::BIDISEG_ISA
