#include "binding/arguments.h"

namespace bidiseg::binding {
namespace {

struct Dtype {
  const char* name;
  at::ScalarType type;
  napi_typedarray_type array;
  bool has_array;
};

constexpr std::array<Dtype, 7> kDtypes = {{
    {"float32", at::kFloat, napi_float32_array, true},
    {"float64", at::kDouble, napi_float64_array, true},
    {"uint8", at::kByte, napi_uint8_array, true},
    {"int32", at::kInt, napi_int32_array, true},
    {"int64", at::kLong, napi_bigint64_array, true},
    {"float16", at::kHalf, napi_uint16_array, false},
    {"bfloat16", at::kBFloat16, napi_uint16_array, false},
}};

const Dtype& dtype_of(at::ScalarType type) {
  for (const auto& dtype : kDtypes) {
    if (dtype.type == type) return dtype;
  }
  throw InvalidArgument(std::string("The dtype ") + at::toString(type) + " has no JavaScript counterpart");
}

template <typename T>
InvalidArgument outside(const char* key, T min, T max) {
  std::ostringstream message;
  message << "Expected " << key << " from " << min << " to " << max;
  return InvalidArgument(message.str());
}

}  // namespace

const char* dtype_name(at::ScalarType type) { return dtype_of(type).name; }

at::ScalarType dtype_argument(const std::string& name) {
  for (const auto& dtype : kDtypes) {
    if (name == dtype.name) return dtype.type;
  }
  throw InvalidArgument("Unknown dtype '" + name + "'");
}

Options::Options(const Napi::Value& value) {
  if (!value.IsObject()) throw InvalidArgument("Expected an options object");
  object_ = value.As<Napi::Object>();
}

Napi::Value Options::get(const char* key) const { return object_.Get(key); }

double Options::number(const char* key) const {
  const Napi::Value value = get(key);
  if (!value.IsNumber() || !std::isfinite(value.As<Napi::Number>().DoubleValue())) {
    throw InvalidArgument(std::string("Expected a finite number for ") + key);
  }
  return value.As<Napi::Number>().DoubleValue();
}

int64_t Options::integer(const char* key) const {
  const double value = number(key);
  constexpr double kMaxSafe = 9007199254740991.0;
  if (value != std::floor(value) || std::abs(value) > kMaxSafe) {
    throw InvalidArgument(std::string("Expected an integer for ") + key);
  }
  return static_cast<int64_t>(value);
}

double Options::number(const char* key, double min, double max) const {
  const double value = number(key);
  if (value < min || value > max) throw outside(key, min, max);
  return value;
}

int64_t Options::integer(const char* key, int64_t min, int64_t max) const {
  const int64_t value = integer(key);
  if (value < min || value > max) throw outside(key, min, max);
  return value;
}

int64_t Options::either_integer(const char* key, int64_t first, int64_t second) const {
  const int64_t value = integer(key);
  if (value == first || value == second) return value;
  throw InvalidArgument("Expected " + std::to_string(first) + " or " + std::to_string(second) + " for " + key);
}

std::optional<int64_t> Options::optional_integer(const char* key, int64_t min, int64_t max) const {
  return get(key).IsUndefined() ? std::nullopt : std::optional(integer(key, min, max));
}

bool Options::boolean(const char* key) const {
  const Napi::Value value = get(key);
  if (!value.IsBoolean()) throw InvalidArgument(std::string("Expected a boolean for ") + key);
  return value.As<Napi::Boolean>().Value();
}

std::string Options::string(const char* key) const {
  const Napi::Value value = get(key);
  if (!value.IsString()) throw InvalidArgument(std::string("Expected a string for ") + key);
  return value.As<Napi::String>().Utf8Value();
}

std::vector<double> Options::numbers(const char* key) const {
  const Napi::Value value = get(key);
  if (!value.IsArray()) throw InvalidArgument(std::string("Expected an array of numbers for ") + key);
  const auto array = value.As<Napi::Array>();
  std::vector<double> result;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value item = array.Get(i);
    if (!item.IsNumber()) throw InvalidArgument(std::string("Expected an array of numbers for ") + key);
    result.push_back(item.As<Napi::Number>().DoubleValue());
  }
  return result;
}

at::Tensor tensor_argument(const Napi::Value& value, const char* name) { return *Handle<at::Tensor>::get(value, name); }

NamedTensors named_tensors_argument(const Napi::Value& given_names, const Napi::Value& given_tensors) {
  if (!given_names.IsArray() || !given_tensors.IsArray()) {
    throw InvalidArgument("Expected arrays of names and of tensors");
  }
  const auto names = given_names.As<Napi::Array>();
  const auto tensors = given_tensors.As<Napi::Array>();
  if (names.Length() != tensors.Length()) throw InvalidArgument("Expected as many tensors as names");
  NamedTensors result;
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const Napi::Value name = names.Get(i);
    if (!name.IsString()) throw InvalidArgument("Expected strings for names");
    result.emplace_back(name.As<Napi::String>().Utf8Value(), tensor_argument(tensors.Get(i), "tensors"));
  }
  return result;
}

