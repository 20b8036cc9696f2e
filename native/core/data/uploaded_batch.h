// Batches on their way to a CUDA device while it computes.
#pragma once

#include <c10/core/Event.h>

#include "core/data/batch.h"

namespace bidiseg {

/// A batch that is copied to a device beside whatever that computes: from pinned memory, on a stream for copies alone.
class UploadedBatch {
 public:
  /// Begins to copy. The tensors of `batch` are in pinned memory, and need not live longer than this call. May be called on
  /// any thread.
  UploadedBatch(const SegmentationBatch& batch, c10::Stream copies);

  /// The batch on the device, for the stream that is the current one: what it is asked from now on waits for the copy.
  SegmentationBatch get() const;

 private:
  SegmentationBatch batch_;
  c10::Event copied_;
};

}  // namespace bidiseg
