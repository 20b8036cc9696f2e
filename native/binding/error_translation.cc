#include "binding/error_translation.h"

#include <c10/util/Exception.h>

#include "core/errors.h"
#include "core/host_memory.h"

namespace bidiseg::binding {

Napi::Error make_error(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Value().Set("code", Napi::String::New(env, code));
  return error;
}

bool is_out_of_memory(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const c10::OutOfMemoryError&) {
    return true;
  } catch (const std::bad_alloc&) {
    return true;
  } catch (...) {
    return false;
  }
}

Napi::Error translate(Napi::Env env, const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Napi::Error& error) {
    return error;
  } catch (const Canceled& error) {
    return make_error(env, "ERR_CANCELED", error.what());
  } catch (const InvalidArgument& error) {
    return make_error(env, "ERR_INVALID_ARGUMENT", error.what());
  } catch (const DataError& error) {
    return make_error(env, "ERR_DATA", error.what());
  } catch (const NonFiniteLoss& error) {
    Napi::Error made = make_error(env, "ERR_NON_FINITE_LOSS", error.what());
    if (error.rank >= 0) made.Value().Set("rank", static_cast<double>(error.rank));
    return made;
  } catch (const ProcessGroupError& error) {
    return make_error(env, "ERR_PROCESS_GROUP", error.what());
  } catch (const c10::OutOfMemoryError& error) {
    return make_error(env, "ERR_OUT_OF_MEMORY", error.what_without_backtrace());
  } catch (const c10::Error& error) {
    return make_error(env, "ERR_NATIVE", error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    // Tensors throw c10::OutOfMemoryError with their size instead (core/host_memory.h).
    return make_error(env, "ERR_OUT_OF_MEMORY",
                      "out of memory while tensors hold " + std::to_string(host_memory_in_use()) + " bytes");
  } catch (const std::exception& error) {
    return make_error(env, "ERR_NATIVE", error.what());
  } catch (...) {
    return make_error(env, "ERR_NATIVE", "an exception of unknown type");
  }
}

}  // namespace bidiseg::binding
