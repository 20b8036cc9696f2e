"""One iteration of the translators' training with identity and perceptual terms, in PyTorch eager."""

import numpy
import torch

from segmentation_step import arithmetic_floor, make_images, networks, save_new, training

NETWORKS = {
    "to_target": "resnet-generator",
    "to_source": "resnet-generator",
    "target_discriminator": "patch-discriminator",
    "source_discriminator": "patch-discriminator",
}


def build(kind, translator):
    if kind == "patch-discriminator":
        options = {"baseWidth": translator["discriminatorWidth"]}
    else:
        options = {"blocks": translator["blocks"], "baseWidth": translator["baseWidth"]}
    return networks.build({"kind": kind, "options": options})


def make_inputs(case, condition, random, prefix):
    state = {}
    for name, kind in NETWORKS.items():
        module = build(kind, case["translator"])
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    torch.save(state, f"{prefix}-translator.pth")
    return {
        "source_images": make_images(case["images"], random),
        "target_images": make_images(case["images"], random),
        "translator": f"{prefix}-translator.pth",
        "segmenter": save_new({"kind": "deeplab-v2", "options": case["segmenter"]}, f"{prefix}-segmenter.pth"),
    }


class Eager:
    dtype = torch.float32
    memory_format = torch.contiguous_format
    autocast = False

    def __init__(self, case):
        self.case = case
        self.device = case.get("device", "cpu")

    def compiled(self, module):
        return module

    def load(self, inputs):
        state = torch.load(inputs["translator"])
        self.networks = {}
        for name, kind in NETWORKS.items():
            module = build(kind, self.case["translator"])
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
            module.to(self.device, self.dtype, memory_format=self.memory_format)
            self.networks[name] = self.compiled(module)
        segmenter = {"kind": "deeplab-v2", "options": self.case["segmenter"]}
        self.segmenter = networks.load(segmenter, torch.load(inputs["segmenter"])).eval().requires_grad_(False)
        self.segmenter.to(self.device, self.dtype, memory_format=self.memory_format)
        self.segmenter = self.compiled(self.segmenter)

        def adam(*names):
            parameters = [parameter for name in names for parameter in self.networks[name].parameters()]
            return torch.optim.Adam(parameters, lr=self.case["learningRate"], betas=self.case["options"]["betas"])

        self.generator_optimizer = adam("to_target", "to_source")
        self.discriminator_optimizer = adam("target_discriminator", "source_discriminator")
        self.images = [torch.from_numpy(inputs[f"{domain}_images"]) for domain in ("source", "target")]
        if self.device != "cpu":
            self.images = [images.pin_memory() for images in self.images]
        self.losses = None

    def warm_up(self):
        """Does nothing, because memory and losses are measured at the first step."""

    def prepare(self):
        pass

    def logits(self, x):
        return self.segmenter(training.translator_to_segmenter(x))

    def run(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            self.step()

    def step(self):
        o = self.case["options"]
        mode, form = o["ganMode"], o["perceptualForm"]
        to_target, to_source, target_discriminator, source_discriminator = (self.networks[name] for name in NETWORKS)
        s, t = (
            training.translator_input(images.to(self.device, non_blocking=True), self.dtype).to(
                memory_format=self.memory_format
            )
            for images in self.images
        )
        for discriminator in (target_discriminator, source_discriminator):
            training.set_trainable(discriminator, False)
        fake_t, fake_s = to_target(s), to_source(t)
        cycled_s, cycled_t = to_source(fake_t), to_target(fake_s)
        total = o["ganWeight"] * training.gan_loss(target_discriminator(fake_t), True, mode)
        total = total + o["ganWeight"] * training.gan_loss(source_discriminator(fake_s), True, mode)
        total = total + o["cycleWeight"] * (training.l1(cycled_s, s) + training.l1(cycled_t, t))
        total = total + o["identityWeight"] * (training.l1(to_source(s), s) + training.l1(to_target(t), t))
        for image, fake, cycled in ((s, fake_t, cycled_s), (t, fake_s, cycled_t)):
            truth = self.logits(image)
            total = total + o["perceptualWeight"] * training.perceptual(self.logits(fake), truth, form)
            weight = o["perceptualReconstructionWeight"]
            total = total + weight * training.perceptual(self.logits(cycled), truth, form)
        self.generator_optimizer.zero_grad()
        total.backward()
        self.generator_optimizer.step()

        self.discriminator_optimizer.zero_grad()
        losses = [total]
        for discriminator, real, fake in ((target_discriminator, t, fake_t), (source_discriminator, s, fake_s)):
            training.set_trainable(discriminator, True)
            scores = discriminator(real), discriminator(fake.detach())
            loss = (training.gan_loss(scores[0], True, mode) + training.gan_loss(scores[1], False, mode)) / 2
            loss.backward()
            losses.append(loss)
        self.discriminator_optimizer.step()
        losses = [loss.item() for loss in losses]
        self.losses = self.losses or losses

    def result(self):
        """Returns the losses of the first step."""
        return {"losses": numpy.array(self.losses)}

    def trained(self):
        """Returns the generators' optimizer and their parameters by name."""
        names = ("to_target", "to_source")
        parameters = {f"{name}.{key}": p for name in names for key, p in self.networks[name].named_parameters()}
        return self.generator_optimizer, parameters

    def figures(self):
        return arithmetic_floor(self.run)


class ChannelsLast(Eager):
    memory_format = torch.channels_last


class Bf16Autocast(Eager):
    autocast = True


class Bf16AutocastChannelsLast(Bf16Autocast):
    memory_format = torch.channels_last


class Compiled(Eager):
    def compiled(self, module):
        return torch.compile(module, dynamic=False)

    def warm_up(self):
        """Compiles, because the code is for one shape."""
        self.run()

    def figures(self):
        return {}


class CompiledChannelsLast(Compiled):
    memory_format = torch.channels_last


class CompiledBf16(Compiled):
    autocast = True


class Fp64(Eager):
    dtype = torch.float64


TWINS = {
    "eager": Eager,
    "eager, channels_last": ChannelsLast,
    "eager, bf16 autocast": Bf16Autocast,
    "eager, bf16 autocast, channels_last": Bf16AutocastChannelsLast,
    "torch.compile": Compiled,
    "torch.compile, channels_last": CompiledChannelsLast,
    "torch.compile, bf16 autocast": CompiledBf16,
    "fp64": Fp64,
}
