// How the passes of a thread compute.
#pragma once

#include <utility>

namespace bidiseg {

/// How convolutions on the CPU are computed.
enum class ConvolutionMethod {
  kAuto,    ///< wide 3x3 convolutions in float32 by Winograd's algorithm (kernels/winograd.h), others directly
  kDirect,  ///< all of them as LibTorch does
};

/// Which run of a checkpointed segment a thread is in (activation_checkpoint.h).
enum class SegmentRun {
  kNone,
  kFirst,  ///< forward pass, in no-grad mode although gradients follow
  kAgain,  ///< backward pass; the first run has already updated running statistics
};

struct PassSettings {
  /// Backward passes use that of their forward pass.
  ConvolutionMethod convolutions = ConvolutionMethod::kAuto;
  /// Convolutions give the layout that they get. Otherwise those in float32 on the CPU give their fastest one, and a
  /// pass has some activations in channels_last and some contiguous.
  bool keeps_layout = false;
  SegmentRun segment_run = SegmentRun::kNone;
  /// Running statistics stay as they are. Passes in training mode still normalize with the statistics of their batch.
  /// For images that no prediction will see.
  bool keeps_statistics = false;
};

/// Settings of this thread.
inline PassSettings& pass_settings() {
  thread_local PassSettings settings;
  return settings;
}

/// Changes the settings of this thread for the lifetime of the scope.
class PassSettingsScope {
 public:
  explicit PassSettingsScope(const PassSettings& all) : before_(std::exchange(pass_settings(), all)) {}
  template <typename T>
  PassSettingsScope(T PassSettings::* setting, T value) : before_(pass_settings()) {
    pass_settings().*setting = value;
  }
  ~PassSettingsScope() { pass_settings() = before_; }
  PassSettingsScope(const PassSettingsScope&) = delete;
  PassSettingsScope& operator=(const PassSettingsScope&) = delete;

 private:
  PassSettings before_;
};

}  // namespace bidiseg
