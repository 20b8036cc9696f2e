// Tensor handles: creation, data, gradients, the operations that a training loop in TypeScript needs, and file access.
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"
#include "core/io/tensor_file.h"
#include "core/losses/segmentation.h"

namespace bidiseg::binding {
namespace {

// createTensor(data, shape): a copy on the CPU
Napi::Value create_tensor(const Napi::CallbackInfo& info) {
  return tensor_to_js(info.Env(), typed_array_copy(info[0], shape_argument(info[1], "shape"), "data"));
}

Napi::Value tensor_info(const Napi::CallbackInfo& info) {
  const at::Tensor tensor = tensor_argument(info[0], "tensor");
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("shape", numbers_to_js(info.Env(), tensor.sizes().vec()));
  result.Set("dtype", dtype_name(tensor.scalar_type()));
  result.Set("device", tensor.device().str());
  result.Set("requiresGrad", tensor.requires_grad());
  return result;
}

Napi::Value tensor_data(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [tensor = tensor_argument(info[0], "tensor")] {
        // Always a copy, so that later training does not change the typed array.
        return tensor.detach().to(at::kCPU).clone(at::MemoryFormat::Contiguous);
      },
      typed_array_to_js);
}

Napi::Value tensor_backward(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), cancellation_argument(info[1]), [tensor = tensor_argument(info[0], "tensor")] {
    if (tensor.numel() != 1) throw InvalidArgument("Expected a scalar tensor for backward()");
    if (!tensor.requires_grad()) throw InvalidArgument("Expected a tensor that depends on parameters for backward()");
    tensor.backward();
  });
}

// Gradient of a parameter; null if it has none.
Napi::Value tensor_gradient(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr, [tensor = tensor_argument(info[0], "tensor")] { return at::Tensor(tensor.grad()); },
      [](Napi::Env env, const at::Tensor& gradient) -> Napi::Value {
        return gradient.defined() ? tensor_to_js(env, gradient) : env.Null();
      });
}

Napi::Value tensor_detach(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr, [tensor = tensor_argument(info[0], "tensor")] { return tensor.detach(); }, tensor_to_js);
}

// tensorRequireGrad(tensor): makes it a leaf that receives a gradient from backward()
Napi::Value tensor_require_grad(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), nullptr, [tensor = tensor_argument(info[0], "tensor")]() mutable {
    if (!tensor.is_leaf()) {
      throw InvalidArgument("Only a tensor that was not computed from others can require a gradient");
    }
    tensor.requires_grad_(true);
  });
}

Napi::Value tensor_to(const Napi::CallbackInfo& info) {
  const Options options(info[1]);
  return run_async(
      info.Env(), nullptr,
      [tensor = tensor_argument(info[0], "tensor"), device = device_argument(options.string("device")),
       dtype = dtype_argument(options.string("dtype")),
       format = options.choice<at::MemoryFormat>("memoryFormat", {{"preserve", at::MemoryFormat::Preserve},
                                                                  {"contiguous", at::MemoryFormat::Contiguous},
                                                                  {"channels-last", at::MemoryFormat::ChannelsLast}})] {
        return tensor.to(device, dtype, /*non_blocking=*/false, /*copy=*/false, format);
      },
      tensor_to_js);
}

Napi::Value tensor_add(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr,
      [a = tensor_argument(info[0], "tensor"), b = tensor_argument(info[1], "other")] { return a + b; }, tensor_to_js);
}

Napi::Value tensor_scale(const Napi::CallbackInfo& info) {
  const double factor = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : std::nan("");
  if (!std::isfinite(factor)) throw InvalidArgument("Expected a finite number for factor");
  return run_async(
      info.Env(), nullptr, [tensor = tensor_argument(info[0], "tensor"), factor] { return tensor * factor; },
      tensor_to_js);
}

Napi::Value tensor_softmax(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), nullptr, [tensor = tensor_argument(info[0], "tensor")] { return at::softmax(tensor, 1); },
      tensor_to_js);
}

