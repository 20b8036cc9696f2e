#include "kernels/products.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define BIDISEG_OWN_PRODUCTS
#define BIDISEG_AVX2 __attribute__((target("avx2,fma")))
#endif

namespace bidiseg::kernels {
namespace {

#ifdef BIDISEG_OWN_PRODUCTS

// Blocks of a product (Goto & van de Geijn 2008). A thread copies kBlockColumns of b in panels of kPanel columns, and
// kBlockRows of a, both kDepth deep. Both copies stay in the second-level cache. A panel stays in the first-level cache
// while it meets the rows, kStrip at a time, whose sums are in registers.
constexpr int64_t kStrip = 6, kPanel = 16, kDepth = 256, kBlockRows = 96, kBlockColumns = 256;
// Lines of a copy are this much further apart, so that they are not all in one set of the cache.
constexpr int64_t kGap = 8;

struct MatrixView {
  const float* data;
  int64_t row, column;  // strides

  MatrixView(const at::Tensor& matrix)
      : data(matrix.const_data_ptr<float>()), row(matrix.stride(0)), column(matrix.stride(1)) {}

  MatrixView(const float* data, int64_t row, int64_t column) : data(data), row(row), column(column) {}

  MatrixView from(int64_t first_row, int64_t first_column) const {
    return {data + first_row * row + first_column * column, row, column};
  }
};

struct OutputView {
  float* data;
  int64_t row;  // stride
};

struct Copies {
  alignas(64) std::array<float, kDepth * kBlockColumns> panels;
  alignas(64) std::array<float, std::max(kBlockRows*(kDepth + kGap), kDepth*(kBlockRows + kGap))> rows;
};

// c = a b, or c += a b, for Rows rows of a and one panel of b.
template <int Rows>
BIDISEG_AVX2 void multiply_strip(const MatrixView& a, const float* panel, int64_t depth, bool add,
                                 const OutputView& c) {
  // std::array would lose the alignment of its elements' type.
  __m256 sums[Rows][2];
#pragma GCC unroll 6
  for (auto& sum : sums) sum[0] = sum[1] = _mm256_setzero_ps();
  const float* column = a.data;
  for (int64_t k = 0; k < depth; ++k) {
    const __m256 left = _mm256_load_ps(panel), right = _mm256_load_ps(panel + 8);
#pragma GCC unroll 6
    for (int row = 0; row < Rows; ++row) {
      const __m256 value = _mm256_broadcast_ss(column + row * a.row);
      sums[row][0] = _mm256_fmadd_ps(value, left, sums[row][0]);
      sums[row][1] = _mm256_fmadd_ps(value, right, sums[row][1]);
    }
    column += a.column;
    panel += kPanel;
  }
#pragma GCC unroll 6
  for (int row = 0; row < Rows; ++row) {
    float* to = c.data + row * c.row;
    if (add) {
      sums[row][0] = _mm256_add_ps(sums[row][0], _mm256_loadu_ps(to));
      sums[row][1] = _mm256_add_ps(sums[row][1], _mm256_loadu_ps(to + 8));
    }
    _mm256_storeu_ps(to, sums[row][0]);
    _mm256_storeu_ps(to + 8, sums[row][1]);
  }
}

using MultiplyStrip = void (*)(const MatrixView&, const float*, int64_t, bool, const OutputView&);
constexpr std::array<MultiplyStrip, kStrip + 1> kMultiplyStrip = {
    nullptr,           multiply_strip<1>, multiply_strip<2>, multiply_strip<3>,
    multiply_strip<4>, multiply_strip<5>, multiply_strip<6>};

// The same for fewer columns than a panel has.
BIDISEG_AVX2 void multiply_narrow(const MatrixView& a, int64_t rows, const float* panel, int64_t depth, int64_t columns,
                                  bool add, const OutputView& c) {
  alignas(32) std::array<float, kStrip * kPanel> whole;
  kMultiplyStrip[static_cast<size_t>(rows)](a, panel, depth, false, {whole.data(), kPanel});
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      float& to = c.data[row * c.row + column];
      const float value = whole[static_cast<size_t>(row * kPanel + column)];
      to = add ? value + to : value;
    }
  }
}

