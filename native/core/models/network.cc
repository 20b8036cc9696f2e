#include "core/models/network.h"

namespace bidiseg {
namespace {

// Calls `fill(weight, bias, transposed)` for every convolution below `module`, in registration order, so that a seed
// always gives the same weights.
template <typename Fill>
void for_each_convolution(torch::nn::Module& module, Fill fill) {
  at::NoGradGuard no_grad;
  for (const auto& child : module.modules(/*include_self=*/false)) {
    if (auto* conv = child->as<torch::nn::Conv2d>()) {
      fill(conv->weight, conv->bias, false);
    } else if (auto* transposed = child->as<torch::nn::ConvTranspose2d>()) {
      fill(transposed->weight, transposed->bias, true);
    }
  }
}

int64_t receptive_field(const at::Tensor& weight) { return weight.size(2) * weight.size(3); }

}  // namespace

std::vector<TrainedParameter> Network::trained_parameters(double /*head_factor*/) const {
  std::vector<TrainedParameter> result;
  for (const auto& item : named_parameters()) {
    if (item.value().requires_grad()) result.push_back({item.key(), item.value()});
  }
  return result;
}

void Network::begin_evaluation() {
  const std::lock_guard lock(evaluation_mutex_);
  if (evaluations_++ > 0) return;
  trained_before_evaluation_ = is_training();
  eval();
}

void Network::end_evaluation() {
  const std::lock_guard lock(evaluation_mutex_);
  if (--evaluations_ == 0) train(trained_before_evaluation_);
}

void Network::set_frozen(bool frozen) {
  if (!frozen) {
    for (auto& parameter : frozen_) parameter.requires_grad_(true);
    frozen_.clear();
    return;
  }
  for (auto& parameter : parameters()) {
    if (!parameter.requires_grad()) continue;
    parameter.requires_grad_(false);
    frozen_.push_back(parameter);
  }
}

void Network::convert(at::Device device, at::ScalarType dtype) {
  const auto move = [&](at::Tensor& tensor) {
    tensor.set_data(tensor.detach().to(device, tensor.is_floating_point() ? dtype : tensor.scalar_type()));
  };
  for (auto& parameter : parameters()) move(parameter);
  for (auto& buffer : buffers()) move(buffer);
}

void initialize_normal(torch::nn::Module& module, double std, at::Generator generator) {
  for_each_convolution(module, [&](at::Tensor weight, at::Tensor bias, bool) {
    weight.normal_(0.0, std, generator);
    if (bias.defined()) bias.zero_();
  });
}

void initialize_kaiming(torch::nn::Module& module, at::Generator generator) {
  for_each_convolution(module, [&](at::Tensor weight, at::Tensor bias, bool transposed) {
    const auto fan_out = static_cast<double>(weight.size(transposed ? 1 : 0) * receptive_field(weight));
    weight.normal_(0.0, std::sqrt(2.0 / fan_out), generator);
    if (bias.defined()) bias.zero_();
  });
}

void initialize_uniform(torch::nn::Module& module, at::Generator generator) {
  for_each_convolution(module, [&](at::Tensor weight, at::Tensor bias, bool) {
    // PyTorch counts fan_in along dimension 1 for transposed convolutions too.
    const double bound = 1.0 / std::sqrt(static_cast<double>(weight.size(1) * receptive_field(weight)));
    weight.uniform_(-bound, bound, generator);
    if (bias.defined()) bias.uniform_(-bound, bound, generator);
  });
}

at::Generator make_cpu_generator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

int64_t scaled_channels(int64_t channels, double width) {
  return std::max<int64_t>(1, std::llround(static_cast<double>(channels) * width));
}

NamedTensors state_of(const Network& network) {
  NamedTensors state;
  for (const auto& item : network.named_parameters()) state.emplace_back(item.key(), item.value());
  for (const auto& item : network.named_buffers()) state.emplace_back(item.key(), item.value());
  return state;
}

void load_state(Network& network, const NamedTensors& state) {
  copy_tensors(state_of(network), state, "the weights do not fit the network");
}

}  // namespace bidiseg
