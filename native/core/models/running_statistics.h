#pragma once

#include "core/models/network.h"

namespace bidiseg {

/// Updates the running statistics of every BatchNorm layer by one forward pass in training mode:
///
///     running <- (1 - momentum) running + momentum statistics(input).
///
/// With momentum 1/i for the i-th batch they become the means over all batches, the statistics of another domain
/// (AdaBN, Li et al. 2016). Weights and mode stay. Throws InvalidArgument for a network without BatchNorm. After an
/// exception the statistics are as before.
void update_running_statistics(Network& network, const at::Tensor& input, double momentum);

}  // namespace bidiseg
