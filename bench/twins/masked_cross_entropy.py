"""Upsampling and masked cross-entropy, forward and backward, as a user of PyTorch would write them."""

import numpy
import torch
import torch.nn.functional as F

CLASSES = 19
IGNORE = 255


def smooth_field(shape, size, cell, random):
    """Noise whose features are about `cell` pixels large."""
    height, width = size
    coarse = random.standard_normal((*shape, 2 + height // cell, 2 + width // cell), dtype=numpy.float32)
    return F.interpolate(torch.from_numpy(coarse), size=size, mode="bicubic", align_corners=True).numpy()


def make_inputs(case, condition, random, prefix):
    """Logits, and labels that are noise, or regions such as a street has; a share of them, as noise or in regions, counts."""
    n, height, width = case["labels"]
    logits = 3 * random.standard_normal(case["logits"], dtype=numpy.float32)
    if condition["labels"] == "random":
        labels = random.integers(0, CLASSES, (n, height, width), dtype=numpy.uint8)
        order = random.random((n, height, width), dtype=numpy.float32)
    else:
        labels = smooth_field((n, CLASSES), (height, width), 64, random).argmax(1).astype(numpy.uint8)
        order = smooth_field((n, 1), (height, width), 64, random)[:, 0]
    valid = condition["valid"]
    if valid < 1:
        labels[order >= numpy.quantile(order, valid)] = IGNORE
    return {"logits": logits, "labels": labels}


class Eager:
    dtype = torch.float32
    memory_format = torch.contiguous_format

    def __init__(self, case):
        pass

    def load(self, inputs):
        logits = torch.from_numpy(inputs["logits"]).to(dtype=self.dtype, memory_format=self.memory_format)
        self.logits = logits.requires_grad_()
        # PyTorch's loss takes int64 alone; the conversion is not counted.
        self.labels = torch.from_numpy(inputs["labels"]).long()

    def warm_up(self):
        """A small problem, so that the first large one finds everything set up but no memory of its own."""
        logits = torch.randn(1, CLASSES, 9, 9, dtype=self.dtype).to(memory_format=self.memory_format)
        self.loss(logits.requires_grad_(), torch.randint(0, CLASSES, (1, 65, 65))).backward()

    def prepare(self):
        self.logits.grad = None

    def run(self):
        self.value = self.loss(self.logits, self.labels)
        self.value.backward()

    def result(self):
        return {"loss": self.value.reshape(1), "gradient": self.logits.grad}

    def upsample(self, logits, labels):
        return F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=True)

    def loss(self, logits, labels):
        return F.cross_entropy(self.upsample(logits, labels), labels, ignore_index=IGNORE)


class ChannelsLast(Eager):
    memory_format = torch.channels_last


class Compiled(Eager):
    def __init__(self, case):
        self.loss = torch.compile(self.loss)

    def warm_up(self):
        """Compiles: the code is for one shape."""
        self.run()


class Reference(Eager):
    """The published code's way: channels to the end, a mask with as many elements as the logits, the elements that it
    selects as rows of classes. No pixel at all gives NaN."""

    def loss(self, logits, labels):
        valid = (labels >= 0) & (labels != IGNORE)
        rows = self.upsample(logits, labels).permute(0, 2, 3, 1).contiguous()
        rows = rows[valid.unsqueeze(3).repeat(1, 1, 1, CLASSES)].view(-1, CLASSES)
        return F.cross_entropy(rows, labels[valid])


class Fp64(Eager):
    dtype = torch.float64

    def loss(self, logits, labels):
        total = F.cross_entropy(self.upsample(logits, labels), labels, ignore_index=IGNORE, reduction="sum")
        return total / max(int((labels != IGNORE).sum()), 1)


TWINS = {
    "eager": Eager,
    "eager, channels_last": ChannelsLast,
    "torch.compile": Compiled,
    "reference": Reference,
    "fp64": Fp64,
}
