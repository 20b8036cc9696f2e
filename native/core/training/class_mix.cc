#include "core/training/class_mix.h"

namespace bidiseg {

at::Tensor class_mix_mask(const at::Tensor& labels, int64_t ignore_index, std::mt19937_64& random) {
  at::Tensor mask = at::empty(labels.sizes(), at::kBool);
  for (int64_t n = 0; n < labels.size(0); ++n) {
    const at::Tensor pixels = labels[n].flatten();
    const at::Tensor counts = at::bincount(pixels, /*weights=*/{}, /*minlength=*/256);
    std::vector<int64_t> classes;
    for (int64_t c = 0; c < 256; ++c) {
      if (c != ignore_index && counts[c].item<int64_t>() > 0) classes.push_back(c);
    }
    at::Tensor is_cut_out = at::zeros({256}, at::kBool);
    for (size_t i = 0; 2 * i < classes.size(); ++i) {
      std::swap(classes[i], classes[i + random() % (classes.size() - i)]);
      is_cut_out[classes[i]].fill_(true);
    }
    mask[n].copy_(is_cut_out.index_select(0, pixels.to(at::kLong)).view(labels[n].sizes()));
  }
  return mask;
}

}  // namespace bidiseg
