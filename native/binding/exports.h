// One function for each file of native/binding that exports functions; addon.cc calls them.
#pragma once

#include "binding/binding.h"

namespace bidiseg::binding {

void export_tensors(Napi::Env env, Napi::Object exports);
void export_networks(Napi::Env env, Napi::Object exports);
void export_losses(Napi::Env env, Napi::Object exports);
void export_training(Napi::Env env, Napi::Object exports);
void export_inference(Napi::Env env, Napi::Object exports);
void export_distributed(Napi::Env env, Napi::Object exports);
void export_system(Napi::Env env, Napi::Object exports);
void export_profiling(Napi::Env env, Napi::Object exports);

}  // namespace bidiseg::binding
