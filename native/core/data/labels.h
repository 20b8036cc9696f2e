#pragma once

#include <cstdint>

namespace bidiseg {

/// Throws InvalidArgument: "Expected `what` from 0 to C - 1 but found `label`".
[[noreturn]] void throw_label_out_of_range(const char* what, int64_t label, int64_t class_count);

}  // namespace bidiseg
