// Files as byte ranges. Failures throw a DataError that names the file. Every few megabytes there is a cancellation
// point.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace bidiseg {

class File {
 public:
  File(const File&) = delete;
  File& operator=(const File&) = delete;

 protected:
  File(const std::string& name, int flags);
  ~File();
  [[noreturn]] void fail(const char* what) const;

  std::string name_;
  int fd_;
};

class InputFile : public File {
 public:
  explicit InputFile(const std::string& name);
  int64_t size() const;
  void read_at(void* out, size_t length, int64_t offset) const;
};

/// Replaces an existing file.
class OutputFile : public File {
 public:
  explicit OutputFile(const std::string& name);
  void write(const void* data, size_t length);
  /// Flushes the file to disk.
  void flush();
};

}  // namespace bidiseg
