// Tensors by name: what files of weights and saved training states hold.
#pragma once

#include "core/torch.h"

namespace bidiseg {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Appends `part` to `all`, its names behind `prefix`.
void append(NamedTensors& all, const std::string& prefix, const NamedTensors& part);

/// Removes from `all` what is named `prefix`… and returns it without the prefix.
NamedTensors extract(NamedTensors& all, const std::string& prefix);

/// Copies `incoming` into the tensors of `own`, by name. Every name must occur on both sides and with the same shape;
/// otherwise InvalidArgument: `complaint` and the first few differences, and nothing changes.
void copy_tensors(const NamedTensors& own, const NamedTensors& incoming, const std::string& complaint);

}  // namespace bidiseg
