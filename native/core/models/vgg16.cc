#include "core/models/vgg16.h"

#include "core/cancellation.h"
#include "core/models/network.h"

namespace bidiseg {
namespace {

struct StageShape {
  int64_t convolutions;
  int64_t channels;
};
constexpr std::array<StageShape, 5> kStages = {{{2, 64}, {2, 128}, {3, 256}, {3, 512}, {3, 512}}};

}  // namespace

std::vector<VggStage> make_vgg16(torch::nn::Module& owner, const Vgg16Options& options) {
  using torch::nn::Conv2d;
  using torch::nn::Conv2dOptions;
  std::vector<VggStage> stages;
  int64_t in = 3;
  for (size_t s = 0; s < kStages.size(); ++s) {
    const int64_t out = scaled_channels(kStages[s].channels, options.width);
    const int64_t dilation = s + 1 == kStages.size() ? options.last_dilation : 1;
    VggStage& stage = stages.emplace_back();
    for (int64_t i = 0; i < kStages[s].convolutions; ++i) {
      const int64_t padding = s == 0 && i == 0 ? options.first_padding : dilation;
      const std::string name = "conv" + std::to_string(s + 1) + "_" + std::to_string(i + 1);
      const Conv2d convolution(Conv2dOptions(in, out, 3).padding(padding).dilation(dilation));
      stage.emplace_back(owner.register_module(name, convolution));
      in = out;
    }
  }
  return stages;
}

at::Tensor run_stage(VggStage& stage, const at::Tensor& input) {
  at::Tensor x = input;
  for (FusedConvolution& convolution : stage) x = cancellation_point(convolution.relu(x));
  return x;
}

}  // namespace bidiseg
