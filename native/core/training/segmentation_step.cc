#include "core/training/segmentation_step.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/data/pixels.h"
#include "core/losses/alignment.h"
#include "core/models/forward_traces.h"
#include "core/training/draws.h"

namespace bidiseg {
namespace {

// Names of the losses.
constexpr char kSegmentation[] = "segmentation", kAdversarial[] = "adversarial", kMoments[] = "moment",
               kEntropy[] = "entropy", kPseudoLabel[] = "pseudo-label", kTeacher[] = "teacher",
               kMasked[] = "masked image", kFeatureDistance[] = "feature distance",
               kConfidentShare[] = "confident share", kDiscriminatorSource[] = "discriminator (source)",
               kDiscriminatorTarget[] = "discriminator (target)";

// Tensors that a backward pass starts at, and their gradients.
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
  return {change(batch.images), change(batch.labels), change(batch.weights), change(batch.weak_images)};
}

void require_divisible(const char* domain, const at::Tensor& images, int64_t parts) {
  if (!images.defined() || images.size(0) % parts == 0) return;
  throw InvalidArgument(std::string("Expected a number of ") + domain + " images that is divisible by accumulation, " +
                        std::to_string(parts) + ", but received " + std::to_string(images.size(0)));
}

int64_t share_of(int64_t accumulation, int64_t processes) {
  if (accumulation % processes == 0) return accumulation / processes;
  throw InvalidArgument("Expected an accumulation that the " + std::to_string(processes) +
                        " processes divide but received " + std::to_string(accumulation));
}

}  // namespace

SegmentationStep::SegmentationStep(std::shared_ptr<SegmentationNetwork> segmenter,
                                   std::unique_ptr<Optimizer> segmenter_optimizer,
                                   std::shared_ptr<Network> discriminator,
                                   std::unique_ptr<Optimizer> discriminator_optimizer, std::unique_ptr<Teacher> teacher,
                                   std::shared_ptr<SegmentationNetwork> anchor, SegmentationStepOptions options)
    : Step(options.step, /*loss_share=*/1.0 / static_cast<double>(options.accumulation), *segmenter),
      segmenter_(std::move(segmenter)),
      segmenter_optimizer_(add_optimizer("segmenter", std::move(segmenter_optimizer))),
      discriminator_(std::move(discriminator)),
      teacher_(std::move(teacher)),
      anchor_(std::move(anchor)),
      options_(std::move(options)),
      part_count_(share_of(options_.accumulation, process_count())),
      steps_(at::zeros({}, at::kLong)) {
  add_network("segmenter", segmenter_);
  at::Tensor& class_weights = options_.cross_entropy.class_weights;
  check_class_weights(class_weights, segmenter_->class_count());
  // On the device once, because a CUDA graph cannot copy from the host.
  if (class_weights.defined()) class_weights = class_weights.to(segmenter_->device(), segmenter_->dtype());
  if (discriminator_) {
    discriminator_optimizer_ = &add_optimizer("discriminator", std::move(discriminator_optimizer));
    add_network("discriminator", discriminator_);
  }
  if (teacher_) {
    use_network(teacher_->network());
    add_state("teacher.", [this] { return teacher_->state(); });
  }
  if (anchor_) {
    if (!options_.feature_distance) throw InvalidArgument("Expected options of the feature distance for an anchor");
    bidiseg::load_state(*anchor_, state_of(*segmenter_));
    use_network(*anchor_);
    add_state("anchor.", [this] { return state_of(*anchor_); });
  }
  if (segmenter_->generator().defined()) {
    add_state("dropout.", [this] { return NamedTensors{{"steps", steps_}}; });
  }
}

