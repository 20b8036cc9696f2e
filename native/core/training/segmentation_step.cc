#include "core/training/segmentation_step.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/cancellation.h"
#include "core/data/pixels.h"

namespace bidiseg {
namespace {

// The forward passes move a network's running statistics and random generator; this puts them back unless the step is
// applied.
class ForwardTraces {
 public:
  explicit ForwardTraces(const Network& network) : generator_(network.generator()) {
    // Apart, because one call copies tensors of one dtype in one go.
    for (const auto& buffer : network.buffers()) (buffer.is_floating_point() ? statistics_ : counters_).add(buffer);
    for (auto* buffers : {&statistics_, &counters_}) buffers->copy(buffers->now, buffers->before);
    if (generator_.defined()) random_before_ = generator_.get_state();
  }
  ~ForwardTraces() {
    if (kept_) return;
    for (auto* buffers : {&statistics_, &counters_}) buffers->copy(buffers->before, buffers->now);
    if (generator_.defined()) generator_.set_state(random_before_);
  }
  ForwardTraces(const ForwardTraces&) = delete;
  ForwardTraces& operator=(const ForwardTraces&) = delete;

  void keep() { kept_ = true; }

 private:
  struct Buffers {
    std::vector<at::Tensor> now, before;

    void add(const at::Tensor& buffer) {
      now.push_back(buffer);
      before.push_back(at::empty_like(buffer));
    }
    static void copy(const std::vector<at::Tensor>& from, std::vector<at::Tensor>& to) {
      at::NoGradGuard no_grad;
      if (!from.empty()) at::_foreach_copy_(to, from);
    }
  };

  Buffers statistics_, counters_;
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
      options_(options) {
  require_precision(options_.precision, *segmenter_);
}

SegmentationLosses SegmentationStep::run(const SegmentationBatch& source, const SegmentationBatch& target,
                                         double learning_rate, double discriminator_learning_rate) {
  const ModeScope training(*segmenter_, /*training=*/true);
  ForwardTraces traces(*segmenter_);
  segmenter_optimizer_->zero_grad();
  if (discriminator_) discriminator_optimizer_->zero_grad();
  const SegmentationLosses losses = compute_gradients(source, target);

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

SegmentationLosses SegmentationStep::compute_gradients(const SegmentationBatch& source,
                                                       const SegmentationBatch& target) {
  const at::Device device = segmenter_->device();
  const at::ScalarType dtype = segmenter_->dtype();
  const PrecisionScope precision(options_.precision, device);
  SegmentationLosses losses;
  StepChecks checks;
  const auto logits_of = [&](const at::Tensor& images) {
    return segmenter_->forward(segmenter_input(images.to(device), dtype));
  };
  const auto cross_entropy = [&](const char* name, const at::Tensor& logits, const at::Tensor& labels, double& value) {
    at::Tensor stray;
    const at::Tensor loss = masked_cross_entropy(logits, labels.to(device), options_.cross_entropy, &stray);
    checks.loss(name, loss, value);
    checks.labels(stray, logits.size(1), options_.cross_entropy.ignore_index);
    return loss;
  };

  const at::Tensor source_logits = logits_of(source.images);
  cross_entropy("segmentation", source_logits, source.labels, losses.segmentation).backward();

  if (target.images.defined()) {
    const at::Tensor target_logits = logits_of(target.images);
    // Where M's backward pass on the target begins, and with which gradients (none: that of a loss, 1).
    std::vector<at::Tensor> roots, gradients;
    if (discriminator_) {
      roots.push_back(class_probabilities(target_logits, target.images.size(1), target.images.size(2)));
      gradients.push_back(judge_target(roots.back().detach(), losses, checks));
      judge_source(class_probabilities(source_logits.detach(), source.images.size(1), source.images.size(2)), losses,
                   checks);
    }
    if (target.labels.defined()) {
      const at::Tensor loss = cross_entropy("pseudo-label", target_logits, target.labels, losses.pseudo_label);
      roots.push_back(options_.pseudo_label_weight * loss);
      gradients.emplace_back();
    }
    if (!roots.empty()) torch::autograd::backward(roots, gradients);
  }

  checks.gradients("segmenter", segmenter_optimizer_.get());
  checks.gradients("discriminator", discriminator_optimizer_.get());
  checks.read();
  losses.total = losses.segmentation + options_.adversarial_weight * losses.adversarial +
                 options_.pseudo_label_weight * losses.pseudo_label;
  return losses;
}

// D_M looks at the target once. Of one forward pass the adversarial loss wants the gradient for the input alone, D_M's
// own loss those for the weights alone, so neither meets what the other leaves.
at::Tensor SegmentationStep::judge_target(const at::Tensor& probabilities, SegmentationLosses& losses,
                                          StepChecks& checks) {
  probabilities.requires_grad_();
  const at::Tensor judged = discriminator_->forward(probabilities);
  const at::Tensor adversarial = domain_loss(judged, Domain::kSource), own = domain_loss(judged, Domain::kTarget);
  checks.loss("adversarial", adversarial, losses.adversarial);
  checks.loss("discriminator (target)", own, losses.discriminator_target);
  const auto gradient = torch::autograd::grad({options_.adversarial_weight * adversarial}, {probabilities},
                                              /*grad_outputs=*/{}, /*retain_graph=*/true);
  std::vector<at::Tensor> weights;
  for (const auto& parameter : discriminator_optimizer_->parameters()) weights.push_back(parameter.value);
  torch::autograd::backward({0.5 * own}, /*grad_tensors=*/{}, /*retain_graph=*/false, /*create_graph=*/false, weights);
  return gradient.front();
}

void SegmentationStep::judge_source(const at::Tensor& probabilities, SegmentationLosses& losses, StepChecks& checks) {
  const at::Tensor own = domain_loss(discriminator_->forward(probabilities), Domain::kSource);
  checks.loss("discriminator (source)", own, losses.discriminator_source);
  (0.5 * own).backward();
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
