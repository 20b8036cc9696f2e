#include "core/tracing.h"

#include <torch/csrc/jit/frontend/tracer.h>

namespace bidiseg {

namespace tracer = torch::jit::tracer;

at::Tensor narrow_like(const at::Tensor& x, int64_t dim, int64_t start, const at::Tensor& reference) {
  if (tracer::isTracing()) {
    // Becomes the argument of this name in the next operation.
    tracer::ArgumentStash::stashValue("length", 1, tracer::getSizeOf(reference, dim), c10::IntType::get());
  }
  return x.narrow(dim, start, reference.size(dim));
}

at::Tensor resize_like(const at::Tensor& x, const at::Tensor& reference) {
  if (tracer::isTracing()) {
    for (size_t i = 0; i < 2; ++i) {
      tracer::ArgumentStash::stashIntArrayRefElem("output_size", 2, i,
                                                  tracer::getSizeOf(reference, 2 + static_cast<int64_t>(i)));
    }
  }
  return at::upsample_bilinear2d(x, {reference.size(2), reference.size(3)}, /*align_corners=*/true);
}

}  // namespace bidiseg
