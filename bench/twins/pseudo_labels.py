"""Computes pseudo-labels of a set of images from their logits, with per-class thresholds, as the reference does."""

import numpy
import torch
import torch.nn.functional as F

from masked_cross_entropy import CLASSES, IGNORE, smooth_field

PORTION, CAP = 0.5, 0.9


def make_inputs(case, condition, random, prefix):
    """Makes logits like those of a trained network. A class wins in every region, by a margin that changes smoothly
    between doubt and certainty. Some noise is added. Classes differ in frequency."""
    shape, size = (case["distinct"], CLASSES), case["logits"][1:]
    frequency = random.standard_normal((1, CLASSES, 1, 1), dtype=numpy.float32)
    scores = smooth_field(shape, size, 8, random) + 0.5 * frequency
    margin = 8 + 8 * smooth_field((case["distinct"], 1), size, 16, random)
    noise = random.standard_normal((*shape, *size), dtype=numpy.float32)
    return {"logits": numpy.abs(margin) * scores + 0.5 * noise}


class Reference:
    """Keeps label and probability of every pixel of the set in float64 and sorts the probabilities of each class. The
    threshold is the median, at most 0.9. A pixel whose probability is below its class's threshold becomes 255."""

    dtype = torch.float32
    repeats = 1

    def __init__(self, case):
        self.count, self.size = case["images"], tuple(case["labels"])

    def load(self, inputs):
        self.logits = torch.from_numpy(inputs["logits"]).to(self.dtype)

    def warm_up(self):
        self.predict(0)

    def prepare(self):
        self.labels = self.thresholds = None

    def predict(self, index):
        probabilities = F.softmax(self.logits[index % len(self.logits)][None], 1)
        upsampled = F.interpolate(probabilities, size=self.size, mode="bilinear", align_corners=True)
        values = upsampled[0].numpy().transpose(1, 2, 0)
        return values.argmax(2), values.max(2)

    def run(self):
        predicted, confidence = (numpy.zeros((self.count, *self.size)) for _ in range(2))
        for index in range(self.count):
            predicted[index], confidence[index] = self.predict(index)
        thresholds = []
        for c in range(CLASSES):
            values = numpy.sort(confidence[predicted == c])
            rank = round(PORTION * len(values) * self.repeats) // self.repeats
            thresholds.append(min(CAP, values[rank]) if len(values) else 0.0)
        labels = numpy.empty((len(self.logits), *self.size), numpy.uint8)
        for index in range(self.count):
            label = predicted[index]
            for c in range(CLASSES):
                label[(confidence[index] < thresholds[c]) & (label == c)] = IGNORE
            # The image is not written to a file. The labels of the distinct logits are kept for the comparison.
            labels[index % len(labels)] = label
        self.thresholds, self.labels = thresholds, labels

    def result(self):
        return {"thresholds": numpy.array(self.thresholds), "labels": self.labels}


class Fp64(Reference):
    """Does the same in fp64, over each distinct image once. A rank among all is a rank among these."""

    dtype = torch.float64

    def __init__(self, case):
        super().__init__(case)
        self.count = case["distinct"]
        self.repeats = case["images"] // self.count


TWINS = {"reference": Reference, "fp64": Fp64}