SegmentationLosses SegmentationStep::run(const SegmentationBatch& source, const SegmentationBatch& target,
                                         double learning_rate, double discriminator_learning_rate) {
  const auto scope = begin_step();
  Inputs inputs = inputs_of(source, target);
  const TrainingScope training(*segmenter_);
  ForwardTraces traces(*segmenter_);
  const auto compute = [&] { run_piece(0, inputs.all(), [&] { compute_gradients(inputs); }); };
  const auto apply = [&] {
    traces.keep();
    segmenter_optimizer_.step(learning_rate);
    if (discriminator_) discriminator_optimizer_->step(discriminator_learning_rate);
    if (teacher_) teacher_->follow(*segmenter_);
    steps_.add_(1);
  };
  const LossValues value = iterate(compute, apply, [&](ProcessGroup& others) {
    traces.combine(others);
    if (teacher_) teacher_->combine(others);
  });
  return {.segmentation = value[kSegmentation],
          .adversarial = value[kAdversarial],
          .moments = value[kMoments],
          .entropy = value[kEntropy],
          .pseudo_label = value[kPseudoLabel],
          .teacher = value[kTeacher],
          .masked = value[kMasked],
          .feature_distance = value[kFeatureDistance],
          .confident_share = value[kConfidentShare],
          .discriminator_source = value[kDiscriminatorSource],
          .discriminator_target = value[kDiscriminatorTarget],
          .total = value[kSegmentation] + options_.adversarial_weight * value[kAdversarial] +
                   options_.moment_weight * value[kMoments] + options_.entropy_weight * value[kEntropy] +
                   options_.pseudo_label_weight * value[kPseudoLabel] +
                   (teacher_ ? teacher_->options().weight * value[kTeacher] : 0) +
                   (masking() ? masking()->weight * value[kMasked] : 0) +
                   (anchor_ ? options_.feature_distance->weight * value[kFeatureDistance] : 0)};
}

SegmentationStep::Inputs SegmentationStep::inputs_of(const SegmentationBatch& source,
                                                     const SegmentationBatch& target) const {
  if (!source.labels.defined()) throw InvalidArgument("Expected labels in source");
  require_divisible("source", source.images, part_count_);
  require_divisible("target", target.images, part_count_);
  const auto to_device = [device = segmenter_->device()](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(device) : tensor;
  };
  at::Tensor mask, patches, source_patches;
  if (teacher_ && target.images.defined()) {
    const int64_t first_place = rank() * part_count_;
    mask = teacher_->draw_mask(source.labels.cpu(), part_count_, first_place);
    patches = teacher_->draw_patches(target.images, /*domain=*/0, part_count_, first_place);
    source_patches = teacher_->draw_patches(source.images, /*domain=*/1, part_count_, first_place);
  }
  return {changed(source, to_device), changed(target, to_device), to_device(mask), to_device(patches),
          to_device(source_patches)};
}

std::vector<SegmentationStep::Inputs> SegmentationStep::parts_of(const Inputs& inputs) const {
  std::vector<Inputs> parts;
  for (int64_t i = 0; i < part_count_; ++i) {
    const auto part = [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return tensor;
      const int64_t count = tensor.size(0) / part_count_;
      return tensor.narrow(0, i * count, count);
    };
    parts.push_back({changed(inputs.source, part), changed(inputs.target, part), part(inputs.mask),
                     part(inputs.patches), part(inputs.source_patches)});
  }
  return parts;
}

void SegmentationStep::compute_gradients(const Inputs& inputs) {
  const ComputationScope scope = computation_scope();
  const PassSettingsScope layout(&PassSettings::keeps_layout, options_.memory_format.has_value());
  const ActivationCheckpointingScope checkpointing(*segmenter_, options_.activation_checkpointing);
  int64_t place = rank() * part_count_;
  if (teacher_) teacher_->begin_step();
  for (const Inputs& part : parts_of(inputs)) add_gradients(part, place++);
}

