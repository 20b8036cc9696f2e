// Tensors by name: the content of weights files and of saved training states.
#pragma once

#include "core/torch.h"

namespace bidiseg {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Appends `part` to `all`, with `prefix` before its names.
void append(NamedTensors& all, const std::string& prefix, const NamedTensors& part);

/// Removes the tensors from `all` whose names start with `prefix`. Returns them without the prefix.
NamedTensors extract(NamedTensors& all, const std::string& prefix);

/// Copies `incoming` into the tensors of `own`, by name. Both must have the same names and shapes. Otherwise throws
/// InvalidArgument with `complaint` and the first differences, and changes nothing.
void copy_tensors(const NamedTensors& own, const NamedTensors& incoming, const std::string& complaint);

}  // namespace bidiseg
