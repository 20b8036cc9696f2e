#include "binding/environment.h"

#include "core/host_memory.h"

namespace bidiseg::binding {
namespace {

// Runs before handles and promises of the environment are destroyed. After it no thread of the addon touches them.
void stop_compute_thread(void* environment) { static_cast<Environment*>(environment)->compute().stop(); }

}  // namespace

Environment::Environment(Napi::Env env) : env_(env), compute_(env, give_back_host_memory) {
  napi_add_env_cleanup_hook(env, stop_compute_thread, this);
}

Environment::~Environment() { napi_remove_env_cleanup_hook(env_, stop_compute_thread, this); }

void Environment::adjust_bytes(int64_t bytes) {
  if (bytes == 0) return;
  bytes_ += bytes;
  Napi::MemoryManagement::AdjustExternalMemory(env_, bytes);
}

std::vector<const void*> Environment::add_storages(const std::vector<at::Tensor>& tensors) {
  std::vector<const void*> storages;
  int64_t added = 0;
  for (const auto& tensor : tensors) {
    storages.push_back(tensor.storage().unsafeGetStorageImpl());
    auto& use = storages_[storages.back()];
    if (use.handles++ > 0) continue;
    use.bytes = static_cast<int64_t>(tensor.storage().nbytes());
    added += use.bytes;
  }
  adjust_bytes(added);
  return storages;
}

void Environment::remove_storages(const std::vector<const void*>& storages) {
  int64_t removed = 0;
  for (const void* storage : storages) {
    const auto found = storages_.find(storage);
    if (--found->second.handles > 0) continue;
    removed += found->second.bytes;
    storages_.erase(found);
  }
  adjust_bytes(-removed);
}

}  // namespace bidiseg::binding
