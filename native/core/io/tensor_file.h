// Reading and writing of tensor data in files whose layout the caller knows. lib/weights/ parses the headers of
// safetensors files and of PyTorch's, and builds the former.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// Place of a tensor in a file.
struct TensorEntry {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  int64_t offset;                              ///< in bytes from the start of the file
  std::optional<std::vector<int64_t>> stride;  ///< in elements, not negative; none: row-major order
};

/// Reads each entry as a new contiguous CPU tensor. Throws a DataError naming the file if it cannot be read or an entry
/// reaches past its end. Sizes are checked before memory is allocated.
std::vector<at::Tensor> read_tensors(const std::string& file, const std::vector<TensorEntry>& entries);

/// Writes the bytes of `header`, then the bytes of each tensor in row-major order without gaps, and flushes the file to
/// disk. Throws a DataError naming the file; the caller removes the incomplete file.
void write_tensors(const std::string& file, const at::Tensor& header, const std::vector<at::Tensor>& tensors);

}  // namespace bidiseg
