#include "core/cancellation.h"

#include "core/errors.h"

namespace bidiseg {
namespace {

using Flags = std::array<CancellationFlag, 2>;

thread_local Flags current_flags;

void throw_if_any(const Flags& flags) {
  for (const auto& flag : flags) {
    if (flag && flag->load(std::memory_order_relaxed)) throw Canceled();
  }
}

}  // namespace

CancellationScope::CancellationScope(CancellationFlag first, CancellationFlag second)
    : previous_(std::exchange(current_flags, {std::move(first), std::move(second)})) {}

CancellationScope::~CancellationScope() { current_flags = std::move(previous_); }

void throw_if_canceled() { throw_if_any(current_flags); }

at::Tensor cancellation_point(at::Tensor x) {
  throw_if_canceled();
  // The hook carries the flags, because on CUDA the backward pass runs on threads of the autograd engine.
  if (x.requires_grad()) x.register_hook([flags = current_flags](const at::Tensor&) { throw_if_any(flags); });
  return x;
}

}  // namespace bidiseg
