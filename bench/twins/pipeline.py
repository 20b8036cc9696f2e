"""Reads image files into training steps, or only batches, in PyTorch: a DataLoader with Pillow, and the eager step."""

import time
from pathlib import Path

import numpy
import torch
from torch.utils.data import DataLoader, Dataset

from segmentation_step import Eager as EagerStep
from segmentation_step import make_images, make_labels, save_new

CLASSES = 19


def make_inputs(case, condition, random, prefix):
    from PIL import Image

    folder = Path(f"{prefix}-files")
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    width, height = case["files"]
    for i in range(case["count"]):
        image = Image.fromarray(make_images((1, height, width), random)[0])
        image.save(folder / "images" / f"{i:04}.{case['format']}")
        labels = Image.fromarray(make_labels((1, height, width), CLASSES, 0.95, random)[0])
        labels.save(folder / "labels" / f"{i:04}.png")
    inputs = {"folder": str(folder)}
    if "segmenter" in case:
        for name, kind in (("segmenter", "deeplab-v2"), ("discriminator", "output-discriminator")):
            inputs[name] = save_new({"kind": kind, "options": case[name]}, f"{prefix}-{name}.pth")
    return inputs


class Files(Dataset):
    def __init__(self, folder, size):
        self.images = sorted((Path(folder) / "images").iterdir())
        self.labels = sorted((Path(folder) / "labels").iterdir())
        self.size = tuple(size)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from PIL import Image

        image = Image.open(self.images[index]).convert("RGB").resize(self.size, Image.BICUBIC)
        labels = Image.open(self.labels[index]).resize(self.size, Image.NEAREST)
        return torch.from_numpy(numpy.array(image)), torch.from_numpy(numpy.array(labels))


class Repeated(torch.utils.data.Sampler):
    """Samples epoch after epoch, each in a new order."""

    def __init__(self, length, count):
        self.length, self.count = length, count

    def __iter__(self):
        order = []
        while len(order) < self.count:
            order += torch.randperm(self.length).tolist()
        return iter(order[: self.count])


class Loaded(EagerStep):
    """Decodes each image when it is needed."""

    workers = 0

    def __init__(self, case):
        super().__init__(case)
        self.domains = ("source", "target") if "segmenter" in case else ("source",)

    def load(self, inputs):
        self.folder = inputs["folder"]
        if len(self.domains) == 2:
            super().load(inputs)

    def warm_up(self):
        """Does nothing, so that memory is measured at the first run."""

    def batches(self):
        data = Files(self.folder, self.case["size"])
        sampler = Repeated(len(data), self.case["steps"] * self.case["batch"])
        return DataLoader(data, batch_size=self.case["batch"], sampler=sampler, num_workers=self.workers)

    def run(self):
        start = time.perf_counter()
        for batches in zip(*(self.batches() for _ in self.domains)):
            if len(self.domains) == 2:
                for domain, (images, labels) in zip(self.domains, batches):
                    self.batch.update({f"{domain}_images": images, f"{domain}_labels": labels})
                super().run()
        seconds = time.perf_counter() - start
        self.measured = {"images/s": len(self.domains) * self.case["batch"] * self.case["steps"] / seconds}
        if len(self.domains) == 2:
            self.measured["ms a step"] = 1000 * seconds / self.case["steps"]

    def result(self):
        return {}

    def figures(self):
        return self.measured


class Ahead(Loaded):
    """Decodes ahead in one process for each domain."""

    workers = 1


class Nothing:
    """Returns no result to compare, because Pillow and libvips resize differently."""

    def __init__(self, case):
        pass

    def load(self, inputs):
        pass

    def prepare(self):
        pass

    def run(self):
        pass

    def result(self):
        return {}


TWINS = {"DataLoader": Loaded, "DataLoader, workers": Ahead, "fp64": Nothing}
