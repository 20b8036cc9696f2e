"""PyTorch twins of the losses and of whole training iterations, written from the equations."""

import contextlib
import copy
import functools
import math

import torch
import torch.nn.functional as F

MEAN_BGR = torch.tensor([104.00698793, 116.66876762, 122.67891434], dtype=torch.float64).view(1, 3, 1, 1)


def dtype_of(module):
    return next(module.parameters()).dtype


@functools.cache
def mean_bgr(device, dtype):
    """Kept for each device, because a copy to a GPU would wait for it."""
    return MEAN_BGR.to(device, dtype)


def segmenter_input(images, dtype):
    """RGB bytes [N, H, W, 3] -> BGR minus mean [N, 3, H, W]."""
    return images.to(dtype).flip(3).permute(0, 3, 1, 2).contiguous() - mean_bgr(images.device, dtype)


def translator_input(images, dtype):
    """RGB bytes [N, H, W, 3] -> RGB in [-1, 1]."""
    return images.to(dtype).permute(0, 3, 1, 2).contiguous() / 255 * 2 - 1


def translator_to_segmenter(rgb):
    return (rgb.flip(1) + 1) / 2 * 255 - mean_bgr(rgb.device, rgb.dtype)


def upsample(logits, size):
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


def cross_entropy(logits, labels, normalize, ignore, weights=None, class_weights=None):
    """Weights are bytes: 255 counts as 1. There is a class weight for each class, or none."""
    labels = labels.long()
    log_p = F.log_softmax(upsample(logits, labels.shape[1:]), 1)
    keep = labels != ignore
    picked = log_p.gather(1, labels.where(keep, torch.zeros_like(labels)).unsqueeze(1)).squeeze(1)
    counted = keep.to(picked.dtype) if weights is None else keep * weights.to(picked.dtype) / 255
    if class_weights:
        counted = counted * torch.tensor(class_weights, dtype=picked.dtype)[labels.where(keep, torch.zeros_like(labels))]
    total = -(picked * counted).sum()
    if normalize == "all":
        return total / labels.numel()
    return total / counted.sum() if counted.any() else total


def domain_loss(logits, domain):
    """-log of the probability given to `domain`; the source is 0, the target 1."""
    return F.softplus(logits if domain == "source" else -logits).mean()


def gan_loss(scores, real, mode):
    if mode == "least-squares":
        return ((scores - (1 if real else 0)) ** 2).mean()
    return F.softplus(-scores if real else scores).mean()


def l1(a, b):
    return (a - b).abs().mean()


def perceptual(a, b, form):
    if form == "l1":
        return l1(a, b)
    return ((F.instance_norm(a) - F.instance_norm(b)) ** 2).mean()


