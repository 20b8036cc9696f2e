// Export of a segmenter as a TorchScript archive, which LibTorch and PyTorch run without this library.
#pragma once

#include "core/models/network.h"

namespace bidiseg {

/// Writes `network` in evaluation mode. Weights are float32 on the CPU, under their state-dict names. The only method,
/// `forward(image)`, maps the network's input, of any batch and image size, to logits. With `upsample` it resizes
/// smaller logits to the size of the image. `metadata` becomes the extra file `bidiseg.json` of the archive.
///
/// The network does not change. Throws DataError naming the file; the caller removes the incomplete file.
void write_torchscript(SegmentationNetwork& network, const std::string& file, bool upsample,
                       const std::string& metadata);

}  // namespace bidiseg