void SegmentationStep::add_gradients(const Inputs& part, int64_t place) {
  const auto& [source, target, mask, patches, source_patches] = part;
  if (at::Generator dropout = segmenter_->generator(); dropout.defined()) {
    dropout.set_current_seed(draw_seed(options_.seed, steps_.item<int64_t>(), place));
  }
  const at::ScalarType dtype = segmenter_->dtype();
  const at::MemoryFormat format = options_.memory_format.value_or(fastest_format(options_.step.precision));
  const auto output_of = [&](const at::Tensor& images, const at::Tensor& stays = {}) {
    at::Tensor input = segmenter_input(images, dtype);
    if (stays.defined()) input = input * stays.unsqueeze(1);  // 0 is the mean color
    return segmenter_->forward_with_features(input.contiguous(format));
  };

  const bool is_last = place + 1 == (rank() + 1) * part_count_;
  BackwardRoots from_source, from_target;
  const SegmentationOutput on_source = output_of(source.images);
  from_source.add(cross_entropy(kSegmentation, on_source.logits, source.labels, options_.cross_entropy),
                  loss_gradient());
  if (anchor_) {
    from_source.add(options_.feature_distance->weight * distance_from_anchor(on_source.features, source),
                    loss_gradient());
  }
  // Gradients of moments flow back to both domains. Without them the source's graph is freed before the target's is
  // made.
  const bool with_moments = compares_moments(options_.alignment) && target.images.defined();
  if (!with_moments) {
    run_backward(segmenter_optimizer_, is_last && !target.images.defined(), [&] { from_source.backward(); });
  }
  if (!target.images.defined()) return;

  const int64_t height = target.images.size(1), width = target.images.size(2);
  // Beside mixed and masked images, a network without running statistics need not see the plain ones.
  const bool looks_at_plain = discriminator_ || with_moments || options_.entropy_weight != 0 ||
                              target.labels.defined() || !teacher_ || !teacher_->options().class_mix ||
                              !segmenter_->buffers().empty();
  const SegmentationOutput on_target = looks_at_plain ? output_of(target.images) : SegmentationOutput{};
  if (discriminator_) {
    const at::Tensor view = discriminator_input(options_.alignment, on_target, height, width);
    from_target.add(view, judge_target(view.detach()));
    judge_source(
        discriminator_input(options_.alignment, detached(on_source), source.images.size(1), source.images.size(2)),
        is_last);
  }
  if (with_moments) {
    const auto [of_source, of_target] = moment_gradients(on_source.features, on_target.features);
    from_source.add(on_source.features, of_source);
    from_target.add(on_target.features, of_target);
    from_source.backward();
  }
  if (options_.entropy_weight != 0) {
    const at::Tensor loss = entropy_loss(on_target.logits, height, width);
    checks().loss(kEntropy, loss);
    from_target.add(options_.entropy_weight * loss, loss_gradient());
  }
  if (target.labels.defined()) {
    CrossEntropyOptions weighted = options_.cross_entropy;
    if (target.weights.defined()) weighted.pixel_weights = target.weights.to(dtype) / 255;
    const at::Tensor loss = cross_entropy(kPseudoLabel, on_target.logits, target.labels, weighted);
    from_target.add(options_.pseudo_label_weight * loss, loss_gradient());
  }
  if (teacher_) {
    const Teacher::Labeled found =
        teacher_->label(target.images, target.weak_images, 1.0 / static_cast<double>(options_.accumulation));
    checks().loss(kConfidentShare, found.confident_share);
    Teacher::Labeled taught = found;
    at::Tensor logits = on_target.logits;
    if (teacher_->options().class_mix) {
      from_target.backward();
      taught = Teacher::mix(found, source.images, source.labels, mask);
      logits = output_of(taught.images).logits;
    }
    from_target.add(teacher_->options().weight * taught_loss(kTeacher, logits, taught), loss_gradient());
    if (masking()) {
      const PassSettingsScope kept(&PassSettings::keeps_statistics, true);
      const double share = masking()->source ? 0.5 : 1;
      const auto learn = [&](const Teacher::Labeled& labeled, const at::Tensor& stays) {
        from_target.backward();
        const at::Tensor loss = taught_loss(kMasked, output_of(labeled.images, stays).logits, labeled, share);
        from_target.add(masking()->weight * loss, loss_gradient());
      };
      learn(found, patches);
      if (masking()->source) learn({source.images, source.labels, {}, {}}, source_patches);
    }
  }
  run_backward(segmenter_optimizer_, is_last, [&] { from_target.backward(); });
}

