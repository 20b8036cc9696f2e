// Each file of native/binding that exports functions has one of these; addon.cc calls them all.
#pragma once

#include "binding/binding.h"

namespace bidiseg::binding {

void export_tensors(Napi::Env env, Napi::Object exports);
void export_networks(Napi::Env env, Napi::Object exports);
void export_losses(Napi::Env env, Napi::Object exports);
void export_training(Napi::Env env, Napi::Object exports);
void export_inference(Napi::Env env, Napi::Object exports);
void export_system(Napi::Env env, Napi::Object exports);

}  // namespace bidiseg::binding
