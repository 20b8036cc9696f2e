#include "core/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/cancellation.h"
#include "core/errors.h"

namespace bidiseg {
namespace {

constexpr size_t kChunk = size_t{8} << 20;  // between two cancellation points

}  // namespace

File::File(const std::string& name, int flags) : name_(name), fd_(::open(name.c_str(), flags | O_CLOEXEC, 0666)) {
  if (fd_ < 0) fail("cannot be opened");
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

void File::fail(const char* what) const { throw DataError(name_ + " " + what + ": " + std::strerror(errno)); }

InputFile::InputFile(const std::string& name) : File(name, O_RDONLY) {}

int64_t InputFile::size() const {
  struct stat info{};
  if (::fstat(fd_, &info) != 0) fail("cannot be examined");
  return info.st_size;
}

void InputFile::read_at(void* out, size_t length, int64_t offset) const {
  auto* next = static_cast<char*>(out);
  while (length > 0) {
    throw_if_canceled();
    const ssize_t got = ::pread(fd_, next, std::min(length, kChunk), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot be read");
    if (got == 0) throw DataError(name_ + " ends before its tensors do");
    next += got;
    offset += got;
    length -= static_cast<size_t>(got);
  }
}

OutputFile::OutputFile(const std::string& name) : File(name, O_WRONLY | O_CREAT | O_TRUNC) {}

void OutputFile::write(const void* data, size_t length) {
  const auto* next = static_cast<const char*>(data);
  while (length > 0) {
    throw_if_canceled();
    const ssize_t put = ::write(fd_, next, std::min(length, kChunk));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("cannot be written");
    next += put;
    length -= static_cast<size_t>(put);
  }
}

void OutputFile::flush() {
  if (::fsync(fd_) != 0) fail("cannot be flushed to disk");
}

}  // namespace bidiseg
