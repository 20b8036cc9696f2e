#include "core/data/labels.h"

#include <string>

#include "core/errors.h"

namespace bidiseg {

void throw_label_out_of_range(const char* what, int64_t label, int64_t class_count) {
  throw InvalidArgument(std::string("Expected ") + what + " from 0 to " + std::to_string(class_count - 1) +
                        " but found " + std::to_string(label));
}

}  // namespace bidiseg
