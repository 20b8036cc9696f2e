#include "core/training/teacher.h"

#include "core/data/pixels.h"
#include "core/errors.h"
#include "core/inference/prediction.h"
#include "core/losses/segmentation.h"
#include "core/training/class_mix.h"
#include "core/training/draws.h"

namespace bidiseg {
namespace {

// Keeps the factors of the alignment finite where a class has no pixel.
constexpr double kLeastShare = 1e-6;

}  // namespace

Teacher::Teacher(std::shared_ptr<SegmentationNetwork> network, const SegmentationNetwork& student,
                 const TeacherOptions& options)
    : network_(std::move(network)), options_(options), steps_(at::zeros({}, at::kLong)) {
  copy_tensors(state_of(*network_), state_of(student), "the teacher does not fit the segmenter");
  const std::vector<double>& shares = options_.class_shares;
  if (shares.empty()) return;
  check_per_class(static_cast<int64_t>(shares.size()), network_->class_count(), "class shares");
  source_shares_ = at::tensor(shares, at::kDouble).to(network_->device(), network_->dtype());
  target_shares_ = source_shares_.clone();
  found_shares_ = at::zeros_like(source_shares_);
}

at::Tensor Teacher::draw_mask(const at::Tensor& source_labels, int64_t parts, int64_t first_place) const {
  if (!options_.class_mix) return {};
  const auto steps = static_cast<uint64_t>(steps_.item<int64_t>());
  std::vector<at::Tensor> masks;
  for (const at::Tensor& labels : source_labels.chunk(parts)) {
    const uint64_t place = static_cast<uint64_t>(first_place) + masks.size();
    std::mt19937_64 random(options_.seed + steps + (place << 40));
    masks.push_back(class_mix_mask(labels, options_.ignore_index, random));
  }
  return at::cat(masks);
}

at::Tensor Teacher::draw_patches(const at::Tensor& images, int domain, int64_t parts, int64_t first_place) const {
  if (!options_.masking || (domain == 1 && !options_.masking->source)) return {};
  const int64_t height = images.size(1), width = images.size(2);
  std::vector<at::Tensor> masks;
  for (const at::Tensor& part : images.chunk(parts)) {
    const int64_t place = first_place + static_cast<int64_t>(masks.size());
    std::mt19937_64 random(draw_seed(options_.seed + static_cast<uint64_t>(domain), steps_.item<int64_t>(), place));
    masks.push_back(patch_mask(part.size(0), height, width, *options_.masking, random));
  }
  return at::cat(masks);
}

at::Tensor Teacher::inside_margins(const at::Tensor& pixels) const {
  const double height = static_cast<double>(pixels.size(1));
  const auto top = static_cast<int64_t>(height * options_.top_margin);
  const auto bottom = static_cast<int64_t>(height * options_.bottom_margin);
  at::Tensor inside = at::ones_like(pixels, network_->dtype());
  inside.narrow(1, 0, top).zero_();
  inside.narrow(1, pixels.size(1) - bottom, bottom).zero_();
  return inside;
}

at::Tensor Teacher::aligned(const at::Tensor& logits, double share) {
  if (!is_aligned()) return logits;
  found_shares_.add_(logits.to(found_shares_.dtype()).softmax(1).mean({0, 2, 3}), share);
  const at::Tensor bias = (source_shares_ + kLeastShare).log() - (target_shares_ + kLeastShare).log();
  return logits + bias.to(logits.dtype()).view({1, -1, 1, 1});
}

Teacher::Labeled Teacher::label(const at::Tensor& images, const at::Tensor& weak_images, double share) {
  at::NoGradGuard no_grad;
  const EvaluationScope evaluation(*network_);
  const at::Tensor& seen = weak_images.defined() ? weak_images : images;
  const at::Tensor logits = aligned(network_->forward(segmenter_input(seen, network_->dtype())), share);
  const Prediction found = predict(logits, {images.size(1), images.size(2), /*align_corners=*/true},
                                   kernels::SoftmaxOrder::kAfterUpsampling, /*with_confidence=*/true);
  const at::Tensor confident = (found.confidence > options_.threshold).to(network_->dtype()).mean();
  return {images, found.labels, confident * inside_margins(found.confidence), confident};
}

Teacher::Labeled Teacher::mix(const Labeled& target, const at::Tensor& source_images, const at::Tensor& source_labels,
                              const at::Tensor& mask) {
  if (!source_images.sizes().equals(target.images.sizes())) {
    std::ostringstream text;
    text << "Expected source and target images of one shape for ClassMix but received " << source_images.sizes()
         << " and " << target.images.sizes();
    throw InvalidArgument(text.str());
  }
  const at::Tensor& weights = target.weights;
  return {at::where(mask.unsqueeze(3), source_images, target.images), at::where(mask, source_labels, target.labels),
          at::where(mask, at::ones_like(weights), weights), target.confident_share};
}

void Teacher::begin_step() {
  if (is_aligned()) found_shares_.zero_();
}

void Teacher::combine(ProcessGroup& others) {
  if (is_aligned()) others.add({found_shares_});
}

void Teacher::follow(const SegmentationNetwork& student) {
  at::NoGradGuard no_grad;
  const double steps = static_cast<double>(steps_.add_(1).item<int64_t>());
  const double decay = std::min(options_.decay, 1 - 1 / (steps + 1));
  std::vector<at::Tensor> averages, newest;
  const NamedTensors own = state_of(*network_), of_student = state_of(student);
  for (size_t i = 0; i < own.size(); ++i) {
    const auto& [tensor, value] = std::tie(own[i].second, of_student[i].second);
    if (tensor.is_floating_point()) {
      averages.push_back(tensor);
      newest.push_back(value);
    } else {
      at::Tensor(tensor).copy_(value);  // number of batches of the statistics
    }
  }
  if (is_aligned()) {
    averages.push_back(target_shares_);
    newest.push_back(found_shares_);
  }
  at::_foreach_lerp_(averages, newest, 1 - decay);
}

NamedTensors Teacher::state() const {
  NamedTensors state = state_of(*network_);
  state.emplace_back("steps", steps_);
  if (is_aligned()) state.emplace_back("class_shares", target_shares_);
  return state;
}

}  // namespace bidiseg
