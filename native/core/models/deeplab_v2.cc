#include "core/models/deeplab_v2.h"

#include "core/cancellation.h"

namespace bidiseg {
namespace {

using torch::nn::BatchNorm2d;
using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;

// BatchNorm whose affine part is not trained: it is (1, 0) or comes from a weights file. In training mode it normalizes
// with batch statistics and updates the running ones.
BatchNorm2d frozen_affine_batch_norm(int64_t channels) {
  BatchNorm2d norm(channels);
  norm->weight.requires_grad_(false);
  norm->bias.requires_grad_(false);
  return norm;
}

// Residual block: ReLU of the sum of its body and a shortcut.
class ResidualBlock : public torch::nn::Module {
 public:
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor y = x;
    for (size_t i = 0; i + 1 < body_.size(); ++i) y = body_[i].relu(y);
    return cancellation_point(body_.back().add_relu(y, downsample_ ? (*downsample_)(x) : x));
  }

 protected:
  // Adds a convolution to the body, with its normalization, as the modules convN and bnN.
  void add_convolution(const Conv2dOptions& options) {
    const std::string number = std::to_string(body_.size() + 1);
    const Conv2d convolution = register_module("conv" + number, Conv2d(options));
    body_.emplace_back(convolution, register_module("bn" + number, frozen_affine_batch_norm(options.out_channels())));
  }

  // The first block of a layer projects its shortcut if the shape changes. As in the reference, layer3 (dilation 2) and
  // layer4 (dilation 4) always do so, even if a BasicBlock's shape stays the same.
  void add_shortcut(int64_t in, int64_t out, int64_t stride, int64_t dilation, bool first) {
    if (!first || (stride == 1 && in == out && dilation == 1)) return;
    const Conv2d convolution(Conv2dOptions(in, out, 1).stride(stride).bias(false));
    const BatchNorm2d norm = frozen_affine_batch_norm(out);
    register_module("downsample", torch::nn::Sequential(convolution, norm));
    downsample_.emplace(convolution, norm);
  }

 private:
  std::vector<FusedConvolution> body_;
  std::optional<FusedConvolution> downsample_;
};

// Block of two 3x3 convolutions (ResNet-18 and -34).
class BasicBlock : public ResidualBlock {
 public:
  BasicBlock(int64_t in, int64_t channels, int64_t stride, int64_t dilation, bool first) {
    add_convolution(Conv2dOptions(in, channels, 3).stride(stride).padding(dilation).dilation(dilation).bias(false));
    add_convolution(Conv2dOptions(channels, channels, 3).padding(dilation).dilation(dilation).bias(false));
    add_shortcut(in, channels, stride, dilation, first);
  }
};

// Block of 1x1, 3x3 and 1x1 convolutions, the last with four times the channels (ResNet-50 and -101). One of the first
// two has the stride.
class Bottleneck : public ResidualBlock {
 public:
  static constexpr int64_t kExpansion = 4;

  Bottleneck(int64_t in, int64_t channels, int64_t stride, BottleneckStride place, int64_t dilation, bool first) {
    const bool middle = place == BottleneckStride::kMiddle;
    add_convolution(Conv2dOptions(in, channels, 1).stride(middle ? 1 : stride).bias(false));
    add_convolution(Conv2dOptions(channels, channels, 3)
                        .stride(middle ? stride : 1)
                        .padding(dilation)
                        .dilation(dilation)
                        .bias(false));
    add_convolution(Conv2dOptions(channels, channels * kExpansion, 1).bias(false));
    add_shortcut(in, channels * kExpansion, stride, dilation, first);
  }
};

struct BackboneShape {
  std::array<int64_t, 4> blocks;
  bool bottleneck;
};

BackboneShape shape_of(Backbone backbone) {
  switch (backbone) {
    case Backbone::kResNet18: return {{2, 2, 2, 2}, false};
    case Backbone::kResNet34: return {{3, 4, 6, 3}, false};
    case Backbone::kResNet50: return {{3, 4, 6, 3}, true};
    case Backbone::kResNet101: return {{3, 4, 23, 3}, true};
    case Backbone::kVgg16: break;
  }
  TORCH_INTERNAL_ASSERT(false, "no ResNet");
}

constexpr std::array<int64_t, 4> kLayerStride = {1, 2, 1, 1};
constexpr std::array<int64_t, 4> kLayerDilation = {1, 1, 2, 4};
constexpr std::array<int64_t, 4> kHeadDilation = {6, 12, 18, 24};

}  // namespace

