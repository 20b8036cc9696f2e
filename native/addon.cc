#include "binding/binding.h"
Napi::Object init(Napi::Env env, Napi::Object exports) { return exports; }
NODE_API_MODULE(bidiseg, init)
