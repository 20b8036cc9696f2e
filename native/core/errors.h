// Exceptions that native/binding translates into typed JavaScript errors. Anything else becomes a NativeError.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace bidiseg {

/// An argument is of the wrong shape, type or range. The message says what was expected and what was received.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A file cannot be read or written, or its content is invalid. The message names the file.
struct DataError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A loss or a gradient is NaN or infinite. It is thrown before any update, by all processes of a group alike.
struct NonFiniteLoss : std::runtime_error {
  using std::runtime_error::runtime_error;
  int64_t rank = -1;  ///< process that found it; -1 without a group
};

/// An operation of a process group failed. The message names this rank and the ranks that are missing.
struct ProcessGroupError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The job was canceled at a cancellation point.
struct Canceled : std::runtime_error {
  Canceled() : std::runtime_error("canceled") {}
};

}  // namespace bidiseg
