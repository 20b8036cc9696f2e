#pragma once

#include "binding/binding.h"

namespace bidiseg::binding {

/// A JavaScript Error with `code`; lib/native/native-object.ts turns it into the subclass of that code.
Napi::Error make_error(Napi::Env env, const char* code, const std::string& message);

/// The one place where C++ exceptions become JavaScript errors.
Napi::Error translate(Napi::Env env, const std::exception_ptr& exception);

/// Wraps an exported function so that no C++ exception leaves it untranslated.
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
