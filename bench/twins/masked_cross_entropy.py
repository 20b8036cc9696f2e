"""Upsampling and masked cross-entropy, forward and backward, as users of PyTorch write them."""

import numpy
import torch
import torch.nn.functional as F

CLASSES = 19
IGNORE = 255


def smooth_field(shape, size, cell, random):
    """Makes noise whose features are about `cell` pixels large."""
    height, width = size
    coarse = random.standard_normal((*shape, 2 + height // cell, 2 + width // cell), dtype=numpy.float32)
    return F.interpolate(torch.from_numpy(coarse), size=size, mode="bicubic", align_corners=True).numpy()


def make_inputs(case, condition, random, prefix):
    """Makes logits and labels. Labels are noise, or regions like those of a street. A share of them counts."""
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
        self.device = case.get("device", "cpu")

    def load(self, inputs):
        logits = torch.from_numpy(inputs["logits"]).to(self.device, self.dtype, memory_format=self.memory_format)
        self.logits = logits.requires_grad_()
        # PyTorch's loss requires int64. The conversion is not timed.
        self.labels = torch.from_numpy(inputs["labels"]).to(self.device).long()

    def warm_up(self):
        """Runs a small problem. The first large one then finds everything set up but no memory of its own."""
        logits = torch.randn(1, CLASSES, 9, 9, dtype=self.dtype, device=self.device)
        labels = torch.randint(0, CLASSES, (1, 65, 65), device=self.device)
        self.loss(logits.to(memory_format=self.memory_format).requires_grad_(), labels).backward()

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
        super().__init__(case)
        self.loss = torch.compile(self.loss, dynamic=False)

    def warm_up(self):
        """Compiles, because the code is for one shape."""
        self.run()


class Reference(Eager):
    """Follows the published code. Channels move to the end, and a mask as large as the logits selects rows of classes. If
    no pixel counts, the result is NaN."""

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
