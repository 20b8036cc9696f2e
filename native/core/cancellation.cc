#include "core/cancellation.h"

#include "core/errors.h"

namespace bidiseg {
namespace {

using Flags = std::array<CancellationFlag, 2>;

thread_local Flags current_flags;
thread_local std::function<void()> current_pause;

bool is_any_set(const Flags& flags) {
  return std::any_of(flags.begin(), flags.end(),
                     [](const CancellationFlag& flag) { return flag && flag->load(std::memory_order_relaxed); });
}

void pass(const Flags& flags) {
  if (is_any_set(flags)) throw Canceled();
  if (!current_pause) return;
  // A copy, because jobs that run in the pause have scopes of their own.
  const std::function<void()> pause = current_pause;
  pause();
  if (is_any_set(flags)) throw Canceled();
}

}  // namespace

CancellationScope::CancellationScope(CancellationFlag first, CancellationFlag second, std::function<void()> pause)
    : previous_(std::exchange(current_flags, {std::move(first), std::move(second)})),
      previous_pause_(std::exchange(current_pause, std::move(pause))) {}

CancellationScope::~CancellationScope() {
  current_flags = std::move(previous_);
  current_pause = std::move(previous_pause_);
}

bool is_canceled() { return is_any_set(current_flags); }

void throw_if_canceled() {
  if (is_canceled()) throw Canceled();
}

at::Tensor cancellation_point(at::Tensor x) {
  pass(current_flags);
  // The hook carries the flags, because on CUDA the backward pass runs on threads of the autograd engine. These threads
  // never pause.
  if (x.requires_grad()) x.register_hook([flags = current_flags](const at::Tensor&) { pass(flags); });
  return x;
}

}  // namespace bidiseg
