"""One iteration of the segmenter's training with a discriminator and pseudo-labels, in PyTorch eager."""

import sys
import time
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from masked_cross_entropy import IGNORE, smooth_field

sys.path.append(str(Path(__file__).parents[2] / "test/parity"))
import networks
import training


def segmenter_network(case):
    """Returns { kind, options } of the case's segmenter for networks.build()."""
    options = {key: value for key, value in case["segmenter"].items() if key != "network"}
    return {"kind": case["segmenter"].get("network", "deeplab-v2"), "options": options}


def save_new(network, file):
    """Saves PyTorch's own initial weights for both sides."""
    torch.save(networks.build(network).state_dict(), file)
    return file


def make_images(shape, random):
    """Makes bytes [N, H, W, 3], smooth with some noise."""
    n, height, width = shape
    smooth = smooth_field((n, 3), (height, width), 32, random).transpose(0, 2, 3, 1)
    noise = random.standard_normal((n, height, width, 3), dtype=numpy.float32)
    return (128 + 48 * smooth + 8 * noise).clip(0, 255).astype(numpy.uint8)


def make_labels(shape, classes, valid, random):
    n, height, width = shape
    labels = smooth_field((n, classes), (height, width), 32, random).argmax(1).astype(numpy.uint8)
    order = smooth_field((n, 1), (height, width), 32, random)[:, 0]
    labels[order >= numpy.quantile(order, valid)] = IGNORE
    return labels


def make_inputs(case, condition, random, prefix):
    classes = case["segmenter"]["classCount"]
    return {
        "source_images": make_images(case["source"], random),
        "source_labels": make_labels(case["source"], classes, 0.95, random),
        "target_images": make_images(case["target"], random),
        "target_labels": make_labels(case["target"], classes, 0.5, random),
        "segmenter": save_new(segmenter_network(case), f"{prefix}-segmenter.pth"),
        "discriminator": save_new(
            {"kind": "output-discriminator", "options": case["discriminator"]}, f"{prefix}-discriminator.pth"
        ),
    }


def matrix_products_per_second(side=2048, repeats=5):
    """Measures GFLOP/s of a large product in float32 on the threads of this process."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds) / 1e9


def arithmetic_floor(run):
    """Counts what the convolutions of `run` compute, forward and backward, by direct arithmetic."""
    with FlopCounterMode(display=False) as counter:
        run()
    gflop = counter.get_total_flops() / 1e9
    return {"GFLOP": gflop, "floor, ms": 1000 * gflop / matrix_products_per_second()}


class Eager:
    dtype = torch.float32
    memory_format = torch.contiguous_format
    autocast = False

    def __init__(self, case):
        self.case = case
        self.device = case.get("device", "cpu")

    def network(self, description, file):
        network = networks.load(description, torch.load(file))
        return network.to(self.device, self.dtype, memory_format=self.memory_format).train()

    def load(self, inputs):
        case, options = self.case, self.case["options"]
        self.segmenter = self.network(segmenter_network(case), inputs["segmenter"])
        discriminator = {"kind": "output-discriminator", "options": case["discriminator"]}
        self.discriminator = self.network(discriminator, inputs["discriminator"])
        self.optimizer = training.segmenter_optimizer(self.segmenter, options, case["learningRate"])
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=case["discriminatorLearningRate"], betas=options["discriminatorBetas"]
        )
        self.batch = {name: torch.from_numpy(value) for name, value in inputs.items() if not isinstance(value, str)}
        if self.device != "cpu":
            self.batch = {name: value.pin_memory() for name, value in self.batch.items()}
        self.losses = None
        self.steps = 0

    def warm_up(self):
        """Does nothing, because memory and losses are measured at the first step."""

    def prepare(self):
        pass

    def image(self, domain):
        images = self.batch[f"{domain}_images"].to(self.device, non_blocking=True)
        images = training.segmenter_input(images, self.dtype)
        return images.to(memory_format=self.memory_format)

    def cross_entropy(self, upsampled, domain):
        labels = self.batch[f"{domain}_labels"].to(self.device, non_blocking=True)
        return F.cross_entropy(upsampled, labels.long(), ignore_index=IGNORE)

    def run(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            self.step()

    def step(self):
        options = self.case["options"]
        if hasattr(self.segmenter, "dropout"):
            # The same channels as ours.
            self.segmenter.dropout.generator.manual_seed(training.draw_seed(options.get("seed", 1), self.steps, 0))
        self.steps += 1
        self.optimizer.zero_grad()
        self.discriminator_optimizer.zero_grad()
        training.set_trainable(self.discriminator, False)

        source = training.upsample(self.segmenter(self.image("source")), self.case["source"][1:])
        segmentation = self.cross_entropy(source, "source")
        segmentation.backward()
        target = training.upsample(self.segmenter(self.image("target")), self.case["target"][1:])
        target_probabilities = F.softmax(target, 1)
        adversarial = training.domain_loss(self.discriminator(target_probabilities), "source")
        pseudo_label = self.cross_entropy(target, "target")
        (options["adversarialWeight"] * adversarial + options["pseudoLabelWeight"] * pseudo_label).backward()

        training.set_trainable(self.discriminator, True)
        losses = [segmentation, adversarial, pseudo_label]
        for probabilities, domain in ((F.softmax(source.detach(), 1), "source"), (target_probabilities, "target")):
            loss = training.domain_loss(self.discriminator(probabilities.detach()), domain)
            (loss / 2).backward()
            losses.append(loss)
        self.optimizer.step()
        self.discriminator_optimizer.step()
        losses = [loss.item() for loss in losses]
        self.losses = self.losses or losses

    def result(self):
        """Returns the losses of the first step."""
        return {"losses": numpy.array(self.losses)}

    def trained(self):
        """Returns the segmenter's optimizer and its parameters by name."""
        return self.optimizer, dict(self.segmenter.named_parameters())

    def figures(self):
        return arithmetic_floor(self.run)


class ChannelsLast(Eager):
    memory_format = torch.channels_last


class Bf16Autocast(Eager):
    autocast = True


class Bf16AutocastChannelsLast(Bf16Autocast):
    memory_format = torch.channels_last


class Compiled(Eager):
    def network(self, description, file):
        return torch.compile(super().network(description, file), dynamic=False)

    def warm_up(self):
        """Compiles, because the code is for one shape."""
        self.run()

    def figures(self):
        return {}


class CompiledChannelsLast(Compiled):
    memory_format = torch.channels_last


class CompiledBf16(CompiledChannelsLast):
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
