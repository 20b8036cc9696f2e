// Input and output of the CPU kernels, as plain data. This header is compiled for several instruction sets, so that it
// must not include code (see cell_sweep_kernels.h).
//
// All operations read bilinearly upsampled logits without storing them. Between two rows of the low-resolution
// grid and for one column of output pixels, the interpolant is z = T + lambda * (B - T) with the column-interpolated
// values T above and B below: one multiply-add a logit. The pixel rows between two grid rows are a *cell row*. A job is
// a band of cell rows of one image; jobs share nothing that they write, so results do not depend on the thread count.
#pragma once

#include <cstdint>

namespace bidiseg::kernels::cpu {

/// Cell rows in a job. More of them need less work at the seams between jobs; fewer keep more cores busy.
inline constexpr int64_t kBand = 4;

/// The upsampling of `values` [batch, classes, height, width] to [out_height, out_width].
///
/// Output columns are grouped to vectors of at most `lanes` neighbors whose sources span at most `lanes` columns, from
/// `base` on. For output pixel first[v] + l the sources are columns base[v] + left[v * lanes + l] and ... + right[...],
/// weighted by 1 - lambda and lambda[...]; scatter[(v * lanes + l) * lanes + k] is its weight on column base[v] + k.
template <typename Real>
struct Grid {
  const Real* values = nullptr;
  int64_t batch = 0, classes = 0, height = 0, width = 0, out_height = 0, out_width = 0;
  const int64_t* row_begin = nullptr;  ///< [height + 1]: the first output row of each cell row
  const Real* row_lambda = nullptr;    ///< [out_height]: the weight of the grid row below
  int64_t vectors = 0;
  const int64_t* first = nullptr;  ///< [vectors]
  const int64_t* count = nullptr;  ///< [vectors]: lanes in use
  const int64_t* base = nullptr;   ///< [vectors]
  const int32_t* left = nullptr;   ///< [vectors * lanes]
  const int32_t* right = nullptr;  ///< [vectors * lanes]
  const Real* lambda = nullptr;    ///< [vectors * lanes]
  const Real* scatter = nullptr;   ///< [vectors * lanes * lanes]

  int64_t bands() const { return (height + kBand - 1) / kBand; }
  int64_t jobs() const { return batch * bands(); }
};

/// Output of a job's gradient: its own rows in `gradient` [batch, classes, height, width], and its part of the first
/// row of the band below in `seam` [jobs, classes, width].
template <typename Real>
struct GradientOut {
  Real* gradient = nullptr;
  Real* seam = nullptr;
};

template <typename Real>
struct CrossEntropy {
  Grid<Real> grid;  ///< of logits
  /// Labels [batch, out_height, out_width] of one type, or none. Without labels a pixel's label is its argmax, and it
  /// counts if its confidence exceeds (`inclusive`: reaches) thresholds[label].
  const uint8_t* labels8 = nullptr;
  const int64_t* labels64 = nullptr;
  int64_t ignore_index = 0;
  const Real* thresholds = nullptr;  ///< [classes]
  bool inclusive = false;
  const Real* class_weights = nullptr;  ///< [classes] or null
  const Real* pixel_weights = nullptr;  ///< [batch, out_height, out_width] or null

  GradientOut<Real> out;             ///< of the sum of losses; null: none
  double* loss = nullptr;            ///< [jobs]: sum of weighted losses
  double* weight = nullptr;          ///< [jobs]: sum of weights
  int64_t* invalid_label = nullptr;  ///< [jobs]: raised to the largest label outside [0, classes), if there is one
  uint8_t* predicted = nullptr;      ///< without labels: the argmax [batch, out_height, out_width], or null
  Real* confidence = nullptr;        ///< without labels: its probability, or null
};

template <typename Real>
struct Predict {
  Grid<Real> grid;
  bool probabilities = false;    ///< whether the softmax comes before the upsampling
  uint8_t* predicted = nullptr;  ///< [batch, out_height, out_width]
  Real* confidence = nullptr;    ///< the same shape, or null
};

template <typename Real>
struct Softmax {
  Grid<Real> grid;
  Real* probabilities = nullptr;  ///< [batch, classes, out_height, out_width]
};

template <typename Real>
struct SoftmaxBackward {
  Grid<Real> grid;
  const Real* upstream = nullptr;  ///< [batch, classes, out_height, out_width]
  GradientOut<Real> out;
};

/// Kernels of one instruction set. `scratch` is working memory of the job, aligned to 64 bytes.
template <typename Real>
struct Kernels {
  int64_t lanes;
  int64_t (*scratch_bytes)(const Grid<Real>&);
  void (*cross_entropy)(const CrossEntropy<Real>&, int64_t job, void* scratch);
  void (*predict)(const Predict<Real>&, int64_t job, void* scratch);
  void (*softmax)(const Softmax<Real>&, int64_t job, void* scratch);
  void (*softmax_backward)(const SoftmaxBackward<Real>&, int64_t job, void* scratch);
};

#define BIDISEG_DECLARE_KERNELS(name)      \
  namespace name {                         \
  const Kernels<float>& float_kernels();   \
  const Kernels<double>& double_kernels(); \
  }
BIDISEG_DECLARE_KERNELS(portable)
#ifdef BIDISEG_X86_KERNELS
BIDISEG_DECLARE_KERNELS(avx2)
BIDISEG_DECLARE_KERNELS(avx512)
#endif
#undef BIDISEG_DECLARE_KERNELS

}  // namespace bidiseg::kernels::cpu