at::Tensor SegmentationStep::cross_entropy(const char* name, const at::Tensor& logits, const at::Tensor& labels,
                                           const CrossEntropyOptions& options, double share) {
  const CrossEntropyLoss result = masked_cross_entropy(logits, labels, options);
  const at::Tensor loss = share == 1 ? result.loss : share * result.loss;
  checks().loss(name, loss);
  checks().labels(result.labels);
  return loss;
}

at::Tensor SegmentationStep::taught_loss(const char* name, const at::Tensor& logits, const Teacher::Labeled& labeled,
                                         double share) {
  CrossEntropyOptions weighted = options_.cross_entropy;
  weighted.normalize = Normalize::kAll;
  weighted.pixel_weights = labeled.weights;
  return cross_entropy(name, logits, labeled.labels, weighted, share);
}

at::Tensor SegmentationStep::distance_from_anchor(const at::Tensor& features, const SegmentationBatch& source) {
  at::Tensor anchored;
  {
    at::NoGradGuard no_grad;
    const EvaluationScope evaluation(*anchor_);
    anchored = anchor_->forward_with_features(segmenter_input(source.images, anchor_->dtype())).features;
  }
  const at::Tensor distance = feature_distance(features, anchored, source.labels, *options_.feature_distance);
  checks().loss(kFeatureDistance, distance);
  return distance;
}

// D_M sees the target once. From one forward pass the adversarial loss needs the gradient for the input alone and D_M's
// own loss the gradients for the weights alone, so that neither disturbs the other.
at::Tensor SegmentationStep::judge_target(const at::Tensor& view) {
  view.requires_grad_();
  const at::Tensor scores = discriminator_->forward(view);
  const at::Tensor adversarial = domain_loss(scores, Domain::kSource), own = domain_loss(scores, Domain::kTarget);
  checks().loss(kAdversarial, adversarial);
  checks().loss(kDiscriminatorTarget, own);
  const auto gradient = torch::autograd::grad({options_.adversarial_weight * adversarial}, {view},
                                              /*grad_outputs=*/{loss_gradient()}, /*retain_graph=*/true);
  std::vector<at::Tensor> weights;
  for (const auto& parameter : discriminator_optimizer_->parameters()) weights.push_back(parameter.value);
  torch::autograd::backward({0.5 * own}, /*grad_tensors=*/{loss_gradient()}, /*retain_graph=*/false,
                            /*create_graph=*/false, weights);
  return gradient.front();
}

void SegmentationStep::judge_source(const at::Tensor& view, bool is_last) {
  const at::Tensor own = domain_loss(discriminator_->forward(view), Domain::kSource);
  checks().loss(kDiscriminatorSource, own);
  run_backward(*discriminator_optimizer_, is_last, [&] { (0.5 * own).backward(loss_gradient()); });
}

std::pair<at::Tensor, at::Tensor> SegmentationStep::moment_gradients(const at::Tensor& source_features,
                                                                     const at::Tensor& target_features) {
  const PrecisionScope full(Precision::kFloat32, segmenter_->device());
  const at::Tensor source = source_features.detach().requires_grad_();
  const at::Tensor target = target_features.detach().requires_grad_();
  const at::Tensor distance = moment_distance(options_.alignment, source, target);
  checks().loss(kMoments, distance);
  const auto gradients =
      torch::autograd::grad({options_.moment_weight * distance}, {source, target}, {loss_gradient()});
  return {gradients[0], gradients[1]};
}

}  // namespace bidiseg
