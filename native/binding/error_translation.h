#pragma once

#include "binding/binding.h"

namespace bidiseg::binding {

/// JavaScript Error with a `code`. lib/native/native-object.ts converts it to the subclass for that code.
Napi::Error make_error(Napi::Env env, const char* code, const std::string& message);

/// Whether an exception says that memory ran out.
bool is_out_of_memory(const std::exception_ptr& exception);

/// JavaScript error for a C++ exception. All exceptions of the addon are translated here.
Napi::Error translate(Napi::Env env, const std::exception_ptr& exception);

/// Exported function whose C++ exceptions are translated.
template <Napi::Value (*Function)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return Function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw translate(info.Env(), std::current_exception());
  }
}

}  // namespace bidiseg::binding
