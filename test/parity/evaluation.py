"""NumPy twins of what becomes of a segmenter's outputs: pseudo-labels of a whole set, and scores against labels."""

import numpy
import torch

import networks
import tensors
import training


def predictions(request):
    """For each image of the request the probabilities [C, H, W] at the size of the output, as float32."""
    module = networks.load(request["network"], tensors.read(request["weights"])).eval()
    for file in request["images"]:
        with torch.no_grad():
            logits = module(training.segmenter_input(tensors.read(file)["pixels"][None]))
            if request["order"] == "probabilities":
                scores = training.upsample(torch.softmax(logits, 1), request["size"])
            else:
                scores = torch.softmax(training.upsample(logits, request["size"]), 1)
        yield scores[0].numpy()


def pseudo_labels(request):
    """How ours differ from the pseudo-labels that come of holding all predictions and sorting them."""
    best, confidence, tied = [], [], []
    for scores in predictions(request):
        top = numpy.sort(scores, axis=0)[-2:]
        best.append(scores.argmax(0))
        confidence.append(scores.max(0).astype(numpy.float64))
        tied.append(top[1] - top[0] <= request["noise"])
    best, confidence, tied = numpy.stack(best), numpy.stack(confidence), numpy.stack(tied)

    classes = scores.shape[0]
    if request["method"] == "mpt":
        thresholds = numpy.full(classes, request["threshold"])
        kept = confidence > thresholds[best]
    else:
        thresholds = numpy.zeros(classes)
        for index in range(classes):
            ascending = numpy.sort(confidence[best == index])
            if len(ascending) > 0:
                rank = min(int(numpy.round(request["portion"] * len(ascending))), len(ascending) - 1)
                thresholds[index] = min(ascending[rank], request["threshold"])
        kept = confidence >= thresholds[best]
    expected = numpy.where(kept, best, 255)

    labels = tensors.read(request["labels"])
    ours = numpy.stack([labels[str(i)].numpy() for i in range(len(best))])
    near = numpy.abs(confidence - thresholds[best]) <= request["resolution"] + request["noise"]
    different = ours != expected
    return {
        "pixels": best.size,
        "different": int(different.sum()),
        "elsewhere": int((different & ~near & ~tied).sum()),
        "near": int(near.sum()),
        "tied": int(tied.sum()),
        "thresholds": float(numpy.abs(thresholds - request["thresholds"]).max()),
        "kept": int(kept.sum()),
        "classes": int((numpy.bincount(best.ravel(), minlength=classes) > 0).sum()),
        "capped": int((thresholds == request["threshold"]).sum()),
    }