DeepLabV2::DeepLabV2(const DeepLabV2Options& options)
    : SegmentationNetwork("DeepLabV2"),
      class_count_(options.class_count),
      branches_(static_cast<size_t>(options.branches)) {
  const bool is_vgg = options.backbone == Backbone::kVgg16;
  if (is_vgg) stages_ = make_vgg16(*this, {.width = options.width, .first_padding = 1, .last_dilation = 2});
  feature_count_ = is_vgg ? scaled_channels(512, options.width) : make_resnet(options);
  torch::nn::ModuleList branches;
  for (const int64_t dilation : kHeadDilation) {
    Conv2d branch(Conv2dOptions(feature_count_, options.class_count, 3).padding(dilation).dilation(dilation));
    branches->push_back(branch);
    head_.emplace_back(branch);
  }
  // The intermediate module only gives the parameters their names: layer5.conv2d_list.N.
  auto classifier = std::make_shared<torch::nn::Module>("Classifier");
  classifier->register_module("conv2d_list", branches);
  register_module("layer5", classifier);

  const at::Generator generator = make_cpu_generator(options.seed);
  if (options.initialization == Initialization::kKaiming) {
    initialize_kaiming(*this, generator);
    initialize_normal(*branches, 0.01, generator);
  } else {
    initialize_normal(*this, 0.01, generator);
  }
}

// Returns the number of channels.
int64_t DeepLabV2::make_resnet(const DeepLabV2Options& options) {
  const BackboneShape shape = shape_of(options.backbone);
  const int64_t stem = scaled_channels(64, options.width);
  const Conv2d conv1 = register_module("conv1", Conv2d(Conv2dOptions(3, stem, 7).stride(2).padding(3).bias(false)));
  stem_.emplace(conv1, register_module("bn1", frozen_affine_batch_norm(stem)));

  int64_t in = stem;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const int64_t channels = scaled_channels(int64_t{64} << layer, options.width);
    torch::nn::Sequential blocks;
    for (int64_t i = 0; i < shape.blocks[layer]; ++i) {
      const int64_t stride = i == 0 ? kLayerStride[layer] : 1;
      if (shape.bottleneck) {
        blocks->push_back(Bottleneck(in, channels, stride, options.bottleneck_stride, kLayerDilation[layer], i == 0));
        in = channels * Bottleneck::kExpansion;
      } else {
        blocks->push_back(BasicBlock(in, channels, stride, kLayerDilation[layer], i == 0));
        in = channels;
      }
    }
    layers_[layer] = register_module("layer" + std::to_string(layer + 1), blocks);
  }
  return in;
}

at::Tensor DeepLabV2::resnet_features(const at::Tensor& input) {
  at::Tensor x = stem_->relu(input);
  x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1}, {1, 1}, /*ceil_mode=*/true);
  x = cancellation_point(x);
  for (const auto& layer : layers_) {
    for (const auto& module : layer->children()) {
      const Segment block = [module](const at::Tensor& x) { return module->as<ResidualBlock>()->forward(x); };
      // In evaluation mode a block may overwrite its input, which activation checkpointing does not allow.
      x = is_training() ? run_segment(x, block) : block(x);
    }
  }
  return x;
}

at::Tensor DeepLabV2::vgg_features(const at::Tensor& input) {
  at::Tensor x = input;
  for (size_t s = 0; s < stages_.size(); ++s) {
    x = run_segment(x, [&stage = stages_[s]](const at::Tensor& x) { return run_stage(stage, x); });
    x = s < 3 ? at::max_pool2d(x, {2, 2}, {2, 2}, {0, 0}, {1, 1}, /*ceil_mode=*/true)
              : at::max_pool2d(x, {3, 3}, {1, 1}, {1, 1});
  }
  return x;
}

SegmentationOutput DeepLabV2::forward_with_features(const at::Tensor& input) {
  const at::Tensor features = stages_.empty() ? resnet_features(input) : vgg_features(input);
  at::Tensor logits;
  for (size_t i = 0; i < branches_; ++i) {
    const at::Tensor branch = head_[i](features).type_as(input);
    logits = logits.defined() ? logits.add_(branch) : branch;
  }
  return {features, logits};
}

std::vector<TrainedParameter> DeepLabV2::trained_parameters(double head_factor) const {
  auto result = Network::trained_parameters(head_factor);
  for (auto& parameter : result) {
    const auto& name = parameter.name;
    if (name.starts_with("layer5.")) {
      parameter.learning_rate_factor = head_factor;
    } else if (name.find(".downsample.") != std::string::npos) {
      parameter.reference_repeats = 4;  // layer, block, downsample and the convolution itself
    } else if (name.starts_with("layer")) {
      parameter.reference_repeats = 3;  // layer, block and the convolution itself
    }
  }
  return result;
}

}  // namespace bidiseg