// Copies eight lines of eight, transposed, to a panel.
BIDISEG_AVX2 void transpose_eight(const float* from, int64_t line, float* to) {
  __m256 a[8], b[8];
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(from + static_cast<int64_t>(i) * line);
#pragma GCC unroll 4
  for (size_t i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
#pragma GCC unroll 2
  for (size_t i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    _mm256_store_ps(to + static_cast<int64_t>(i) * kPanel, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_store_ps(to + static_cast<int64_t>(i + 4) * kPanel, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

// Copies `columns` columns of b in panels. The last one is filled up with zeros.
BIDISEG_AVX2 void copy_panels(const MatrixView& b, int64_t depth, int64_t columns, float* to) {
  for (int64_t first = 0; first < columns; first += kPanel, to += depth * kPanel) {
    const int64_t width = std::min(kPanel, columns - first);
    const auto [from, row, column] = b.from(0, first);
    if (width == kPanel && column == 1) {
      for (int64_t k = 0; k < depth; ++k) {
        _mm256_store_ps(to + k * kPanel, _mm256_loadu_ps(from + k * row));
        _mm256_store_ps(to + k * kPanel + 8, _mm256_loadu_ps(from + k * row + 8));
      }
    } else if (width == kPanel && row == 1 && depth % 8 == 0) {
      for (int64_t k = 0; k < depth; k += 8) {
        transpose_eight(from + k, column, to + k * kPanel);
        transpose_eight(from + k + 8 * column, column, to + k * kPanel + 8);
      }
    } else {
      for (int64_t k = 0; k < depth; ++k) {
        for (int64_t i = 0; i < kPanel; ++i) to[k * kPanel + i] = i < width ? from[k * row + i * column] : 0;
      }
    }
  }
}

// Copies rows of a, by lines along the direction in which they are contiguous.
MatrixView copy_rows(const MatrixView& a, int64_t rows, int64_t depth, float* to) {
  const bool by_columns = a.row == 1;
  const int64_t lines = by_columns ? depth : rows, length = by_columns ? rows : depth;
  const int64_t line = by_columns ? a.column : a.row, step = by_columns ? a.row : a.column;
  const int64_t gap = by_columns ? kBlockRows + kGap : kDepth + kGap;
  for (int64_t i = 0; i < lines; ++i) {
    const float* from = a.data + i * line;
    if (step == 1) {
      std::copy_n(from, length, to + i * gap);
    } else {
      for (int64_t j = 0; j < length; ++j) to[i * gap + j] = from[j * step];
    }
  }
  return by_columns ? MatrixView(to, 1, gap) : MatrixView(to, gap, 1);
}

// c = a b, or c += a b, for copied rows and panels.
void multiply_block(const MatrixView& a, const float* panels, int64_t rows, int64_t depth, int64_t columns, bool add,
                    const OutputView& c) {
  for (int64_t column = 0; column < columns; column += kPanel) {
    const float* panel = panels + column * depth;
    for (int64_t row = 0; row < rows; row += kStrip) {
      const int64_t strip = std::min(kStrip, rows - row);
      const OutputView to = {c.data + row * c.row + column, c.row};
      if (columns - column >= kPanel) {
        kMultiplyStrip[static_cast<size_t>(strip)](a.from(row, 0), panel, depth, add, to);
      } else {
        multiply_narrow(a.from(row, 0), strip, panel, depth, columns - column, add, to);
      }
    }
  }
}

// c = a b, or c += a b, on this thread. Each sum runs along the depth, in parts of kDepth that are added up in order.
void multiply_matrices(const MatrixView& a, const MatrixView& b, int64_t rows, int64_t depth, int64_t columns, bool add,
                       const OutputView& c) {
  thread_local const std::unique_ptr<Copies> copies = std::make_unique_for_overwrite<Copies>();
  for (int64_t column = 0; column < columns; column += kBlockColumns) {
    const int64_t width = std::min(kBlockColumns, columns - column);
    for (int64_t k = 0; k < depth; k += kDepth) {
      const int64_t deep = std::min(kDepth, depth - k);
      const bool adds = add || k > 0;
      copy_panels(b.from(k, column), deep, width, copies->panels.data());
      for (int64_t row = 0; row < rows; row += kBlockRows) {
        const int64_t height = std::min(kBlockRows, rows - row);
        const MatrixView block = copy_rows(a.from(row, k), height, deep, copies->rows.data());
        multiply_block(block, copies->panels.data(), height, deep, width, adds, {c.data + row * c.row + column, c.row});
      }
    }
  }
}

OutputView output_view(at::Tensor& out) { return {out.mutable_data_ptr<float>(), out.stride(0)}; }

// Threads share the columns. They share the rows too where there are too few columns.
void multiply_by_own(const at::Tensor& a, const at::Tensor& b, at::Tensor& out) {
  const MatrixView left(a), right(b);
  const OutputView to = output_view(out);
  const int64_t rows = a.size(0), depth = a.size(1), columns = b.size(1), threads = at::get_num_threads();
  const int64_t chunks = (columns + kBlockColumns - 1) / kBlockColumns;
  const int64_t parts = threads / std::gcd(chunks, threads);
  const int64_t height = ((rows + parts - 1) / parts + kStrip - 1) / kStrip * kStrip;
  at::parallel_for(0, chunks * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t column = task / parts * kBlockColumns, row = task % parts * height;
      if (row >= rows) continue;
      multiply_matrices(left.from(row, 0), right.from(0, column), std::min(height, rows - row), depth,
                        std::min(kBlockColumns, columns - column), false, {to.data + row * to.row + column, to.row});
    }
  });
}

#endif

// Calls `work(task)` on several threads, if there are several. They are below autograd's keys, as LibTorch's own are. A
// single task has a thread beside it, because MKL on its own would share a product among threads, and round otherwise.
template <typename Work>
void for_tasks(int64_t tasks, const Work& work) {
  at::parallel_for(0, std::max<int64_t>(tasks, 2), 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView below;
    for (int64_t task = begin; task < std::min(end, tasks); ++task) work(task);
  });
}

// out = a b, or out += a b, on this thread. With AVX-512, MKL does not always return the same bits for few rows and a
// second factor in columns, nor for one column with gaps.
void multiply_matrices_by_libtorch(const at::Tensor& a, const at::Tensor& b, bool add, at::Tensor out) {
  constexpr int64_t kFewRows = 16;
  if (out.size(1) == 1 && !out.is_contiguous()) {
    at::Tensor column = out.contiguous();
    multiply_matrices_by_libtorch(a, b, add, column);
    out.copy_(column);
    return;
  }
  const at::Tensor right = a.size(0) < kFewRows ? b.contiguous() : b;
  if (add) {
    out.addmm_(a, right);
  } else {
    at::mm_out(out, a, right);
  }
}

// Threads compute whole blocks of the rows of an image, so that sums round alike whatever the number of threads and
// images.
void multiply_by_libtorch(const at::Tensor& a, const at::Tensor& b, int64_t rows_of_image, const at::Tensor& out) {
  constexpr int64_t kRows = 128;
  const int64_t least = std::max<int64_t>(2, (rows_of_image + kRows - 1) / kRows);
  const int64_t size = (rows_of_image + least - 1) / least;
  const int64_t blocks_of_image = (rows_of_image + size - 1) / size;
  for_tasks(out.size(0) / rows_of_image * blocks_of_image, [&](int64_t block) {
    const int64_t of_image = block % blocks_of_image * size;
    const int64_t first = block / blocks_of_image * rows_of_image + of_image;
    const int64_t count = std::min(size, rows_of_image - of_image);
    multiply_matrices_by_libtorch(a.narrow(0, first, count), b, /*add=*/false, out.narrow(0, first, count));
  });
}

}  // namespace

bool has_own_products() {
#ifdef BIDISEG_OWN_PRODUCTS
  static const bool has =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !__builtin_cpu_supports("avx512f");
  return has;
#else
  return false;
#endif
}

void multiply(const at::Tensor& a, const at::Tensor& b, int64_t rows_of_image, at::Tensor& out) {
#ifdef BIDISEG_OWN_PRODUCTS
  if (has_own_products() && a.size(1) > 0) return multiply_by_own(a, b, out);
#endif
  multiply_by_libtorch(a, b, rows_of_image, out);
}

void multiply_each(const at::Tensor& a, const at::Tensor& b, bool add, at::Tensor& out) {
  for_tasks(out.size(0), [&](int64_t i) {
    at::Tensor product = out[i];
#ifdef BIDISEG_OWN_PRODUCTS
    if (has_own_products() && a.size(2) > 0) {
      return multiply_matrices(a[i], b[i], a.size(1), a.size(2), b.size(2), add, output_view(product));
    }
#endif
    multiply_matrices_by_libtorch(a[i], b[i], add, product);
  });
}

void multiply_each_in_parts(const at::Tensor& a, const at::Tensor& b, at::Tensor& out) {
  if (has_own_products()) return multiply_each(a, b, /*add=*/false, out);
  constexpr int64_t kDeep = 32;
  const int64_t depth = a.size(2);
  for_tasks(out.size(0), [&](int64_t i) {
    int64_t k = 0;
    do {
      const int64_t deep = std::min(kDeep, depth - k);
      multiply_matrices_by_libtorch(a[i].narrow(1, k, deep), b[i].narrow(0, k, deep), /*add=*/k > 0, out[i]);
      k += kDeep;
    } while (k < depth);
  });
}

}  // namespace bidiseg::kernels
