#include "core/training/translation_step.h"

#include <torch/csrc/autograd/autograd.h>

#include "core/data/pixels.h"

namespace bidiseg {
namespace {

// Names of the losses.
constexpr char kGanSourceToTarget[] = "GAN source-to-target", kGanTargetToSource[] = "GAN target-to-source",
               kCycleSource[] = "cycle (source)", kCycleTarget[] = "cycle (target)",
               kIdentitySource[] = "identity (source)", kIdentityTarget[] = "identity (target)",
               kPerceptualSource[] = "perceptual (source)", kPerceptualTarget[] = "perceptual (target)",
               kReconstructionSource[] = "perceptual reconstruction (source)",
               kReconstructionTarget[] = "perceptual reconstruction (target)",
               kDiscriminatorSource[] = "discriminator (source)", kDiscriminatorTarget[] = "discriminator (target)";

// Parameters of several networks that share an optimizer; their names begin with the network's.
std::vector<TrainedParameter> parameters_of(std::initializer_list<std::pair<const char*, const Network*>> networks) {
  std::vector<TrainedParameter> parameters;
  for (const auto& [name, network] : networks) {
    for (auto& parameter : network->trained_parameters(1.0)) {
      parameter.name = name + ("." + parameter.name);
      parameters.push_back(std::move(parameter));
    }
  }
  return parameters;
}

// Forward pass of two batches as one: no network of this step mixes the images of a batch.
std::pair<at::Tensor, at::Tensor> forward_both(Network& network, const at::Tensor& first, const at::Tensor& second) {
  const auto outputs = network.forward(at::cat({first, second})).split_with_sizes({first.size(0), second.size(0)});
  return {outputs[0], outputs[1]};
}

// Losses of the generators. Those that look at the outputs of one network go backward together.
class GeneratorLosses {
 public:
  /// `share`: of the images in their batch. Backward passes start with `gradient`.
  GeneratorLosses(double share, const at::Tensor& gradient, StepChecks& checks)
      : share_(share), gradient_(gradient), checks_(checks) {}

  void add(const char* name, double weight, const at::Tensor& mean) {
    const at::Tensor loss = share_ * mean;
    checks_.loss(name, loss);
    sum_ = sum_.defined() ? sum_ + weight * loss : weight * loss;
  }
  void backward() { std::exchange(sum_, {}).backward(gradient_); }

