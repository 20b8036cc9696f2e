#include "core/training/loss_scaler.h"

namespace bidiseg {
namespace {

constexpr double kFirstScale = 65536;
constexpr double kGrowth = 2, kBackoff = 0.5;
constexpr int64_t kGrowthInterval = 2000;
constexpr int64_t kMostOverflows = 20;

double& scale_in(const at::Tensor& tensor) { return *tensor.mutable_data_ptr<double>(); }
int64_t& count_in(const at::Tensor& tensor) { return *tensor.mutable_data_ptr<int64_t>(); }

}  // namespace

LossScaler::LossScaler(bool dynamic, double share, at::TensorOptions options)
    : share_(share), inverse_(at::ones({}, options.dtype(at::kFloat))) {
  if (dynamic) {
    scale_ = at::full({}, kFirstScale, at::kDouble);
    good_steps_ = at::zeros({}, at::kLong);
    overflows_ = at::zeros({}, at::kLong);
  }
  if (dynamic || share != 1) loss_gradient_ = at::full({}, share, options);
}

void LossScaler::prepare() {
  if (!dynamic()) return;
  loss_gradient_.fill_(share_ * scale_in(scale_));
  inverse_.fill_(1 / scale_in(scale_));
}

bool LossScaler::may_overflow() const {
  return dynamic() && scale_in(scale_) > 1 && count_in(overflows_) < kMostOverflows;
}

void LossScaler::update(bool finite) {
  if (!dynamic()) return;
  if (!finite) {
    scale_in(scale_) *= kBackoff;
    count_in(good_steps_) = 0;
    ++count_in(overflows_);
    return;
  }
  count_in(overflows_) = 0;
  if (++count_in(good_steps_) < kGrowthInterval) return;
  count_in(good_steps_) = 0;
  const double grown = scale_in(scale_) * kGrowth;
  if (grown <= std::numeric_limits<float>::max()) scale_in(scale_) = grown;  // it multiplies float losses
}

NamedTensors LossScaler::state() const {
  if (!dynamic()) return {};
  return {{"scale", scale_}, {"good_steps", good_steps_}, {"overflows", overflows_}};
}

}  // namespace bidiseg
