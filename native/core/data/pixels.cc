#include "core/data/pixels.h"

#include "core/errors.h"

namespace bidiseg {
namespace {

constexpr std::array<double, 3> kMeanBgr = {104.00698793, 116.66876762, 122.67891434};

at::Tensor channels_first(const at::Tensor& rgb_bytes, at::ScalarType dtype) {
  if (rgb_bytes.dim() != 4 || rgb_bytes.size(3) != 3 || rgb_bytes.scalar_type() != at::kByte) {
    std::ostringstream message;
    message << "Expected images [N, H, W, 3] of dtype uint8 but received " << rgb_bytes.sizes() << " of dtype "
            << rgb_bytes.scalar_type();
    throw InvalidArgument(message.str());
  }
  return rgb_bytes.permute({0, 3, 1, 2}).to(dtype, /*non_blocking=*/true, /*copy=*/false, at::MemoryFormat::Contiguous);
}

at::Tensor bgr_minus_mean(const at::Tensor& rgb) {
  // Filled rather than copied: a copy from the host waits for the device and cannot be part of a CUDA graph.
  const at::Tensor mean = at::empty({1, 3, 1, 1}, rgb.options());
  for (int64_t c = 0; c < 3; ++c) mean.select(1, c).fill_(kMeanBgr[static_cast<size_t>(c)]);
  return rgb.flip({1}).sub(mean);
}

}  // namespace

at::Tensor segmenter_input(const at::Tensor& rgb_bytes, at::ScalarType dtype) {
  return bgr_minus_mean(channels_first(rgb_bytes, dtype));
}

at::Tensor translator_input(const at::Tensor& rgb_bytes, at::ScalarType dtype) {
  return channels_first(rgb_bytes, dtype).div_(127.5).sub_(1.0);
}

at::Tensor segmenter_input_from_translator(const at::Tensor& rgb) { return bgr_minus_mean((rgb + 1.0) * 127.5); }

at::Tensor translator_output_bytes(const at::Tensor& rgb) {
  return ((rgb + 1.0) * 127.5).round_().clamp_(0, 255).to(at::kByte).permute({0, 2, 3, 1}).contiguous();
}

}  // namespace bidiseg
