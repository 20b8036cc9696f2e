#include "core/export/torchscript.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/serialization/export.h>

#include <exception>

#include "core/io/file.h"
#include "core/tracing.h"

namespace bidiseg {
namespace {

using torch::jit::Module;

// Large enough for every layer to have output, and otherwise small.
constexpr int64_t kTracedSize = 65;

// Submodule of `root` for the tensor of this state-dict name, created if missing, and the last part of the name.
std::pair<Module, std::string> owner_of(const Module& root, const std::string& name) {
  Module owner = root;
  size_t begin = 0;
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', begin)) {
    const std::string part = name.substr(begin, dot - begin);
    if (!owner.hasattr(part)) {
      Module child("__torch__.bidiseg.Part", root._ivalue()->compilation_unit(), /*shouldMangle=*/true);
      child.register_attribute("training", c10::BoolType::get(), false);
      owner.register_module(part, child);
    }
    owner = owner.attr(part).toModule();
    begin = dot + 1;
  }
  return {owner, name.substr(begin)};
}

}  // namespace

void write_torchscript(SegmentationNetwork& network, const std::string& file, bool upsample,
                       const std::string& metadata) {
  at::NoGradGuard no_grad;
  const EvaluationScope evaluation(network);

  // The tracer identifies weights by their tensors, so that the module has to share the network's while tracing.
  Module module("__torch__.bidiseg.Segmenter");
  module.register_attribute("training", c10::BoolType::get(), false);
  const auto state = state_of(network);
  const size_t parameters = network.parameters().size();
  for (size_t i = 0; i < state.size(); ++i) {
    auto [owner, name] = owner_of(module, state[i].first);
    owner.register_parameter(name, state[i].second, /*is_buffer=*/i >= parameters);
  }
  const at::Tensor image = at::zeros({1, 3, kTracedSize, kTracedSize}, network.parameters().front().options());
  const auto forward = [&](torch::jit::Stack inputs) -> torch::jit::Stack {
    const at::Tensor input = inputs.at(0).toTensor();
    at::Tensor logits = network.forward(input);
    const bool smaller = logits.size(2) != input.size(2) || logits.size(3) != input.size(3);
    return {upsample && smaller ? resize_like(logits, input) : logits};
  };
  const auto traced =
      torch::jit::tracer::trace({image.detach()}, forward, [](const at::Tensor&) { return std::string(); },
                                /*strict=*/true, /*force_outplace=*/false, &module, {"image"})
          .first;
  module.type()->addMethod(module._ivalue()->compilation_unit()->create_function(
      c10::QualifiedName(*module.type()->name(), "forward"), traced->graph));

  for (const auto& [path, tensor] : state) {
    auto [owner, name] = owner_of(module, path);
    const at::ScalarType dtype = tensor.is_floating_point() ? at::kFloat : tensor.scalar_type();
    owner.setattr(name, tensor.detach().to(at::kCPU, dtype));
  }
  // LibTorch's writer must not see a failure: its destructor would throw, which ends the process.
  OutputFile output(file);
  std::exception_ptr failure;
  const auto write = [&](const void* data, size_t length) {
    try {
      if (!failure) output.write(data, length);
    } catch (...) {
      failure = std::current_exception();
    }
    return length;
  };
  torch::jit::ExportModule(module, write, {{"bidiseg.json", metadata}});
  if (failure) std::rethrow_exception(failure);
  output.flush();
}

}  // namespace bidiseg
