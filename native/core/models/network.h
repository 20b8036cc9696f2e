// Base classes of networks, initial weights and scopes.
#pragma once

#include <torch/nn/module.h>

#include <mutex>

#include "core/models/activation_checkpoint.h"
#include "core/named_tensors.h"
#include "core/torch.h"

namespace bidiseg {

/// Initial weights of convolutions.
enum class Initialization {
  kNormal,   ///< N(0, 0.01): the reference's segmentation networks
  kKaiming,  ///< N(0, 2 / fan_out): for training from scratch
};

/// Parameter with its settings for an optimizer.
struct TrainedParameter {
  std::string name;
  at::Tensor value;
  double learning_rate_factor = 1.0;
  /// Number of updates in one optimizer step of the reference (algorithm.md, `repeatedStep`). Its parameter generator
  /// yields a convolution once for every module that contains it, from the layer down.
  int reference_repeats = 1;
};

class Network : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;

  /// Forward pass. The output has the dtype of the input, also with autocasting.
  virtual at::Tensor forward(const at::Tensor& input) = 0;

  /// Parameters that require a gradient. `head_factor` multiplies the learning rate of the classifier head, if the
  /// network has one.
  virtual std::vector<TrainedParameter> trained_parameters(double head_factor) const;

  /// Turns gradients off, or on again for the parameters that required one before.
  void set_frozen(bool frozen);
  bool is_frozen() const { return !frozen_.empty(); }

  /// Turns activation checkpointing on or off: with it, forward passes keep only the input of each block, and the
  /// backward pass computes the block again. See activation_checkpoint().
  void set_activation_checkpointing(bool on) { activation_checkpointing_ = on; }
  bool has_activation_checkpointing() const { return activation_checkpointing_; }

  /// Generator that forward() draws from in training mode; undefined if it draws nothing.
  virtual at::Generator generator() const { return {}; }

  /// Device of the parameters.
  at::Device device() const { return parameters().front().device(); }

  /// Dtype of the parameters and of the input.
  at::ScalarType dtype() const { return parameters().front().scalar_type(); }

  /// Converts parameters and buffers to `device`, and those of a floating-point dtype to `dtype` (torch::nn::Module::to
  /// would convert counters too). Only for new networks: optimizers and handles keep the old tensors.
  void convert(at::Device device, at::ScalarType dtype);

 protected:
  /// segment(x), with activation checkpointing if it is on.
  at::Tensor run_segment(const at::Tensor& x, const Segment& segment) const {
    return activation_checkpointing_ ? activation_checkpoint(x, segment) : segment(x);
  }

 private:
  friend class EvaluationScope;
  void begin_evaluation();
  void end_evaluation();

  std::vector<at::Tensor> frozen_;
  std::mutex evaluation_mutex_;
  int evaluations_ = 0;  // scopes of all threads
  bool trained_before_evaluation_ = false;
  bool activation_checkpointing_ = false;
};

/// Output of one forward pass of a segmentation network.
struct SegmentationOutput {
  at::Tensor features;  ///< [N, feature_count(), h, w]: input of the classifier; its dtype depends on autocasting
  at::Tensor logits;    ///< [N, class_count(), h', w']
};

/// Network that maps images to class logits.
class SegmentationNetwork : public Network {
 public:
  using Network::Network;
  virtual SegmentationOutput forward_with_features(const at::Tensor& input) = 0;
  at::Tensor forward(const at::Tensor& input) final { return forward_with_features(input).logits; }
  virtual int64_t class_count() const = 0;
  virtual int64_t feature_count() const = 0;
};

/// Draws the weights of every convolution and transposed convolution below `module` from N(0, std). Biases are 0.
void initialize_normal(torch::nn::Module& module, double std, at::Generator generator);

/// Draws weights from N(0, 2 / fan_out) (He et al. 2015). Biases are 0.
void initialize_kaiming(torch::nn::Module& module, at::Generator generator);

/// Draws weights and biases from U(-b, b), b = 1 / sqrt(fan_in), as PyTorch's constructor does.
void initialize_uniform(torch::nn::Module& module, at::Generator generator);

at::Generator make_cpu_generator(uint64_t seed);

/// Channel count of a narrower or wider network: max(1, round(channels * width)).
int64_t scaled_channels(int64_t channels, double width);

/// Freezes a network for the lifetime of the scope. A network that is frozen already stays frozen afterwards.
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
  ActivationCheckpointingScope(Network& network, bool on)
      : network_(network), was_on_(network.has_activation_checkpointing()) {
    network_.set_activation_checkpointing(on);
  }
  ~ActivationCheckpointingScope() { network_.set_activation_checkpointing(was_on_); }
  ActivationCheckpointingScope(const ActivationCheckpointingScope&) = delete;
  ActivationCheckpointingScope& operator=(const ActivationCheckpointingScope&) = delete;

 private:
  Network& network_;
  bool was_on_;
};

/// Sets training mode for the lifetime of the scope, and then the previous mode.
class TrainingScope {
 public:
  explicit TrainingScope(Network& network) : network_(network), was_training_(network.is_training()) {
    network_.train();
  }
  ~TrainingScope() { network_.train(was_training_); }
  TrainingScope(const TrainingScope&) = delete;
  TrainingScope& operator=(const TrainingScope&) = delete;

 private:
  Network& network_;
  bool was_training_;
};

/// Sets evaluation mode for the lifetime of the scope, and then the previous mode. Several threads may have scopes of
/// one network. The last one restores the mode.
class EvaluationScope {
 public:
  explicit EvaluationScope(Network& network) : network_(network) { network_.begin_evaluation(); }
  ~EvaluationScope() { network_.end_evaluation(); }
  EvaluationScope(const EvaluationScope&) = delete;
  EvaluationScope& operator=(const EvaluationScope&) = delete;

 private:
  Network& network_;
};

/// Copies `state` into the parameters and buffers of `network`, by name; see copy_tensors().
void load_state(Network& network, const NamedTensors& state);

/// Parameters, then buffers, by their PyTorch state-dict names. The tensors share storage with the network.
NamedTensors state_of(const Network& network);

}  // namespace bidiseg
