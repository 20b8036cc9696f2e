#include "core/io/tensor_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/cancellation.h"
#include "core/errors.h"

namespace bidiseg {
namespace {

constexpr size_t kChunk = size_t{8} << 20;  // between two cancellation points

class File {
 public:
  File(const std::string& name, int flags) : name_(name), fd_(::open(name.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail("cannot be opened");
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int64_t size() const {
    struct stat info {};
    if (::fstat(fd_, &info) != 0) fail("cannot be examined");
    return info.st_size;
  }

  void read_at(char* out, size_t length, int64_t offset) const {
    while (length > 0) {
      throw_if_cancelled();
      const ssize_t got = ::pread(fd_, out, std::min(length, kChunk), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("cannot be read");
      if (got == 0) throw DataError(name_ + " ends before its tensors do");
      out += got;
      offset += got;
      length -= static_cast<size_t>(got);
    }
  }

  void write(const char* data, size_t length) const {
    while (length > 0) {
      throw_if_cancelled();
      const ssize_t put = ::write(fd_, data, std::min(length, kChunk));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail("cannot be written");
      data += put;
      length -= static_cast<size_t>(put);
    }
  }

  void flush() const {
    if (::fsync(fd_) != 0) fail("cannot be flushed to disk");
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw DataError(name_ + " " + what + ": " + std::strerror(errno)); }

  std::string name_;
  int fd_;
};

// The bytes of a tensor of this shape, or -1 where the shape is negative or the product overflows.
int64_t checked_bytes(at::ScalarType dtype, const std::vector<int64_t>& shape) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return -1;
  }
  return bytes;
}

// How many elements lie between the first and the last one of a strided tensor, both included, or -1 as above.
int64_t checked_span(const std::vector<int64_t>& shape, const std::vector<int64_t>& stride) {
  if (shape.size() != stride.size()) return -1;
  int64_t span = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    int64_t step = 0;
    if (shape[i] < 0 || stride[i] < 0) return -1;
    if (shape[i] == 0) return 0;
    if (__builtin_mul_overflow(shape[i] - 1, stride[i], &step) || __builtin_add_overflow(span, step, &span)) return -1;
  }
  return span;
}

}  // namespace

std::vector<at::Tensor> read_tensors(const std::string& name, const std::vector<TensorEntry>& entries) {
  const File file(name, O_RDONLY);
  const int64_t size = file.size();
  std::vector<at::Tensor> tensors;
  for (const auto& entry : entries) {
    // What lies in the file: the tensor itself, or the stretch from its first to its last element.
    const std::vector<int64_t> shape =
        entry.stride ? std::vector<int64_t>{checked_span(entry.shape, *entry.stride)} : entry.shape;
    const int64_t bytes = checked_bytes(entry.dtype, entry.shape) < 0 ? -1 : checked_bytes(entry.dtype, shape);
    if (bytes < 0 || entry.offset < 0 || entry.offset > size || bytes > size - entry.offset) {
      throw DataError(name + " has a tensor that reaches past its end: " + std::to_string(bytes) + " bytes at " +
                      std::to_string(entry.offset) + " of " + std::to_string(size));
    }
    at::Tensor tensor = at::empty(shape, entry.dtype);
    file.read_at(static_cast<char*>(tensor.mutable_data_ptr()), static_cast<size_t>(bytes), entry.offset);
    // A copy also where the view is contiguous by chance, so that no tensor keeps more memory than it shows.
    if (entry.stride) tensor = tensor.as_strided(entry.shape, *entry.stride).clone(at::MemoryFormat::Contiguous);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void write_tensors(const std::string& name, const at::Tensor& header, const std::vector<at::Tensor>& tensors) {
  const File file(name, O_WRONLY | O_CREAT | O_TRUNC);
  file.write(static_cast<const char*>(header.const_data_ptr()), header.nbytes());
  for (const auto& tensor : tensors) {
    const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
    file.write(static_cast<const char*>(host.const_data_ptr()), host.nbytes());
  }
  file.flush();
}

}  // namespace bidiseg
