#include "core/training/segmentation_step.h"

#include "core/cancellation.h"
#include "core/data/pixels.h"
#include "core/training/finite.h"

namespace bidiseg {
namespace {

// The forward passes move a network's running statistics and random generator; this puts them back unless the step is
// applied.
class ForwardTraces {
 public:
  explicit ForwardTraces(const Network& network) : buffers_(network.buffers()), generator_(network.generator()) {
    for (const auto& buffer : buffers_) before_.push_back(buffer.clone());
    if (generator_.defined()) random_before_ = generator_.get_state();
  }
  ~ForwardTraces() {
    if (kept_) return;
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < buffers_.size(); ++i) buffers_[i].copy_(before_[i]);
    if (generator_.defined()) generator_.set_state(random_before_);
  }
  ForwardTraces(const ForwardTraces&) = delete;
  ForwardTraces& operator=(const ForwardTraces&) = delete;

  void keep() { kept_ = true; }

 private:
  std::vector<at::Tensor> buffers_, before_;
  at::Generator generator_;
  at::Tensor random_before_;
  bool kept_ = false;
};

}  // namespace

SegmentationStep::SegmentationStep(std::shared_ptr<SegmentationNetwork> segmenter,
                                   std::unique_ptr<Optimizer> segmenter_optimizer,
                                   std::shared_ptr<OutputDiscriminator> discriminator,
                                   std::unique_ptr<Optimizer> discriminator_optimizer, SegmentationStepOptions options)
    : segmenter_(std::move(segmenter)),
      segmenter_optimizer_(std::move(segmenter_optimizer)),
      discriminator_(std::move(discriminator)),
      discriminator_optimizer_(std::move(discriminator_optimizer)),
      options_(options) {}

SegmentationLosses SegmentationStep::run(const SegmentationBatch& source, const SegmentationBatch& target,
                                         double learning_rate, double discriminator_learning_rate) {
  SegmentationLosses losses;
  const at::Device device = segmenter_->device();
  const at::ScalarType dtype = segmenter_->dtype();
  const ModeScope training(*segmenter_, /*training=*/true);
  ForwardTraces traces(*segmenter_);
  segmenter_optimizer_->zero_grad();
  if (discriminator_) discriminator_optimizer_->zero_grad();

  const at::Tensor source_logits = segmenter_->forward(segmenter_input(source.images.to(device), dtype));
  {
    at::Tensor stray;
    const at::Tensor loss =
        masked_cross_entropy(source_logits, source.labels.to(device), options_.cross_entropy, &stray);
    losses.segmentation = finite_value("segmentation", loss);
    throw_if_stray(stray, source_logits.size(1), options_.cross_entropy.ignore_index);
    losses.total = losses.segmentation;
    loss.backward();
  }

  if (target.images.defined()) {
    const int64_t height = target.images.size(1), width = target.images.size(2);
    const at::Tensor target_logits = segmenter_->forward(segmenter_input(target.images.to(device), dtype));
    at::Tensor loss;
    const auto add = [&loss](const at::Tensor& term) { loss = loss.defined() ? loss + term : term; };
    at::Tensor target_probabilities;
    if (discriminator_) {
      FrozenScope frozen(*discriminator_);
      target_probabilities = class_probabilities(target_logits, height, width);
      const at::Tensor adversarial = domain_loss(discriminator_->forward(target_probabilities), Domain::kSource);
      losses.adversarial = finite_value("adversarial", adversarial);
      losses.total += options_.adversarial_weight * losses.adversarial;
      add(options_.adversarial_weight * adversarial);
    }
    if (target.labels.defined()) {
      at::Tensor stray;
      CrossEntropyOptions weighted = options_.cross_entropy;
      if (target.weights.defined()) weighted.pixel_weights = target.weights.to(device).to(dtype) / 255;
      const at::Tensor pseudo = masked_cross_entropy(target_logits, target.labels.to(device), weighted, &stray);
      losses.pseudo_label = finite_value("pseudo-label", pseudo);
      throw_if_stray(stray, target_logits.size(1), options_.cross_entropy.ignore_index);
      losses.total += options_.pseudo_label_weight * losses.pseudo_label;
      add(options_.pseudo_label_weight * pseudo);
    }
    if (loss.defined()) loss.backward();

    if (discriminator_) {
      const at::Tensor source_probabilities =
          class_probabilities(source_logits.detach(), source.images.size(1), source.images.size(2));
      const at::Tensor on_source = domain_loss(discriminator_->forward(source_probabilities), Domain::kSource);
      losses.discriminator_source = finite_value("discriminator (source)", on_source);
      (0.5 * on_source).backward();
      const at::Tensor on_target =
          domain_loss(discriminator_->forward(target_probabilities.detach()), Domain::kTarget);
      losses.discriminator_target = finite_value("discriminator (target)", on_target);
      (0.5 * on_target).backward();
    }
  }

  check_gradients({{"segmenter", segmenter_optimizer_.get()}, {"discriminator", discriminator_optimizer_.get()}});
  throw_if_cancelled();  // the last point: from here on the step is applied whole
  traces.keep();
  half_applied_ = true;
  segmenter_optimizer_->step(learning_rate);
  segmenter_optimizer_->zero_grad();
  if (discriminator_ && target.images.defined()) {
    discriminator_optimizer_->step(discriminator_learning_rate);
    discriminator_optimizer_->zero_grad();
  }
  half_applied_ = false;
  return losses;
}

NamedTensors SegmentationStep::state() const {
  if (half_applied_) throw std::runtime_error("the last step was cut off while it was applied; its state is of no use");
  NamedTensors state;
  append(state, "segmenter.", state_of(*segmenter_));
  append(state, "segmenter_optimizer.", segmenter_optimizer_->state());
  if (discriminator_) {
    append(state, "discriminator.", state_of(*discriminator_));
    append(state, "discriminator_optimizer.", discriminator_optimizer_->state());
  }
  if (const at::Generator random = segmenter_->generator(); random.defined()) {
    state.emplace_back("random.segmenter", random.get_state());
  }
  return state;
}

void SegmentationStep::load_state(const NamedTensors& state) {
  NamedTensors own = this->state();
  copy_tensors(own, state, "the state does not fit the segmentation step");
  // A generator's state is a copy, unlike the other tensors.
  for (const auto& [name, random] : extract(own, "random.")) segmenter_->generator().set_state(random);
}

}  // namespace bidiseg
