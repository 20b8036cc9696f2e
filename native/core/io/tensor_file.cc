#include "core/io/tensor_file.h"

#include "core/errors.h"
#include "core/io/file.h"

namespace bidiseg {
namespace {

// Bytes of a tensor of this shape; -1 if an extent is negative or the product overflows. The product of the extents
// other than 0 must not overflow either, since LibTorch computes it too.
int64_t checked_bytes(at::ScalarType dtype, const std::vector<int64_t>& shape) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, std::max<int64_t>(extent, 1), &bytes)) return -1;
    empty = empty || extent == 0;
  }
  return empty ? 0 : bytes;
}

// Number of elements from the first to the last one of a strided tensor, both included; -1 as above.
int64_t checked_span(const std::vector<int64_t>& shape, const std::vector<int64_t>& stride) {
  if (shape.size() != stride.size()) return -1;
  int64_t span = 1;
  bool empty = false;
  for (size_t i = 0; i < shape.size(); ++i) {
    int64_t step = 0;
    if (shape[i] < 0 || stride[i] < 0) return -1;
    empty = empty || shape[i] == 0;
    if (empty) continue;  // the other strides must not be negative either
    if (__builtin_mul_overflow(shape[i] - 1, stride[i], &step) || __builtin_add_overflow(span, step, &span)) return -1;
  }
  return empty ? 0 : span;
}

}  // namespace

std::vector<at::Tensor> read_tensors(const std::string& name, const std::vector<TensorEntry>& entries) {
  const InputFile file(name);
  const int64_t size = file.size();
  std::vector<at::Tensor> tensors;
  for (const auto& entry : entries) {
    // Part of the file: the tensor itself, or the range from its first to its last element.
    const std::vector<int64_t> shape =
        entry.stride ? std::vector<int64_t>{checked_span(entry.shape, *entry.stride)} : entry.shape;
    const int64_t bytes = checked_bytes(entry.dtype, entry.shape) < 0 ? -1 : checked_bytes(entry.dtype, shape);
    if (bytes < 0 || entry.offset < 0 || entry.offset > size || bytes > size - entry.offset) {
      throw DataError(name + " has a tensor that reaches past its end: " + std::to_string(bytes) + " bytes at " +
                      std::to_string(entry.offset) + " of " + std::to_string(size));
    }
    at::Tensor tensor = at::empty(shape, entry.dtype);
    file.read_at(tensor.mutable_data_ptr(), static_cast<size_t>(bytes), entry.offset);
    // Always a copy, even of a contiguous view, so that no tensor keeps more memory than it has elements.
    if (entry.stride) tensor = tensor.as_strided(entry.shape, *entry.stride).clone(at::MemoryFormat::Contiguous);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void write_tensors(const std::string& name, const at::Tensor& header, const std::vector<at::Tensor>& tensors) {
  OutputFile file(name);
  file.write(header.const_data_ptr(), header.nbytes());
  for (const auto& tensor : tensors) {
    const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
    file.write(host.const_data_ptr(), host.nbytes());
  }
  file.flush();
}

}  // namespace bidiseg
