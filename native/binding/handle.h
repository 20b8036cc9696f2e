// JavaScript handles of native objects.
#pragma once

#include "binding/binding.h"
#include "binding/environment.h"
#include "binding/error_translation.h"
#include "core/errors.h"

namespace bidiseg::binding {

/// Name of the JavaScript class for handles of a T, and a type tag that identifies its objects. BIDISEG_HANDLE
/// specializes it.
template <typename T>
struct HandleClass;

#define BIDISEG_HANDLE(Type, js_name, tag)                            \
  template <>                                                         \
  struct HandleClass<Type> {                                          \
    static constexpr const char* kName = js_name;                     \
    static constexpr napi_type_tag kTag = {0x62696469736567ull, tag}; \
  }

/// Handle of a T, whose ownership it shares with the jobs that use it. dispose() gives up its share at once; running
/// jobs finish with theirs. The finalizer does the same for a handle that was not disposed.
template <typename T>
class Handle : public Napi::ObjectWrap<Handle<T>> {
 public:
  using Base = Napi::ObjectWrap<Handle<T>>;

  static void define(Napi::Env env, Napi::Object exports) {
    Napi::Function constructor = Base::DefineClass(env, HandleClass<T>::kName,
                                                   {Base::InstanceMethod("dispose", &Handle::dispose),
                                                    Base::template InstanceAccessor<&Handle::disposed>("disposed")});
    exports.Set(HandleClass<T>::kName, constructor);
    Environment::of(env).constructors[HandleClass<T>::kName] = Napi::Persistent(constructor);
    Environment::of(env).live[HandleClass<T>::kName] = 0;
  }

  /// New handle. `tensors` and `bytes` are the native memory that it keeps alive.
  static Napi::Value create(Napi::Env env, std::shared_ptr<T> value, const std::vector<at::Tensor>& tensors,
                            int64_t bytes = 0) {
    auto& environment = Environment::of(env);
    Napi::Object object = environment.constructors.at(HandleClass<T>::kName).New({});
    auto* handle = Base::Unwrap(object);
    handle->value_ = std::move(value);
    handle->storages_ = environment.add_storages(tensors);
    handle->bytes_ = bytes;
    environment.adjust_bytes(bytes);
    ++environment.live[HandleClass<T>::kName];
    return object;
  }

  /// Object of the handle `value`. Throws an error naming the argument if there is none.
  static std::shared_ptr<T> get(const Napi::Value& value, const char* name) {
    if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&HandleClass<T>::kTag)) {
      throw InvalidArgument(std::string("Expected a native ") + HandleClass<T>::kName + " for " + name);
    }
    auto* handle = Base::Unwrap(value.As<Napi::Object>());
    if (!handle->value_) {
      throw make_error(value.Env(), "ERR_DISPOSED",
                       std::string("The ") + HandleClass<T>::kName + " given as " + name + " has been disposed");
    }
    return handle->value_;
  }

  explicit Handle(const Napi::CallbackInfo& info) : Base(info) {
    info.This().template As<Napi::Object>().TypeTag(&HandleClass<T>::kTag);
  }

  void Finalize(Napi::Env env) override { release(env); }

 private:
  void release(Napi::Env env) {
    if (!value_) return;
    auto* environment = env.GetInstanceData<Environment>();
    if (environment != nullptr) {
      --environment->live[HandleClass<T>::kName];
      environment->remove_storages(storages_);
      environment->adjust_bytes(-bytes_);
    }
    value_.reset();
    if (environment != nullptr) environment->compute().memory_was_freed();
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    release(info.Env());
    return info.Env().Undefined();
  }

  Napi::Value disposed(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), !value_); }

  std::shared_ptr<T> value_;
  std::vector<const void*> storages_;
  int64_t bytes_ = 0;
};

}  // namespace bidiseg::binding
