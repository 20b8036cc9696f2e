// Copies of batches to a CUDA device while it computes.
#pragma once

#include <c10/core/Event.h>

#include "core/data/batch.h"

namespace bidiseg {

/// Batch that is copied to a device from pinned memory, on a stream that only copies.
class UploadedBatch {
 public:
  /// Starts the copy. The tensors of `batch` are in pinned memory and need not outlive this call. Any thread.
  UploadedBatch(const SegmentationBatch& batch, c10::Stream copies);

  /// Batch on the device. Later work of the current stream waits for the copy.
  SegmentationBatch get() const;

 private:
  SegmentationBatch batch_;
  c10::Event copied_;
};

}  // namespace bidiseg
