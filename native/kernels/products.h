// Matrix products of float32 on the CPU, which convolutions are made of.
#pragma once

#include <ATen/core/Tensor.h>

namespace bidiseg::kernels {

/// Writes a b to `out`, for a [M, K], b [K, N] and out [M, N], whose rows are contiguous. Matrices are float32 and may
/// have any strides. Each element has the same bits whatever the number of threads, and whatever other images there
/// are: `rows_of_image` divides M, and rows of different images do not meet.
void multiply(const at::Tensor& a, const at::Tensor& b, int64_t rows_of_image, at::Tensor& out);

/// Writes a[i] b[i] to out[i] for each i, or with `add` adds it. Each thread computes whole products.
void multiply_each(const at::Tensor& a, const at::Tensor& b, bool add, at::Tensor& out);

/// Writes a[i] b[i] to out[i] for each i. LibTorch adds up 32 products at a time, and then their sums, which rounds
/// less than multiply_each().
void multiply_each_in_parts(const at::Tensor& a, const at::Tensor& b, at::Tensor& out);

/// Whether these products are our own, and not LibTorch's: with AVX2 and without AVX-512.
bool has_own_products();

}  // namespace bidiseg::kernels
