#include "core/data/uploaded_batch.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace bidiseg {

UploadedBatch::UploadedBatch(const SegmentationBatch& batch, c10::Stream copies) : copied_(copies.device_type()) {
  // The copies are allocated on this stream, so that they do not wait for work of other streams.
  const c10::StreamGuard guard(copies);
  const auto copied = [&](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(copies.device(), tensor.scalar_type(), /*non_blocking=*/true) : tensor;
  };
  batch_ = {copied(batch.images), copied(batch.labels), copied(batch.weights), copied(batch.weak_images)};
  copied_.record(copies);
}

SegmentationBatch UploadedBatch::get() const {
  const c10::Stream current = c10::impl::VirtualGuardImpl(copied_.device_type()).getStream(batch_.images.device());
  copied_.block(current);
  for (const at::Tensor& tensor : {batch_.images, batch_.labels, batch_.weights, batch_.weak_images}) {
    // Its memory must not be reused before `current` is done with it.
    if (tensor.defined()) tensor.record_stream(current);
  }
  return batch_;
}

}  // namespace bidiseg