def positions(features):
    """A row for each image and position, a column for each channel."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def mean_distance(a, b):
    return ((positions(a).mean(0) - positions(b).mean(0)) ** 2).sum()


def correlation_distance(a, b):
    """Deep CORAL."""
    return ((torch.cov(positions(a).T) - torch.cov(positions(b).T)) ** 2).sum() / (4 * a.shape[1] ** 2)


def self_information(p):
    return -torch.xlogy(p, p) / torch.log(torch.tensor(p.shape[1], dtype=p.dtype))


def entropy(logits, size):
    log_p = F.log_softmax(upsample(logits, size), 1)
    return -(log_p.exp() * log_p).sum(1).mean() / torch.log(torch.tensor(logits.shape[1], dtype=log_p.dtype))


LOSSES = {
    "meanDistance": lambda x, other, o: mean_distance(x, other),
    "correlationDistance": lambda x, other, o: correlation_distance(x, other),
    "selfInformation": lambda x, other, o: l1(self_information(F.softmax(upsample(x, other.shape[2:]), 1)), other),
    "entropyLoss": lambda x, other, o: entropy(x, o["size"]),
    "maskedCrossEntropy": lambda x, other, o: cross_entropy(x, other, o["normalize"], o["ignoreIndex"]),
    "domainLoss": lambda x, other, o: domain_loss(x, o["domain"]),
    "ganLoss": lambda x, other, o: gan_loss(x, o["real"], o["mode"]),
    "l1Loss": lambda x, other, o: l1(x, other),
    "perceptualLoss": lambda x, other, o: perceptual(x, other, o["form"]),
}


def set_trainable(module, on):
    """Turns gradients of the trained parameters off, and on again."""
    if not hasattr(module, "trained"):
        module.trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in module.trained:
        parameter.requires_grad_(on)


class RepeatedSgd(torch.optim.Optimizer):
    """SGD as the reference's: each parameter of `visits` is visited several times a step, and each visit adds the decay
    into the gradient itself. One group for each factor on the learning rate."""

    def __init__(self, visits, lr, momentum, weight_decay):
        self.visits, self.momentum, self.weight_decay = visits, momentum, weight_decay
        self.factors = sorted({factor for _, factor in visits})
        super().__init__([{"params": list({p for p, g in visits if g == f}), "lr": lr * f} for f in self.factors], {})

    @torch.no_grad()
    def step(self):
        rates = {f: group["lr"] for f, group in zip(self.factors, self.param_groups)}
        for parameter, factor in self.visits:
            if parameter.grad is None:
                continue  # a branch of the head that is not summed
            parameter.grad += self.weight_decay * parameter
            velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
            velocity.mul_(self.momentum).add_(parameter.grad)
            parameter -= rates[factor] * velocity


class EarlyEpsilonAdam(torch.optim.Optimizer):
    """Adam as in PyTorch 0.4, which adds epsilon before it corrects the bias."""

    def __init__(self, parameters, lr, betas, weight_decay=0):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
                gradient = parameter.grad + group["weight_decay"] * parameter
                state["step"] += 1
                state["mean"] = beta1 * state["mean"] + (1 - beta1) * gradient
                state["square"] = beta2 * state["square"] + (1 - beta2) * gradient**2
                size = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                parameter -= size * state["mean"] / (state["square"].sqrt() + 1e-8)


def adam(parameters, o, lr, betas, weight_decay=0):
    kind = EarlyEpsilonAdam if o.get("adamForm") == "pytorch-0.4" else torch.optim.Adam
    return kind(parameters, lr=lr, betas=tuple(betas), weight_decay=weight_decay)


def scheduler(optimizer, schedule):
    """PyTorch's own scheduler for what the config calls a schedule, or for the translators' linear decay."""
    kind = schedule["kind"]
    if kind == "poly":
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, schedule["totalSteps"], schedule["power"])
    if kind == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, schedule["every"], schedule["factor"])
    if kind == "linear":
        constant, steps = schedule["constantSteps"], schedule["steps"]
        return torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1),
                torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=steps - constant),
            ],
            milestones=[constant],
        )
    if kind == "epochs":
        # The rule of CycleGAN's code, which BDL's translators were trained with: niter and niter_decay epochs.
        constant, decay = schedule["constantEpochs"], schedule["decayEpochs"]
        epoch_count = 1

        def rule(epoch):
            return 1 - max(0, epoch + 1 + epoch_count - constant) / (decay + 1)

        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rule(step // schedule["epochSteps"]))
    raise ValueError(kind)


class MersenneTwister64:
    """MT19937-64 (Nishimura and Matsumoto), which C++ calls std::mt19937_64."""

    def __init__(self, seed):
        self.state = [seed]
        for i in range(1, 312):
            last = self.state[-1]
            self.state.append((6364136223846793005 * (last ^ last >> 62) + i) % 2**64)
        self.position = 312

    def __call__(self):
        if self.position == 312:
            for i in range(312):
                x = self.state[i] & ~0x7FFFFFFF | self.state[(i + 1) % 312] & 0x7FFFFFFF
                self.state[i] = self.state[(i + 156) % 312] ^ x >> 1 ^ (0xB5026F5AA96619E9 if x & 1 else 0)
            self.position = 0
        x = self.state[self.position]
        self.position += 1
        x ^= x >> 29 & 0x5555555555555555
        x ^= x << 17 & 0x71D67FFFEDA60000
        x ^= x << 37 & 0xFFF7EEE000000000
        return x ^ x >> 43


def draw_seed(seed, step, place):
    """Seed of dropout for the micro-batch at a place of a step: SplitMix64 (Steele et al. 2014) of all three."""

    def mixed(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    return mixed((mixed((mixed(seed) + step) % 2**64) + place) % 2**64)


class ImagePool:
    """Once it is full, each fake either passes (the draw's highest bit is 0) or takes the place of the kept one that
    the other 63 bits choose, which is returned in its stead."""

    def __init__(self, size, seed):
        self.size, self.draw, self.kept, self.exchanged = size, MersenneTwister64(seed), [], 0

    def exchange(self, fakes):
        if self.size == 0:
            return fakes
        shown = []
        for fake in fakes:
            if len(self.kept) < self.size:
                self.kept.append(fake.clone())
            else:
                passes, place = divmod(self.draw(), 2**63)
                if passes == 1:
                    place %= self.size
                    self.kept[place], fake = fake.clone(), self.kept[place]
                    self.exchanged += 1
            shown.append(fake)
        return torch.stack(shown)


def reference_visits(model, head_factor):
    """The reference's parameter generator: all modules below each part of the backbone, and all parameters of each, so
    that a parameter comes once for every module that holds it. The head's come once."""
    visits = []
    for part in (model.conv1, model.layer1, model.layer2, model.layer3, model.layer4):
        for module in part.modules():
            visits += [(p, 1) for p in module.parameters() if p.requires_grad]
    return visits + [(p, head_factor) for p in model.layer5.parameters()]


def segmenter_optimizer(model, o, lr):
    """DeepLab-v2's: the head learns faster. FCN-8s's: biases learn at twice the rate."""
    fcn = hasattr(model, "fc6")
    head_factor = 1 if fcn else o["headLearningRateFactor"]

    def factor(name):
        return (2 if name.endswith("bias") else 1) if fcn else (head_factor if name.startswith("layer5.") else 1)

    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if o.get("repeatedStep"):
        return RepeatedSgd(reference_visits(model, head_factor), lr, o["momentum"], o["weightDecay"])
    groups = {}
    for name, p in trained:
        groups.setdefault(factor(name), []).append(p)
    groups = [{"params": params, "lr": lr * f} for f, params in groups.items()]
    if o["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=o["momentum"], weight_decay=o["weightDecay"])
    return adam(groups, o, lr, o["adamBetas"], o["weightDecay"])


def class_mix_mask(labels, ignore, draw):
    """Which pixels of each image ClassMix cuts out; see native/core/training/class_mix.h for how it draws."""
    masks = []
    for image in labels:
        classes = [c for c in image.unique().tolist() if c != ignore]
        for i in range((len(classes) + 1) // 2):
            j = i + draw() % (len(classes) - i)
            classes[i], classes[j] = classes[j], classes[i]
        masks.append(torch.isin(image, torch.tensor(classes[: (len(classes) + 1) // 2], dtype=image.dtype)))
    return torch.stack(masks)


def lesson(teacher, batch, o, draw, share):
    """For one batch that counts for a share of a step: the images, labels and weights of DACS, the share of confident pixels, and the teacher's own labels and weights."""
    images = batch["target.images"]
    with torch.no_grad():
        weak = batch.get("target.weakImages", images)
        logits = teacher.eval()(segmenter_input(weak, dtype_of(teacher)))
        probabilities = F.softmax(upsample(logits, images.shape[1:3]), 1)
        if o["classShares"]:
            ratios = (torch.tensor(o["classShares"], dtype=logits.dtype) + 1e-6) / (teacher.class_shares + 1e-6)
            lifted = F.softmax(logits, 1) * ratios[:, None, None]
            # Upsampled are logits, not probabilities.
            probabilities = F.softmax(upsample(lifted.log(), images.shape[1:3]), 1)
            teacher.found_shares += share * F.softmax(logits, 1).mean((0, 2, 3))
        confidence, labels = probabilities.max(1)
    confident = (confidence > o["threshold"]).double().mean()
    weights, labels = confident.expand(labels.shape).clone(), labels.to(torch.uint8)
    height = images.shape[1]
    weights[:, : int(height * o["margins"][0])] = 0
    weights[:, height - int(height * o["margins"][1]) :] = 0
    found = labels, weights * 255
    if o["classMix"]:
        source, source_labels = batch["source.images"], batch["source.labels"]
        mask = class_mix_mask(source_labels, o["ignoreIndex"], draw)
        images = torch.where(mask[..., None], source, images)
        labels, weights = torch.where(mask, source_labels, labels), torch.where(mask, 1.0, weights)
    return images, labels, weights * 255, confident.item(), found


def patch_mask(shape, o, draw):
    """Which pixels of target images stay; see native/core/training/patch_mask.h for how it draws."""
    count, height, width = shape
    side = max(1, math.floor(o["patch"] * min(height, width) + 0.5))
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    kept = [float((draw() >> 11) / 2**53 >= o["ratio"]) for _ in range(count * rows * columns)]
    patches = torch.tensor(kept).reshape(count, rows, columns)
    whole = patches.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return whole[:, :height, :width]


def feature_distance(features, anchor, batch, o):
    """DAFormer's distance of the source's features from the initial network's, on things."""
    with torch.no_grad():
        anchored = anchor.eval().with_features(segmenter_input(batch["source.images"], features.dtype))[0]
    labels, size = batch["source.labels"], features.shape[2:]
    shares = [F.adaptive_avg_pool2d((labels == c).to(features.dtype), size) for c in o["classes"]]
    counts = (torch.stack(shares) > o["minimumShare"]).any(0)
    distances = (features - anchored).square().sum(1).sqrt()
    return (distances * counts).sum() / counts.sum().clamp(min=1)


@contextlib.contextmanager
def kept_statistics(module):
    """Batches normalize themselves but leave no trace in the running statistics."""
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked -= 1


@torch.no_grad()
def follow(teacher, student, decay):
    averages, newest = teacher.state_dict(), student.state_dict()
    if "class_shares" in averages:
        newest["class_shares"] = teacher.found_shares
    assert averages.keys() == newest.keys(), "names differ"
    for name, average in averages.items():
        if average.is_floating_point():
            average.copy_(decay * average + (1 - decay) * newest[name])
        else:
            average.copy_(newest[name])


def discriminator_view(features, logits, images, alignment):
    """What a discriminator is shown."""
    if alignment == "feature-discriminator":
        return features
    p = F.softmax(upsample(logits, images.shape[1:3]), 1)
    return self_information(p) if alignment == "entropy-discriminator" else p


def train_segmenter(segmenter, discriminator, batches, o, rates, teacher=None):
    """One iteration for every batch, the source first and then the target, over its parts. Yields the losses of each."""
    optimizer = segmenter_optimizer(segmenter, o, rates["learningRate"])
    optimizers = [optimizer]
    segmenter.train()
    if discriminator is not None:
        lr = rates["discriminatorLearningRate"]
        optimizers.append(adam(discriminator.parameters(), o, lr, o["discriminatorBetas"]))
    schedulers = [scheduler(optimizer, rates["schedule"]) for optimizer in optimizers]
    dtype, alignment = dtype_of(segmenter), o.get("alignment", "output-discriminator")
    if teacher is not None:
        teacher.load_state_dict(segmenter.state_dict())
        if o["teacher"]["classShares"]:
            teacher.register_buffer("class_shares", torch.tensor(o["teacher"]["classShares"], dtype=dtype))

    anchor = copy.deepcopy(segmenter) if o.get("featureDistance") else None

    def weighted_cross_entropy(logits, labels, normalize, weights=None):
        return cross_entropy(logits, labels, normalize, o["ignoreIndex"], weights, o.get("classWeights"))

    def learn(batch, share, draw, draw_patch, draw_source_patch):
        """Adds the gradients of one batch that counts for a share of a step. Returns its losses."""
        losses = {}
        if discriminator is not None:
            set_trainable(discriminator, False)

        def view(output, images):
            return discriminator_view(*output, images, alignment)

        source_output = segmenter.with_features(segmenter_input(batch["source.images"], dtype))
        loss = weighted_cross_entropy(source_output[1], batch["source.labels"], o["normalize"])
        losses["segmentation"] = losses["total"] = loss.item()
        if anchor is not None:
            distance = feature_distance(source_output[0], anchor, batch, o["featureDistance"])
            losses["featureDistance"] = distance.item()
            loss = loss + o["featureDistance"]["weight"] * distance
            losses["total"] = loss.item()
        moments = {"mean": mean_distance, "correlation": correlation_distance}.get(alignment)
        (share * loss).backward(retain_graph=moments is not None)

        if "target.images" in batch:
            target_output = segmenter.with_features(segmenter_input(batch["target.images"], dtype))
            target_logits = target_output[1]
            total = torch.zeros(1, dtype=dtype, requires_grad=True).sum()
            if moments is not None:
                distance = moments(source_output[0], target_output[0])
                losses["moments"] = distance.item()
                total = total + o["momentWeight"] * distance
            if o.get("entropyWeight"):
                loss = entropy(target_logits, batch["target.images"].shape[1:3])
                losses["entropy"] = loss.item()
                total = total + o["entropyWeight"] * loss
            if discriminator is not None:
                target_view = view(target_output, batch["target.images"])
                adversarial = domain_loss(discriminator(target_view), "source")
                losses["adversarial"] = adversarial.item()
                total = total + o["adversarialWeight"] * adversarial
            if "target.labels" in batch:
                pseudo = weighted_cross_entropy(
                    target_logits, batch["target.labels"], o["normalize"], batch.get("target.weights")
                )
                losses["pseudoLabel"] = pseudo.item()
                total = total + o["pseudoLabelWeight"] * pseudo
            if teacher is not None:
                given = o["teacher"] | {"ignoreIndex": o["ignoreIndex"]}
                images, labels, weights, losses["confidentShare"], found = lesson(
                    teacher, batch, given, draw, share
                )
                logits = segmenter(segmenter_input(images, dtype)) if given["classMix"] else target_logits
                loss = weighted_cross_entropy(logits, labels, "all", weights)
                losses["teacher"] = loss.item()
                total = total + given["weight"] * loss
                if given["masking"]:
                    domains = [("target", draw_patch, *found)]
                    if given["masking"]["source"]:
                        domains.append(("source", draw_source_patch, batch["source.labels"], None))
                    loss = 0
                    for domain, draws, labels, weights in domains:
                        images = batch[domain + ".images"]
                        stays = patch_mask(images.shape[:3], given["masking"], draws)
                        with kept_statistics(segmenter):
                            logits = segmenter(segmenter_input(images, dtype) * stays[:, None].to(dtype))
                        of_domain = weighted_cross_entropy(logits, labels, "all", weights)
                        loss = loss + of_domain / len(domains)
                    losses["masked"] = loss.item()
                    total = total + given["masking"]["weight"] * loss
            (share * total).backward()
            losses["total"] += total.item()

            if discriminator is not None:
                set_trainable(discriminator, True)
                source_view = view(source_output, batch["source.images"]).detach()
                for name, p, domain in (
                    ("discriminatorSource", source_view, "source"),
                    ("discriminatorTarget", target_view.detach(), "target"),
                ):
                    loss = domain_loss(discriminator(p), domain)
                    (share * loss / 2).backward()
                    losses[name] = loss.item()
        return losses

    accumulation = o.get("accumulation", 1)
    for step, batch in enumerate(batches):
        for each in optimizers:
            each.zero_grad()
        parts = [{name: tensor.chunk(accumulation)[i] for name, tensor in batch.items()} for i in range(accumulation)]
        found = []
        if teacher is not None:
            teacher.found_shares = 0
        for place, part in enumerate(parts):
            if hasattr(segmenter, "dropout"):
                segmenter.dropout.generator.manual_seed(draw_seed(o.get("seed", 1), step, place))
            seed = o["teacher"]["seed"] if teacher is not None else 0
            seeds = seed + step + (place << 40), draw_seed(seed, step, place), draw_seed(seed + 1, step, place)
            draws = [MersenneTwister64(s) for s in seeds]
            found.append(learn(part, 1 / accumulation, *draws))
        losses = {name: sum(part[name] for part in found) / accumulation for name in found[0]}
        optimizer.step()
        if discriminator is not None and "target.images" in batch:
            optimizers[1].step()
        if teacher is not None:
            follow(teacher, segmenter, min(o["teacher"]["decay"], 1 - 1 / (step + 2)))
        for each in schedulers:
            each.step()
        yield losses


def train_paired_translator(generator, discriminator, batches, o, rates):
    """pix2pix's iteration, generator first. Yields the losses of each."""
    optimizers = [
        adam(module.parameters(), o, rates["learningRate"], o["betas"])
        for module in (generator, discriminator)
    ]
    schedulers = [scheduler(each, rates["schedule"]) for each in optimizers]
    for batch in batches:
        s, t = (translator_input(batch[domain + ".images"], dtype_of(generator)) for domain in ("source", "target"))
        fake = generator(s)
        set_trainable(discriminator, False)
        gan = gan_loss(discriminator(torch.cat([s, fake], 1)), True, o["ganMode"])
        total = o["ganWeight"] * gan + o["l1Weight"] * l1(fake, t)
        optimizers[0].zero_grad()
        total.backward()
        optimizers[0].step()

        set_trainable(discriminator, True)
        real = gan_loss(discriminator(torch.cat([s, t], 1)), True, o["ganMode"])
        judged = (real + gan_loss(discriminator(torch.cat([s, fake.detach()], 1)), False, o["ganMode"])) / 2
        optimizers[1].zero_grad()
        judged.backward()
        optimizers[1].step()
        for each in schedulers:
            each.step()
        losses = {"total": total, "ganSourceToTarget": gan, "l1": l1(fake, t), "discriminatorTarget": judged}
        yield {name: loss.item() for name, loss in losses.items()}


def train_translator(networks, segmenter, batches, o, rates, pools):
    """CycleGAN's iteration with the perceptual terms of Eq. 2, for every batch. Yields the losses of each. `networks`:
    F, F^-1, D of the target, D of the source; `pools`: of the target, of the source."""
    to_target, to_source, target_discriminator, source_discriminator = networks
    betas, lr = o["betas"], rates["learningRate"]
    generators = [*to_target.parameters(), *to_source.parameters()]
    generator_optimizer = adam(generators, o, lr, betas)
    discriminators = [*target_discriminator.parameters(), *source_discriminator.parameters()]
    discriminator_optimizer = adam(discriminators, o, lr, betas)
    schedulers = [scheduler(each, rates["schedule"]) for each in (generator_optimizer, discriminator_optimizer)]
    if segmenter is not None:
        segmenter.eval().requires_grad_(False)
    mode, form = o["ganMode"], o["perceptualForm"]
    dtype = dtype_of(to_target)
    for batch in batches:
        s, t = (translator_input(batch[domain + ".images"], dtype) for domain in ("source", "target"))
        fake_t, fake_s = to_target(s), to_source(t)
        cycled_s, cycled_t = to_source(fake_t), to_target(fake_s)
        for discriminator in (target_discriminator, source_discriminator):
            set_trainable(discriminator, False)
        terms = {
            "ganSourceToTarget": (o["ganWeight"], gan_loss(target_discriminator(fake_t), True, mode)),
            "ganTargetToSource": (o["ganWeight"], gan_loss(source_discriminator(fake_s), True, mode)),
            "cycleSource": (o["cycleWeight"], l1(cycled_s, s)),
            "cycleTarget": (o["cycleWeight"], l1(cycled_t, t)),
        }
        if o["identityWeight"]:
            terms["identitySource"] = (o["identityWeight"], l1(to_source(s), s))
            terms["identityTarget"] = (o["identityWeight"], l1(to_target(t), t))
        if segmenter is not None:

            def logits(x):
                return segmenter(translator_to_segmenter(x))

            for name, image, fake, cycled in (("Source", s, fake_t, cycled_s), ("Target", t, fake_s, cycled_t)):
                truth = logits(image)
                terms["perceptual" + name] = (o["perceptualWeight"], perceptual(logits(fake), truth, form))
                weight = o["perceptualReconstructionWeight"]
                terms["perceptualReconstruction" + name] = (weight, perceptual(logits(cycled), truth, form))
        generator_optimizer.zero_grad()
        total = sum(weight * term for weight, term in terms.values())
        total.backward()
        generator_optimizer.step()

        discriminator_optimizer.zero_grad()
        losses = {name: term.item() for name, (_, term) in terms.items()}
        losses["total"] = total.item()
        for name, discriminator, real, fake, pool in (
            ("discriminatorTarget", target_discriminator, t, fake_t, pools[0]),
            ("discriminatorSource", source_discriminator, s, fake_s, pools[1]),
        ):
            set_trainable(discriminator, True)
            shown = pool.exchange(fake.detach())
            loss = (gan_loss(discriminator(real), True, mode) + gan_loss(discriminator(shown), False, mode)) / 2
            loss.backward()
            losses[name] = loss.item()
        discriminator_optimizer.step()
        for each in schedulers:
            each.step()
        yield losses
