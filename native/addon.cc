// Entry point of the addon: makes an Environment for the Node environment and fills the exports.
#include "binding/environment.h"
#include "binding/exports.h"
#include "core/host_memory.h"
#include "core/tensor_cores.h"

namespace {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  using namespace bidiseg::binding;
  bidiseg::count_host_memory();
  bidiseg::turn_off_tf32();
  env.SetInstanceData(new Environment(env));
  export_tensors(env, exports);
  export_networks(env, exports);
  export_losses(env, exports);
  export_training(env, exports);
  export_inference(env, exports);
  export_distributed(env, exports);
  export_system(env, exports);
  export_profiling(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(bidiseg, initialize)
