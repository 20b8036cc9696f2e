#include "core/training/segmentation_step.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/cancellation.h"
#include "core/data/pixels.h"
#include "core/losses/alignment.h"
#include "core/models/forward_traces.h"

namespace bidiseg {
namespace {

// Where a backward pass begins, and with which gradients.
class BackwardRoots {
 public:
  void add(const at::Tensor& root, const at::Tensor& gradient) {
    roots_.push_back(root);
    gradients_.push_back(gradient);
  }
  void backward() {
    if (!roots_.empty()) torch::autograd::backward(roots_, gradients_);
    roots_.clear();
    gradients_.clear();
  }

 private:
  std::vector<at::Tensor> roots_, gradients_;
};

SegmentationOutput detached(const SegmentationOutput& output) {
  return {output.features.detach(), output.logits.detach()};
}

template <typename Change>
SegmentationBatch changed(const SegmentationBatch& batch, const Change& change) {
  return {change(batch.images), change(batch.labels), change(batch.weights)};
}

void require_divisible(const char* domain, const at::Tensor& images, int64_t parts) {
  if (!images.defined() || images.size(0) % parts == 0) return;
  throw InvalidArgument(std::string("Expected a number of ") + domain + " images that is divisible by accumulation, " +
                        std::to_string(parts) + ", but received " + std::to_string(images.size(0)));
}

}  // namespace

SegmentationStep::SegmentationStep(std::shared_ptr<SegmentationNetwork> segmenter,
                                   std::unique_ptr<Optimizer> segmenter_optimizer,
                                   std::shared_ptr<Network> discriminator,
                                   std::unique_ptr<Optimizer> discriminator_optimizer,
                                   std::unique_ptr<Teacher> teacher, SegmentationStepOptions options)
    : segmenter_(std::move(segmenter)),
      segmenter_optimizer_(std::move(segmenter_optimizer)),
      discriminator_(std::move(discriminator)),
      discriminator_optimizer_(std::move(discriminator_optimizer)),
      teacher_(std::move(teacher)),
      options_(options),
      scaler_(options.loss_scaling, 1.0 / static_cast<double>(options.accumulation),
              at::dtype(segmenter_->dtype()).device(segmenter_->device())),
      graphs_(options.cuda_graphs, *segmenter_) {
  require_precision(options_.precision, *segmenter_);
}

SegmentationLosses SegmentationStep::run(const SegmentationBatch& source, const SegmentationBatch& target,
                                         double learning_rate, double discriminator_learning_rate) {
  const auto scope = graphs_.begin_step();
  Inputs inputs = inputs_of(source, target);
  const ModeScope training(*segmenter_, /*training=*/true);
  ForwardTraces traces(*segmenter_);
  segmenter_optimizer_->zero_grad();
  if (discriminator_) discriminator_optimizer_->zero_grad();
  scaler_.prepare();
  graphs_.run(0, inputs.all(), [&] {
    computed_.reset();  // a warm-up's gradients
    computed_ = compute_gradients(inputs);
  });
  computed_->checks.restore_gradients();
  const bool finite = computed_->checks.read(scaler_);
  SegmentationLosses losses = computed_->losses;
  if (!graphs_.enabled()) computed_.reset();
  losses.total = losses.segmentation + options_.adversarial_weight * losses.adversarial +
                 options_.moment_weight * losses.moments + options_.entropy_weight * losses.entropy +
                 options_.pseudo_label_weight * losses.pseudo_label +
                 (teacher_ ? teacher_->options().weight * losses.teacher : 0);

  throw_if_canceled();  // the last point: from here on the step is applied whole
  scaler_.update(finite);
  if (finite) {
    traces.keep();
    half_applied_ = true;
    segmenter_optimizer_->step(learning_rate);
    if (discriminator_ && target.images.defined()) discriminator_optimizer_->step(discriminator_learning_rate);
    if (teacher_) teacher_->follow(*segmenter_);
    half_applied_ = false;
  }
  segmenter_optimizer_->zero_grad();
  if (discriminator_) discriminator_optimizer_->zero_grad();
  return losses;
}

SegmentationStep::Inputs SegmentationStep::inputs_of(const SegmentationBatch& source,
                                                     const SegmentationBatch& target) const {
  if (!source.labels.defined()) throw InvalidArgument("Expected labels in source");
  require_divisible("source", source.images, options_.accumulation);
  require_divisible("target", target.images, options_.accumulation);
  const auto to_device = [device = segmenter_->device()](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(device) : tensor;
  };
  at::Tensor mask;
  if (teacher_ && target.images.defined()) mask = teacher_->draw_mask(source.labels.cpu());
  return {changed(source, to_device), changed(target, to_device), to_device(mask)};
}

std::vector<SegmentationStep::Inputs> SegmentationStep::parts_of(const Inputs& inputs) const {
  std::vector<Inputs> parts;
  for (int64_t i = 0; i < options_.accumulation; ++i) {
    const auto part = [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return tensor;
      const int64_t count = tensor.size(0) / options_.accumulation;
      return tensor.narrow(0, i * count, count);
    };
    parts.push_back({changed(inputs.source, part), changed(inputs.target, part), part(inputs.mask)});
  }
  return parts;
}

std::unique_ptr<SegmentationStep::Computed> SegmentationStep::compute_gradients(const Inputs& inputs) {
  const PrecisionScope precision(options_.precision, segmenter_->device());
  const ActivationCheckpointingScope checkpointing(*segmenter_, options_.activation_checkpointing);
  auto computed = std::make_unique<Computed>(
      Computed{.losses = {}, .checks = StepChecks(1.0 / static_cast<double>(options_.accumulation))});
  auto& [losses, checks] = *computed;
  for (const Inputs& part : parts_of(inputs)) add_gradients(part, losses, checks);
  checks.gradients("segmenter", segmenter_optimizer_.get());
  checks.gradients("discriminator", discriminator_optimizer_.get());
  return computed;
}

void SegmentationStep::add_gradients(const Inputs& part, SegmentationLosses& losses, StepChecks& checks) {
  const auto& [source, target, mask] = part;
  const at::ScalarType dtype = segmenter_->dtype();
  const at::MemoryFormat format = options_.memory_format.value_or(fastest_format(options_.precision));
  const at::Tensor& unit = scaler_.loss_gradient();
  const auto output_of = [&](const at::Tensor& images) {
    return segmenter_->forward_with_features(segmenter_input(images, dtype).contiguous(format));
  };
  const auto cross_entropy = [&](const char* name, const at::Tensor& logits, const at::Tensor& labels,
                                 const CrossEntropyOptions& cross_entropy_options, double& value) {
    const CrossEntropyLoss result = masked_cross_entropy(logits, labels, cross_entropy_options);
    checks.loss(name, result.loss, value);
    checks.labels(result.labels);
    return result.loss;
  };

  BackwardRoots from_source, from_target;
  const SegmentationOutput on_source = output_of(source.images);
  from_source.add(
      cross_entropy("segmentation", on_source.logits, source.labels, options_.cross_entropy, losses.segmentation),
      unit);
  // Moments lead back to both domains; otherwise the graph of the one is let go before that of the other is made.
  const bool with_moments = compares_moments(options_.alignment) && target.images.defined();
  if (!with_moments) from_source.backward();

  if (target.images.defined()) {
    const int64_t height = target.images.size(1), width = target.images.size(2);
    const SegmentationOutput on_target = output_of(target.images);
    if (discriminator_) {
      const at::Tensor view = discriminator_input(options_.alignment, on_target, height, width);
      from_target.add(view, judge_target(view.detach(), losses, checks));
      judge_source(discriminator_input(options_.alignment, detached(on_source), source.images.size(1),
                                       source.images.size(2)),
                   losses, checks);
    }
    if (with_moments) {
      const auto [of_source, of_target] = moment_gradients(on_source.features, on_target.features, losses, checks);
      from_source.add(on_source.features, of_source);
      from_target.add(on_target.features, of_target);
      from_source.backward();
    }
    if (options_.entropy_weight != 0) {
      const at::Tensor loss = entropy_loss(on_target.logits, height, width);
      checks.loss("entropy", loss, losses.entropy);
      from_target.add(options_.entropy_weight * loss, unit);
    }
    if (target.labels.defined()) {
      CrossEntropyOptions weighted = options_.cross_entropy;
      if (target.weights.defined()) weighted.pixel_weights = target.weights.to(dtype) / 255;
      from_target.add(options_.pseudo_label_weight *
                      cross_entropy("pseudo-label", on_target.logits, target.labels, weighted, losses.pseudo_label),
                      unit);
    }
    if (teacher_) {
      const Teacher::Lesson lesson = teacher_->prepare(source.images, source.labels, target.images, mask);
      checks.loss("confident share", lesson.confident_share, losses.confident_share);
      const auto learn = [&](const at::Tensor& logits) {
        CrossEntropyOptions weighted = options_.cross_entropy;
        weighted.normalize = Normalize::kAll;
        weighted.pixel_weights = lesson.weights;
        from_target.add(teacher_->options().weight *
                            cross_entropy("teacher", logits, lesson.labels, weighted, losses.teacher),
                        unit);
      };
      if (teacher_->options().class_mix) {
        from_target.backward();
        learn(output_of(lesson.images).logits);
      } else {
        learn(on_target.logits);
      }
    }
    from_target.backward();
  }
}

// D_M looks at the target once. Of one forward pass the adversarial loss wants the gradient for the input alone, D_M's
// own loss those for the weights alone, so neither meets what the other leaves.
at::Tensor SegmentationStep::judge_target(const at::Tensor& view, SegmentationLosses& losses,
                                          StepChecks& checks) {
  view.requires_grad_();
  const at::Tensor& unit = scaler_.loss_gradient();
  const at::Tensor judged = discriminator_->forward(view);
  const at::Tensor adversarial = domain_loss(judged, Domain::kSource), own = domain_loss(judged, Domain::kTarget);
  checks.loss("adversarial", adversarial, losses.adversarial);
  checks.loss("discriminator (target)", own, losses.discriminator_target);
  const auto gradient = torch::autograd::grad({options_.adversarial_weight * adversarial}, {view},
                                              /*grad_outputs=*/{unit}, /*retain_graph=*/true);
  std::vector<at::Tensor> weights;
  for (const auto& parameter : discriminator_optimizer_->parameters()) weights.push_back(parameter.value);
  torch::autograd::backward({0.5 * own}, /*grad_tensors=*/{unit}, /*retain_graph=*/false, /*create_graph=*/false, weights);
  return gradient.front();
}

void SegmentationStep::judge_source(const at::Tensor& view, SegmentationLosses& losses, StepChecks& checks) {
  const at::Tensor own = domain_loss(discriminator_->forward(view), Domain::kSource);
  checks.loss("discriminator (source)", own, losses.discriminator_source);
  (0.5 * own).backward(scaler_.loss_gradient());
}

std::pair<at::Tensor, at::Tensor> SegmentationStep::moment_gradients(const at::Tensor& source_features,
                                                                     const at::Tensor& target_features,
                                                                     SegmentationLosses& losses, StepChecks& checks) {
  const PrecisionScope full(Precision::kFloat32, segmenter_->device());
  const at::Tensor source = source_features.detach().requires_grad_(), target = target_features.detach().requires_grad_();
  const at::Tensor distance = moment_distance(options_.alignment, source, target);
  checks.loss("moment", distance, losses.moments);
  const auto gradients = torch::autograd::grad({options_.moment_weight * distance}, {source, target},
                                               {scaler_.loss_gradient()});
  return {gradients[0], gradients[1]};
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
  if (teacher_) append(state, "teacher.", teacher_->state());
  append(state, "loss_scaler.", scaler_.state());
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
