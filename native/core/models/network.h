// What all networks have in common: one tensor in, one tensor out, seeded initial weights.
#pragma once

#include <torch/nn/module.h>

#include "core/models/activation_checkpoint.h"
#include "core/named_tensors.h"
#include "core/torch.h"

namespace bidiseg {

/// How convolution weights start.
enum class Initialization {
  kNormal,   ///< N(0, 0.01): the reference's segmentation networks
  kKaiming,  ///< N(0, 2 / fan_out): for training from scratch
};

/// A parameter together with how an optimizer treats it.
struct TrainedParameter {
  std::string name;
  at::Tensor value;
  double learning_rate_factor = 1.0;
  /// How often one optimizer step of the reference moves it (algorithm.md, `repeatedStep`): its parameter generator
  /// yields a convolution once for every module that contains it, below the layer.
  int reference_repeats = 1;
};

class Network : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;

  /// The output has the input's dtype, whatever autocasting makes of what lies between.
  virtual at::Tensor forward(const at::Tensor& input) = 0;

  /// Parameters that require a gradient. `head_factor` multiplies the learning rate of the classifier head, where the
  /// network has one.
  virtual std::vector<TrainedParameter> trained_parameters(double head_factor) const;

  /// Turns gradients off, or back on for exactly the parameters that had one before.
  void set_frozen(bool frozen);
  bool is_frozen() const { return !frozen_.empty(); }

  /// Turns activation checkpointing on or off: with it, forward passes keep only the input of each block, and the
  /// backward pass computes the block again. See activation_checkpoint().
  void set_activation_checkpointing(bool on) { activation_checkpointing_ = on; }
  bool has_activation_checkpointing() const { return activation_checkpointing_; }

  /// What forward() draws from in training mode; undefined for a network that draws nothing.
  virtual at::Generator generator() const { return {}; }

  /// Where the parameters are.
  at::Device device() const { return parameters().front().device(); }

  /// What the network computes in, and so what its input has to be.
  at::ScalarType dtype() const { return parameters().front().scalar_type(); }

  /// Moves everything to `device`, and what is floating-point to `dtype` (torch::nn::Module::to would convert counters
  /// too). For new networks: what an optimizer or a handle already holds does not follow.
  void convert(at::Device device, at::ScalarType dtype);

 protected:
  /// segment(x), with activation checkpointing if it is on.
  at::Tensor run_segment(const at::Tensor& x, const Segment& segment) const {
    return activation_checkpointing_ ? activation_checkpoint(x, segment) : segment(x);
  }

 private:
  std::vector<at::Tensor> frozen_;
  bool activation_checkpointing_ = false;
};

/// What a segmentation network makes of images in one pass.
struct SegmentationOutput {
  at::Tensor features;  ///< [N, feature_count(), h, w]: what the classifier looks at, in whatever dtype that is computed in
  at::Tensor logits;    ///< [N, class_count(), h', w']
};

/// A network that maps images to class logits.
class SegmentationNetwork : public Network {
 public:
  using Network::Network;
  virtual SegmentationOutput forward_with_features(const at::Tensor& input) = 0;
  at::Tensor forward(const at::Tensor& input) final { return forward_with_features(input).logits; }
  virtual int64_t class_count() const = 0;
  virtual int64_t feature_count() const = 0;
};

/// Fills every convolution and transposed convolution below `module` with values drawn from `generator`:
/// weights from N(0, std), biases 0.
void initialize_normal(torch::nn::Module& module, double std, at::Generator generator);

/// Weights from N(0, 2 / fan_out), biases 0 (He et al. 2015).
void initialize_kaiming(torch::nn::Module& module, at::Generator generator);

/// Weights and biases from U(-b, b), b = 1 / sqrt(fan_in): what PyTorch's own constructor does.
void initialize_uniform(torch::nn::Module& module, at::Generator generator);

at::Generator make_cpu_generator(uint64_t seed);

/// max(1, round(channels * width)): a member of the family with fewer channels.
int64_t scaled_channels(int64_t channels, double width);

/// A network that is frozen for a scope; one that was frozen before stays so.
class FrozenScope {
 public:
  explicit FrozenScope(Network& network) : network_(network), was_frozen_(network.is_frozen()) {
    if (!was_frozen_) network_.set_frozen(true);
  }
  ~FrozenScope() {
    if (!was_frozen_) network_.set_frozen(false);
  }
  FrozenScope(const FrozenScope&) = delete;
  FrozenScope& operator=(const FrozenScope&) = delete;

 private:
  Network& network_;
  bool was_frozen_;
};

/// Turns activation checkpointing on or off for the lifetime of the scope.
class ActivationCheckpointingScope {
 public:
  ActivationCheckpointingScope(Network& network, bool on) : network_(network), was_on_(network.has_activation_checkpointing()) {
    network_.set_activation_checkpointing(on);
  }
  ~ActivationCheckpointingScope() { network_.set_activation_checkpointing(was_on_); }
  ActivationCheckpointingScope(const ActivationCheckpointingScope&) = delete;
  ActivationCheckpointingScope& operator=(const ActivationCheckpointingScope&) = delete;

 private:
  Network& network_;
  bool was_on_;
};

/// Training or evaluation mode for a scope; then the mode that the network's owner chose.
class ModeScope {
 public:
  ModeScope(Network& network, bool training) : network_(network), was_training_(network.is_training()) {
    network_.train(training);
  }
  ~ModeScope() { network_.train(was_training_); }
  ModeScope(const ModeScope&) = delete;
  ModeScope& operator=(const ModeScope&) = delete;

 private:
  Network& network_;
  bool was_training_;
};

/// Copies `state` into the parameters and buffers of `network`, by name; see copy_tensors().
void load_state(Network& network, const NamedTensors& state);

/// Parameters, then buffers, by their PyTorch state-dict names; the tensors share storage with the network.
NamedTensors state_of(const Network& network);

}  // namespace bidiseg