Napi::Value tensor_resize(const Napi::CallbackInfo& info) {
  const auto size = shape_argument(info[1], "size");
  if (size.size() != 2) throw InvalidArgument("Expected [height, width] for size");
  return run_async(
      info.Env(), nullptr,
      [tensor = tensor_argument(info[0], "tensor"), size] { return resize_bilinear(tensor, size[0], size[1]); },
      tensor_to_js);
}

Napi::Value read_tensor_file(const Napi::CallbackInfo& info) {
  if (!info[1].IsArray()) throw InvalidArgument("Expected an array of entries");
  const auto array = info[1].As<Napi::Array>();
  std::vector<TensorEntry> entries;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Options entry(array.Get(i));
    const auto object = array.Get(i).As<Napi::Object>();
    const Napi::Value stride = object.Get("stride");
    entries.push_back({dtype_argument(entry.string("dtype")), shape_argument(object.Get("shape"), "shape"),
                       entry.integer("offset"), std::nullopt});
    if (!stride.IsUndefined()) entries.back().stride = shape_argument(stride, "stride");
  }
  return run_async(
      info.Env(), cancellation_argument(info[2]),
      [file = path_argument(info[0]), entries = std::move(entries)] { return read_tensors(file, entries); },
      [](Napi::Env env, const std::vector<at::Tensor>& tensors) {
        Napi::Array result = Napi::Array::New(env, tensors.size());
        for (size_t i = 0; i < tensors.size(); ++i) result.Set(i, tensor_to_js(env, tensors[i]));
        return result;
      });
}

Napi::Value write_tensor_file(const Napi::CallbackInfo& info) {
  if (!info[1].IsTypedArray() || !info[2].IsArray()) {
    throw InvalidArgument("Expected a header of bytes and an array of tensors");
  }
  const auto length = static_cast<int64_t>(info[1].As<Napi::TypedArray>().ElementLength());
  const auto array = info[2].As<Napi::Array>();
  std::vector<at::Tensor> tensors;
  for (uint32_t i = 0; i < array.Length(); ++i) tensors.push_back(tensor_argument(array.Get(i), "tensor"));
  return run_async(info.Env(), cancellation_argument(info[3]),
                   [file = path_argument(info[0]), header = typed_array_copy(info[1], {length}, "header"),
                    tensors = std::move(tensors)] { write_tensors(file, header, tensors); });
}

}  // namespace

void export_tensors(Napi::Env env, Napi::Object exports) {
  Handle<at::Tensor>::define(env, exports);
  exports.Set("createTensor", Napi::Function::New<guarded<create_tensor>>(env));
  exports.Set("tensorInfo", Napi::Function::New<guarded<tensor_info>>(env));
  exports.Set("tensorData", Napi::Function::New<guarded<tensor_data>>(env));
  exports.Set("tensorBackward", Napi::Function::New<guarded<tensor_backward>>(env));
  exports.Set("tensorGradient", Napi::Function::New<guarded<tensor_gradient>>(env));
  exports.Set("tensorDetach", Napi::Function::New<guarded<tensor_detach>>(env));
  exports.Set("tensorRequireGrad", Napi::Function::New<guarded<tensor_require_grad>>(env));
  exports.Set("tensorTo", Napi::Function::New<guarded<tensor_to>>(env));
  exports.Set("tensorAdd", Napi::Function::New<guarded<tensor_add>>(env));
  exports.Set("tensorScale", Napi::Function::New<guarded<tensor_scale>>(env));
  exports.Set("tensorSoftmax", Napi::Function::New<guarded<tensor_softmax>>(env));
  exports.Set("tensorResize", Napi::Function::New<guarded<tensor_resize>>(env));
  exports.Set("readTensorFile", Napi::Function::New<guarded<read_tensor_file>>(env));
  exports.Set("writeTensorFile", Napi::Function::New<guarded<write_tensor_file>>(env));
}

}  // namespace bidiseg::binding
