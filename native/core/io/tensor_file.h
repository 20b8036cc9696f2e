// Bulk reading and writing of tensor data in a file whose layout the caller knows: lib/weights/ parses and builds the headers
// of safetensors files and parses those of PyTorch's.
#pragma once

#include "core/torch.h"

namespace bidiseg {

/// One tensor's place in a file.
struct TensorEntry {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  int64_t offset;  ///< in bytes from the start of the file
  std::optional<std::vector<int64_t>> stride;  ///< in elements, not negative; without it the elements lie in row-major order
};

/// Reads each entry as a new contiguous CPU tensor. Entries that reach past the end of the file, and files that cannot
/// be read, are a DataError that names the file; sizes are checked before memory is allocated.
std::vector<at::Tensor> read_tensors(const std::string& file, const std::vector<TensorEntry>& entries);

/// Writes the bytes of `header`, then each tensor's bytes in row-major order without gaps, and flushes the file to disk. Fails with
/// a DataError that names the file; what was written until then stays for the caller to remove.
void write_tensors(const std::string& file, const at::Tensor& header, const std::vector<at::Tensor>& tensors);

}  // namespace bidiseg
