#pragma once

#include "core/models/network.h"

namespace bidiseg {

/// Moves the running statistics of every BatchNorm layer to (1 - momentum) running + momentum of(input), by one forward pass
/// in training mode. With momentum 1/i for the i-th of several batches they end as the means over all, and nothing of what
/// they were is left: the statistics of another domain (AdaBN, Li et al. 2016). Weights and mode stay.
/// Throws InvalidArgument for a network without BatchNorm; where it throws, the statistics are as before.
void update_running_statistics(Network& network, const at::Tensor& input, double momentum);

}  // namespace bidiseg
