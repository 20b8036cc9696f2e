#include "core/cancellation.h"

#include "core/errors.h"

namespace bidiseg {
namespace {
thread_local std::array<CancellationFlag, 2> current_flags;
}  // namespace

CancellationScope::CancellationScope(CancellationFlag first, CancellationFlag second)
    : previous_(std::exchange(current_flags, {std::move(first), std::move(second)})) {}

CancellationScope::~CancellationScope() { current_flags = std::move(previous_); }

void throw_if_cancelled() {
  for (const auto& flag : current_flags) {
    if (flag && flag->load(std::memory_order_relaxed)) throw Cancelled();
  }
}

at::Tensor cancellation_point(at::Tensor x) {
  throw_if_cancelled();
  if (x.requires_grad()) x.register_hook([](const at::Tensor&) { throw_if_cancelled(); });
  return x;
}

}  // namespace bidiseg
