#pragma once

#include "core/distributed/process_group.h"
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

/// Makes running statistics the means over the `all` batches of a group's processes. Those of this process are the
/// means over its `own` batches, of which there may be none.
void combine_running_statistics(Network& network, int64_t own, int64_t all, ProcessGroup& group);

}  // namespace bidiseg