 private:
  double share_;
  const at::Tensor& gradient_;
  StepChecks& checks_;
  at::Tensor sum_;
};

}  // namespace

TranslationStep::TranslationStep(TranslationNetworks networks, std::shared_ptr<SegmentationNetwork> segmenter,
                                 const TranslationStepOptions& options)
    : Step(options.step, /*loss_share=*/1.0 / static_cast<double>(options.step.group ? options.step.group->size() : 1),
           *networks.to_target),
      networks_(std::move(networks)),
      segmenter_(std::move(segmenter)),
      options_(options),
      generator_optimizer_(
          add_optimizer("generator", std::make_unique<Adam>(parameters_of({{"to_target", networks_.to_target.get()},
                                                                           {"to_source", networks_.to_source.get()}}),
                                                            options.adam))),
      discriminator_optimizer_(add_optimizer(
          "discriminator",
          std::make_unique<Adam>(parameters_of({{"target_discriminator", networks_.target_discriminator.get()},
                                                {"source_discriminator", networks_.source_discriminator.get()}}),
                                 options.adam))),
      fake_target_pool_(options.pool_size, options.seed),
      fake_source_pool_(options.pool_size, options.seed + 1) {
  if (options_.step.cuda_graphs && options_.micro_batch_size != 0) {
    // A replayed graph overwrites gradients; a second part would have to add to them.
    throw InvalidArgument("Expected no microBatchSize with cudaGraphs");
  }
  add_network("to_target", networks_.to_target);
  add_network("to_source", networks_.to_source);
  add_network("target_discriminator", networks_.target_discriminator);
  add_network("source_discriminator", networks_.source_discriminator);
  if (segmenter_) use_network(*segmenter_);
}

TranslationLosses TranslationStep::run(const at::Tensor& source_images, const at::Tensor& target_images,
                                       double learning_rate) {
  if (!source_images.sizes().slice(1).equals(target_images.sizes().slice(1))) {
    std::ostringstream message;
    message << "Expected source and target images of one size but received " << source_images.sizes() << " and "
            << target_images.sizes();
    throw InvalidArgument(message.str());
  }
  const at::Device device = networks_.to_target->device();
  const at::ScalarType dtype = networks_.to_target->dtype();
  const auto scope = begin_step();
  std::vector<Part> parts =
      parts_of(translator_input(source_images.to(device), dtype), translator_input(target_images.to(device), dtype));
  // The pools as they will be. A copy is cheap: it shares the images.
  ImagePool fake_target_pool = fake_target_pool_, fake_source_pool = fake_source_pool_;
  const auto compute = [&] {
    std::vector<at::Tensor> of_source, of_target;
    SharedFakes shared;
    for (Part& part : parts) {
      const auto collect = [&] {
        of_source.push_back(fakes_.source);
        of_target.push_back(fakes_.target);
        if (part.is_last) shared = share({at::cat(of_source), at::cat(of_target)});
      };
      // A replayed graph has made its gradients too before the host can do anything.
      const bool at_once = !options_.step.cuda_graphs;
      run_piece(0, {&part.source, &part.target}, [&] {
        compute_generator_gradients(part, [&] {
          if (at_once) collect();
        });
      });
      if (!at_once) collect();
    }
    const Fakes all = exchange(shared, fake_source_pool, fake_target_pool);
    int64_t first = 0;
    for (Part& part : parts) {
      const int64_t count = part.source.size(0), target_count = part.target.size(0);
      Fakes shown{all.source.narrow(0, first, target_count), all.target.narrow(0, first, count)};
      first += count;
      run_piece(1, {&shown.source, &shown.target}, [&] { compute_discriminator_gradients(part, shown); });
    }
  };
  const auto apply = [&] {
    fake_target_pool_ = std::move(fake_target_pool);
    fake_source_pool_ = std::move(fake_source_pool);
    generator_optimizer_.step(learning_rate);
    discriminator_optimizer_.step(learning_rate);
  };
  const LossValues value = iterate(compute, apply);
  const auto& o = options_;
  return {.gan_source_to_target = value[kGanSourceToTarget],
          .gan_target_to_source = value[kGanTargetToSource],
          .cycle_source = value[kCycleSource],
          .cycle_target = value[kCycleTarget],
          .identity_source = value[kIdentitySource],
          .identity_target = value[kIdentityTarget],
          .perceptual_source = value[kPerceptualSource],
          .perceptual_target = value[kPerceptualTarget],
          .perceptual_reconstruction_source = value[kReconstructionSource],
          .perceptual_reconstruction_target = value[kReconstructionTarget],
          .discriminator_source = value[kDiscriminatorSource],
          .discriminator_target = value[kDiscriminatorTarget],
          .total = o.gan_weight * (value[kGanSourceToTarget] + value[kGanTargetToSource]) +
                   o.cycle_weight * (value[kCycleSource] + value[kCycleTarget]) +
                   o.identity_weight * (value[kIdentitySource] + value[kIdentityTarget]) +
                   o.perceptual_weight * (value[kPerceptualSource] + value[kPerceptualTarget]) +
                   o.perceptual_reconstruction_weight * (value[kReconstructionSource] + value[kReconstructionTarget])};
}

std::vector<TranslationStep::Part> TranslationStep::parts_of(const at::Tensor& source, const at::Tensor& target) const {
  const int64_t count = source.size(0);
  if (options_.micro_batch_size == 0) return {{source, target, 1.0, /*is_last=*/true}};
  if (target.size(0) != count) {
    throw InvalidArgument("Expected as many target images as source images, " + std::to_string(count) +
                          ", for parts of a batch but received " + std::to_string(target.size(0)));
  }
  std::vector<Part> parts;
  for (int64_t first = 0; first < count; first += options_.micro_batch_size) {
    const int64_t length = std::min(options_.micro_batch_size, count - first);
    parts.push_back({source.narrow(0, first, length), target.narrow(0, first, length),
                     static_cast<double>(length) / static_cast<double>(count), first + length == count});
  }
  return parts;
}

// The pools see the fakes of all processes, in the order of one process.
TranslationStep::SharedFakes TranslationStep::share(const Fakes& made) const {
  if (options_.pool_size == 0 || others() == nullptr) return {made, nullptr, nullptr};
  return {made, others()->start_all_gather(made.source), others()->start_all_gather(made.target)};
}

TranslationStep::Fakes TranslationStep::exchange(const SharedFakes& fakes, ImagePool& source, ImagePool& target) const {
  const auto exchanged = [this](const at::Tensor& own, const auto& of_others, ImagePool& pool) {
    if (!of_others) return pool.exchange(own);
    const int64_t count = own.size(0);
    return pool.exchange(at::cat(others()->finish(*of_others))).narrow(0, rank() * count, count);
  };
  return {exchanged(fakes.own.source, fakes.of_sources, source), exchanged(fakes.own.target, fakes.of_targets, target)};
}

at::Tensor TranslationStep::in_format(const at::Tensor& images) const {
  return images.contiguous(fastest_translator_format(options_.step.precision, images.device()));
}

void TranslationStep::compute_generator_gradients(const Part& part, const std::function<void()>& when_made) {
  const ComputationScope scope = computation_scope();
  const at::Tensor source = in_format(part.source), target = in_format(part.target);
  const double share = part.share;
  auto& to_target = *networks_.to_target;
  auto& to_source = *networks_.to_source;
  const auto& o = options_;
  const ActivationCheckpointingScope checkpointing_to_target(to_target, o.activation_checkpointing);
  const ActivationCheckpointingScope checkpointing_to_source(to_source, o.activation_checkpointing);
  GeneratorLosses losses(share, loss_gradient(), checks());
  std::vector<Generated> made;
  made.reserve(6);
  const auto keep = [&made](const at::Tensor& image) -> const Generated& { return made.emplace_back(image); };

  const bool with_identity = o.identity_weight != 0;
  const auto [image_in_target, target_again] =
      with_identity ? forward_both(to_target, source, target) : std::pair(to_target.forward(source), at::Tensor());
  const auto [image_in_source, source_again] =
      with_identity ? forward_both(to_source, target, source) : std::pair(to_source.forward(target), at::Tensor());
  const Generated& fake_target = keep(image_in_target);
  const Generated& fake_source = keep(image_in_source);
  fakes_ = {fake_source.image.detach(), fake_target.image.detach()};
  when_made();
  const Generated& cycled_source = keep(to_source.forward(fake_target.image));
  const Generated& cycled_target = keep(to_target.forward(fake_source.image));

  losses.add(kCycleSource, o.cycle_weight, at::l1_loss(cycled_source.leaf, source));
  losses.add(kCycleTarget, o.cycle_weight, at::l1_loss(cycled_target.leaf, target));
  if (with_identity) {
    losses.add(kIdentitySource, o.identity_weight, at::l1_loss(keep(source_again).leaf, source));
    losses.add(kIdentityTarget, o.identity_weight, at::l1_loss(keep(target_again).leaf, target));
  }
  losses.backward();

  FrozenScope frozen_target_discriminator(*networks_.target_discriminator);
  FrozenScope frozen_source_discriminator(*networks_.source_discriminator);
  losses.add(kGanSourceToTarget, o.gan_weight,
             gan_loss(networks_.target_discriminator->forward(fake_target.leaf), true, o.gan_mode));
  losses.backward();
  losses.add(kGanTargetToSource, o.gan_weight,
             gan_loss(networks_.source_discriminator->forward(fake_source.leaf), true, o.gan_mode));
  losses.backward();

  if (segmenter_ && (o.perceptual_weight != 0 || o.perceptual_reconstruction_weight != 0)) {
    const EvaluationScope evaluation(*segmenter_);
    FrozenScope frozen_segmenter(*segmenter_);
    const auto input = [&](const at::Tensor& rgb) {
      return segmenter_input_from_translator(rgb).contiguous(fastest_format(o.step.precision));
    };
    const auto logits = [&](const at::Tensor& first, const at::Tensor& second) {
      return forward_both(*segmenter_, input(first), input(second));
    };
    std::pair<at::Tensor, at::Tensor> truth;
    {
      at::NoGradGuard no_grad;  // the segmenter's outputs of the originals are constants
      truth = logits(source, target);
    }
    if (const double weight = o.perceptual_weight; weight != 0) {
      const auto [of_source, of_target] = logits(fake_target.leaf, fake_source.leaf);
      losses.add(kPerceptualSource, weight, perceptual_loss(of_source, truth.first, o.perceptual_form));
      losses.add(kPerceptualTarget, weight, perceptual_loss(of_target, truth.second, o.perceptual_form));
      losses.backward();
    }
    if (const double weight = o.perceptual_reconstruction_weight; weight != 0) {
      const auto [of_source, of_target] = logits(cycled_source.leaf, cycled_target.leaf);
      losses.add(kReconstructionSource, weight, perceptual_loss(of_source, truth.first, o.perceptual_form));
      losses.add(kReconstructionTarget, weight, perceptual_loss(of_target, truth.second, o.perceptual_form));
      losses.backward();
    }
  }

  std::vector<at::Tensor> roots, gradients;
  for (const auto& [image, leaf] : made) {
    roots.push_back(image);
    gradients.push_back(leaf.grad());
  }
  // Checkpointed blocks get their gradients once for each time that a generator ran.
  run_backward(generator_optimizer_, part.is_last && !o.activation_checkpointing,
               [&] { torch::autograd::backward(roots, gradients); });
}

// The fakes were made before the generators change, and the gradients of D_F do not depend on the generators' weights.
// So computing these gradients first and making all updates at the end changes no result.
void TranslationStep::compute_discriminator_gradients(const Part& part, const Fakes& fakes) {
  const ComputationScope scope = computation_scope();
  const auto judge = [&](const char* name, PatchDiscriminator& discriminator, const at::Tensor& real,
                         const at::Tensor& fake) {
    const auto [of_real, of_fake] = forward_both(discriminator, in_format(real), in_format(fake));
    const at::Tensor loss =
        part.share * 0.5 * (gan_loss(of_real, true, options_.gan_mode) + gan_loss(of_fake, false, options_.gan_mode));
    checks().loss(name, loss);
    loss.backward(loss_gradient());
  };
  run_backward(discriminator_optimizer_, part.is_last, [&] {
    judge(kDiscriminatorSource, *networks_.source_discriminator, part.source, fakes.source);
    judge(kDiscriminatorTarget, *networks_.target_discriminator, part.target, fakes.target);
  });
}

NamedTensors TranslationStep::state() const {
  NamedTensors state = Step::state();
  append(state, "fake_target_pool.", fake_target_pool_.state());
  append(state, "fake_source_pool.", fake_source_pool_.state());
  return state;
}

void TranslationStep::load_state(NamedTensors state) {
  const auto options = at::device(networks_.to_target->device()).dtype(networks_.to_target->dtype());
  ImagePool fake_target_pool = fake_target_pool_.resumed(extract(state, "fake_target_pool."), options);
  ImagePool fake_source_pool = fake_source_pool_.resumed(extract(state, "fake_source_pool."), options);
  Step::load_state(std::move(state));
  fake_target_pool_ = std::move(fake_target_pool);
  fake_source_pool_ = std::move(fake_source_pool);
}

}  // namespace bidiseg
