// Fuzz target (libFuzzer, scripts/fuzz-native.sh) of the native reader of weights files: arbitrary entries in a file of
// any content. The reader must return the elements of the file or throw a DataError.
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "core/errors.h"
#include "core/io/tensor_file.h"

namespace {

constexpr at::ScalarType kDtypes[] = {at::kByte, at::kHalf, at::kFloat, at::kLong};

// Mostly small, so that some entries fit the file; sometimes any number.
int64_t number(FuzzedDataProvider& data, int64_t usual) {
  return data.ConsumeBool() ? data.ConsumeIntegralInRange<int64_t>(0, usual) : data.ConsumeIntegral<int64_t>();
}

// Parsers reject tensors much larger than their file, such as a broadcast terabyte. The reader does not check that.
bool is_moderate(const bidiseg::TensorEntry& entry) {
  int64_t elements = 1;
  for (const int64_t extent : entry.shape) {
    if (__builtin_mul_overflow(elements, std::max<int64_t>(extent, 1), &elements)) return !entry.stride;
  }
  return !entry.stride || elements < 1 << 16;
}

void check(const at::Tensor& tensor, const bidiseg::TensorEntry& entry, const std::vector<uint8_t>& content) {
  if (tensor.sizes() != at::IntArrayRef(entry.shape) || !tensor.is_contiguous()) std::abort();
  const size_t size = c10::elementSize(entry.dtype);
  const auto* found = static_cast<const uint8_t*>(tensor.const_data_ptr());
  std::vector<int64_t> index(entry.shape.size(), 0);
  for (int64_t element = 0; element < tensor.numel(); ++element) {
    int64_t place = 0;
    for (size_t d = 0; d < index.size(); ++d) {
      place = entry.stride ? place + index[d] * (*entry.stride)[d] : place * entry.shape[d] + index[d];
    }
    const size_t at = static_cast<size_t>(entry.offset) + static_cast<size_t>(place) * size;
    if (std::memcmp(found + static_cast<size_t>(element) * size, content.data() + at, size) != 0) std::abort();
    for (size_t d = index.size(); d-- > 0 && ++index[d] == entry.shape[d];) index[d] = 0;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t length) {
  static const int file = ::memfd_create("weights", 0);
  static const std::string name = "/proc/self/fd/" + std::to_string(file);
  FuzzedDataProvider data(bytes, length);
  std::vector<bidiseg::TensorEntry> entries(data.ConsumeIntegralInRange<size_t>(0, 3));
  for (auto& entry : entries) {
    entry.dtype = data.PickValueInArray(kDtypes);
    entry.shape.resize(data.ConsumeIntegralInRange<size_t>(0, 5));
    for (auto& extent : entry.shape) extent = number(data, 6);
    entry.offset = number(data, 64);
    if (data.ConsumeBool()) {
      // As many strides as extents, or another number.
      entry.stride.emplace(data.ConsumeIntegralInRange<size_t>(0, 7) == 0 ? 2 : entry.shape.size());
      for (auto& step : *entry.stride) step = number(data, 8);
    }
    if (!is_moderate(entry)) return -1;
  }
  const auto content = data.ConsumeRemainingBytes<uint8_t>();
  if (::ftruncate(file, 0) != 0) std::abort();
  if (::pwrite(file, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size())) std::abort();
  try {
    const auto tensors = bidiseg::read_tensors(name, entries);
    for (size_t i = 0; i < entries.size(); ++i) check(tensors[i], entries[i], content);
  } catch (const bidiseg::DataError&) {
  }
  return 0;
}
