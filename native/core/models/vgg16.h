// Convolutions of VGG-16 (Simonyan & Zisserman 2014), which FCN-8s and a DeepLab-v2 are made of.
#pragma once

#include "core/models/fused_convolution.h"

namespace bidiseg {

/// Convolutions between two poolings, each with a ReLU.
using VggStage = std::vector<FusedConvolution>;

struct Vgg16Options {
  double width;           ///< factor of every channel count
  int64_t first_padding;  ///< padding of conv1_1; all others keep the size
  int64_t last_dilation;  ///< dilation of the convolutions of the fifth stage
};

/// Makes the five stages and registers their convolutions with `owner` as conv1_1 to conv5_3. The fifth stage gives
/// scaled_channels(512, width) channels.
std::vector<VggStage> make_vgg16(torch::nn::Module& owner, const Vgg16Options& options);

/// Runs a stage. It is a Segment.
at::Tensor run_stage(VggStage& stage, const at::Tensor& input);

}  // namespace bidiseg