std::string path_argument(const Napi::Value& value) {
  if (!value.IsString()) throw InvalidArgument("Expected a string for file");
  std::string path = value.As<Napi::String>().Utf8Value();
  if (path.find('\0') != std::string::npos) throw InvalidArgument("Expected a path without null bytes for file");
  return path;
}

std::vector<int64_t> shape_argument(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) throw InvalidArgument(std::string("Expected an array of extents for ") + name);
  const auto array = value.As<Napi::Array>();
  std::vector<int64_t> shape;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value item = array.Get(i);
    const double extent = item.IsNumber() ? item.As<Napi::Number>().DoubleValue() : -1;
    if (!(extent >= 0) || extent != std::floor(extent) || extent > 1e15) {
      throw InvalidArgument(std::string("Expected non-negative integers for ") + name);
    }
    shape.push_back(static_cast<int64_t>(extent));
  }
  return shape;
}

at::Tensor typed_array_copy(const Napi::Value& value, const std::vector<int64_t>& shape, const char* name,
                            bool pinned) {
  if (!value.IsTypedArray()) throw InvalidArgument(std::string("Expected a typed array for ") + name);
  const auto array = value.As<Napi::TypedArray>();
  const auto kind = array.TypedArrayType() == napi_uint8_clamped_array ? napi_uint8_array : array.TypedArrayType();
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                  [&](const Dtype& dtype) { return dtype.has_array && dtype.array == kind; });
  if (found == kDtypes.end()) {
    throw InvalidArgument(std::string("The typed array for ") + name + " is of an unsupported kind");
  }
  int64_t elements = 1;
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(elements, extent, &elements)) {
      throw InvalidArgument(std::string("The shape of ") + name + " is too large");
    }
  }
  if (static_cast<int64_t>(array.ElementLength()) != elements) {
    throw InvalidArgument("Expected " + std::to_string(elements) + " elements for " + name + " but received " +
                          std::to_string(array.ElementLength()));
  }
  at::Tensor tensor = at::empty(shape, at::dtype(found->type).pinned_memory(pinned));
  if (elements > 0) {
    // array.ArrayBuffer() would fail for shared memory.
    void* bytes = nullptr;
    if (napi_get_typedarray_info(array.Env(), array, nullptr, nullptr, &bytes, nullptr, nullptr) != napi_ok) {
      throw InvalidArgument(std::string("The elements of ") + name + " cannot be read");
    }
    std::memcpy(tensor.mutable_data_ptr(), bytes, tensor.nbytes());
  }
  return tensor;
}

CancellationFlag cancellation_argument(const Napi::Value& value) {
  return value.IsUndefined() ? nullptr : Handle<std::atomic<bool>>::get(value, "cancellation");
}

at::Device device_argument(const std::string& name) {
  std::optional<at::Device> device;
  try {
    device.emplace(name);
  } catch (const c10::Error&) {
  }
  // LibTorch knows other devices too, such as 'meta', whose tensors have no elements.
  if (!device || !(device->is_cpu() || device->is_cuda())) {
    throw InvalidArgument("Expected a device such as 'cpu', 'cuda' or 'cuda:1' but received '" + name + "'");
  }
  const int64_t count = device->is_cpu() ? 1 : at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  if (std::max<int64_t>(device->index(), 0) >= count) throw InvalidArgument("There is no device '" + name + "' here");
  return *device;
}

Napi::Value tensor_to_js(Napi::Env env, const at::Tensor& tensor) {
  return Handle<at::Tensor>::create(env, std::make_shared<at::Tensor>(tensor), {tensor});
}

Napi::Array named_tensors_to_js(Napi::Env env, const NamedTensors& tensors) {
  Napi::Array result = Napi::Array::New(env, tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", tensors[i].first);
    entry.Set("tensor", tensor_to_js(env, tensors[i].second));
    result.Set(i, entry);
  }
  return result;
}

Napi::Value typed_array_to_js(Napi::Env env, const at::Tensor& tensor) {
  const Dtype& dtype = dtype_of(tensor.scalar_type());
  if (!dtype.has_array) {
    throw InvalidArgument(std::string("No typed array holds ") + dtype.name + "; convert the tensor first");
  }
  const auto elements = static_cast<size_t>(tensor.numel());
  auto* owner = new at::Tensor(tensor);
  auto buffer = elements == 0 ? Napi::ArrayBuffer::New(env, 0)
                              : Napi::ArrayBuffer::New(
                                    env, tensor.mutable_data_ptr(), tensor.nbytes(),
                                    [](Napi::Env, void*, at::Tensor* held) { delete held; }, owner);
  if (elements == 0) delete owner;
  napi_value array;
  if (napi_create_typedarray(env, dtype.array, elements, buffer, 0, &array) != napi_ok) {
    throw make_error(env, "ERR_NATIVE", "the typed array cannot be created");
  }
  return Napi::Value(env, array);
}

namespace {

template <typename T>
Napi::Value number_array(Napi::Env env, const std::vector<T>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array.Set(i, static_cast<double>(values[i]));
  return array;
}

}  // namespace

Napi::Value numbers_to_js(Napi::Env env, const std::vector<double>& values) { return number_array(env, values); }
Napi::Value numbers_to_js(Napi::Env env, const std::vector<int64_t>& values) { return number_array(env, values); }

}  // namespace bidiseg::binding
