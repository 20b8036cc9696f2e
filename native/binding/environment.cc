#include "binding/environment.h"

namespace bidiseg::binding {
namespace {

// Runs before the environment's handles and promises go: after it no thread of ours touches them.
void stop_compute_thread(void* environment) { static_cast<Environment*>(environment)->compute().stop(); }

}  // namespace

Environment::Environment(Napi::Env env) : env_(env), compute_(env) {
  napi_add_env_cleanup_hook(env, stop_compute_thread, this);
}

Environment::~Environment() { napi_remove_env_cleanup_hook(env_, stop_compute_thread, this); }

void Environment::adjust_bytes(int64_t bytes) {
  bytes_ += bytes;
  Napi::MemoryManagement::AdjustExternalMemory(env_, bytes);
}

void Environment::add_storage(const at::Tensor& tensor) {
  auto& use = storages_[tensor.storage().unsafeGetStorageImpl()];
  if (use.handles++ == 0) {
    use.bytes = static_cast<int64_t>(tensor.storage().nbytes());
    adjust_bytes(use.bytes);
  }
}

void Environment::remove_storage(const at::Tensor& tensor) {
  const auto found = storages_.find(tensor.storage().unsafeGetStorageImpl());
  if (found == storages_.end() || --found->second.handles > 0) return;
  adjust_bytes(-found->second.bytes);
  storages_.erase(found);
}

}  // namespace bidiseg::binding
