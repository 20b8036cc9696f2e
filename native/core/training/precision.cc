#include "core/training/precision.h"

#include <ATen/autocast_mode.h>

#ifdef BIDISEG_CUDA
#include <cuda_runtime_api.h>
#endif

#include "core/errors.h"

namespace bidiseg {
namespace {

bool cpu_has_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") || __builtin_cpu_supports("amx-bf16");
#else
  return false;  // no other processor has been tested
#endif
}

bool cuda_has_capability(at::Device device, int least) {
#ifdef BIDISEG_CUDA
  int major = 0;
  const int index = device.has_index() ? device.index() : 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) == cudaSuccess && major >= least;
#else
  return false;
#endif
}

}  // namespace

const char* precision_name(Precision precision) {
  switch (precision) {
    case Precision::kFloat32: return "fp32";
    case Precision::kTf32: return "tf32";
    case Precision::kBfloat16: return "bf16";
    case Precision::kFloat16: return "fp16";
  }
  TORCH_INTERNAL_ASSERT(false, "unknown precision");
}

std::vector<Precision> precisions_of(at::Device device) {
  std::vector<Precision> found = {Precision::kFloat32};
  if (device.is_cpu() && cpu_has_bfloat16()) found.push_back(Precision::kBfloat16);
  if (device.is_cuda() && cuda_has_capability(device, 8)) {
    found.insert(found.end(), {Precision::kTf32, Precision::kBfloat16});
  }
  if (device.is_cuda() && cuda_has_capability(device, 7)) found.push_back(Precision::kFloat16);
  return found;
}

void require_precision(Precision precision, const Network& network) {
  if (precision == Precision::kFloat32) return;
  const at::Device device = network.device();
  const auto found = precisions_of(device);
  if (std::find(found.begin(), found.end(), precision) == found.end()) {
    std::string names;
    for (const Precision each : found) names += (names.empty() ? "" : ", ") + std::string(precision_name(each));
    throw InvalidArgument("Expected a precision that " + device.str() + " has instructions for (" + names +
                          ") but received " + precision_name(precision));
  }
  if (network.dtype() != at::kFloat) {
    throw InvalidArgument(std::string("Expected networks of float32 for the precision ") + precision_name(precision) +
                          " but they are of " + at::toString(network.dtype()));
  }
}

PrecisionScope::PrecisionScope(Precision precision, at::Device device)
    : device_(device.type()),
      had_autocast_(at::autocast::is_autocast_enabled(device_)),
      had_dtype_(at::autocast::get_autocast_dtype(device_)),
      had_tf32_(at::globalContext().allowTF32CuDNN()) {
  const bool bfloat16 = precision == Precision::kBfloat16, float16 = precision == Precision::kFloat16;
  at::autocast::set_autocast_enabled(device_, bfloat16 || float16);
  if (bfloat16 || float16) at::autocast::set_autocast_dtype(device_, bfloat16 ? at::kBFloat16 : at::kHalf);
  at::autocast::increment_nesting();
  if (const bool tf32 = precision == Precision::kTf32; tf32 != had_tf32_ && device.is_cuda()) {
    at::globalContext().setAllowTF32CuDNN(tf32);
  }
}

PrecisionScope::~PrecisionScope() {
  // The cache of casts is one for all threads. A thread that does not use it leaves it to a step that has paused.
  if (at::autocast::decrement_nesting() == 0 && at::autocast::is_autocast_cache_enabled()) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, had_autocast_);
  at::autocast::set_autocast_dtype(device_, had_dtype_);
  if (device_ == at::kCUDA) at::globalContext().setAllowTF32CuDNN(had_tf32_);
}

}  // namespace bidiseg
