"""Every loss as a function of the networks that take part: M the segmenter, D its discriminator, F and G = F^-1 the
translators, C an image discriminator."""

import torch.nn.functional as F

import training


def cross_entropy(n, t, o):
    return training.cross_entropy(n["M"](t["image"]), t["labels"], o["normalize"], o["ignoreIndex"])


def adversarial(n, t, o):
    probabilities = F.softmax(training.upsample(n["M"](t["image"]), t["image"].shape[2:]), 1)
    return training.domain_loss(n["D"](probabilities), "source")


def domain(n, t, o):
    return training.domain_loss(n["D"](F.softmax(t["scores"], 1)), o["domain"])


def gan(n, t, o):
    return training.gan_loss(n["C"](n["F"](t["image"])), True, o["mode"])


def discriminator(n, t, o):
    return training.gan_loss(n["C"](t["image"]), o["real"], o["mode"])


def cycle(n, t, o):
    return training.l1(n["G"](n["F"](t["image"])), t["image"])


def identity(n, t, o):
    return training.l1(n["G"](t["image"]), t["image"])


def seen(n, image):
    """M's logits of a translator's image."""
    return n["M"](training.translator_to_segmenter(image))


def perceptual(n, t, o):
    return training.perceptual(seen(n, n["F"](t["image"])), seen(n, t["image"]), o["form"])


def perceptual_reconstruction(n, t, o):
    return training.perceptual(seen(n, n["G"](n["F"](t["image"]))), seen(n, t["image"]), o["form"])


LOSSES = {
    "crossEntropy": cross_entropy,
    "adversarial": adversarial,
    "domain": domain,
    "gan": gan,
    "discriminator": discriminator,
    "cycle": cycle,
    "identity": identity,
    "perceptual": perceptual,
    "perceptualReconstruction": perceptual_reconstruction,
}
