// A segmenter as a TorchScript archive, which LibTorch and PyTorch run without this library.
#pragma once

#include "core/models/network.h"

namespace bidiseg {

/// Writes `network` in evaluation mode, its weights as float32 on the CPU under their state-dict names, with one method
/// `forward(image)`: what the network takes, of any batch and image size, to logits. `upsample` has it resize logits to
/// the image's size where they are smaller. `metadata` becomes the archive's extra file `bidiseg.json`.
///
/// The network itself is left as it was. Fails with a DataError that names the file; what was written until then stays
/// for the caller to remove.
void write_torchscript(SegmentationNetwork& network, const std::string& file, bool upsample,
                       const std::string& metadata);

}  // namespace bidiseg
