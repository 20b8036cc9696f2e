"""NumPy twins of what becomes of a segmenter's outputs: pseudo-labels of a whole set, and scores against labels."""

import warnings

import numpy
import torch

import networks
import tensors
import training


def predictions(request):
    """For each image the probabilities [C, H, W] at its output size, means over its views: the image at several sizes,
    each mirrored as well with `flip`."""
    module = networks.load(request["network"], tensors.read(request["weights"])).eval()
    for file, size in zip(request["images"], request["sizes"], strict=True):
        views = []
        for pixels in tensors.read(file).values():
            x = training.segmenter_input(pixels[None], torch.float32)
            for mirrored in (False, True) if request.get("flip") else (False,):
                with torch.no_grad():
                    logits = module(x.flip(3) if mirrored else x)
                    if request["order"] == "probabilities":
                        scores = training.upsample(torch.softmax(logits, 1), size)
                    else:
                        scores = torch.softmax(training.upsample(logits, size), 1)
                views.append(scores.flip(3) if mirrored else scores)
        yield (sum(views) / len(views))[0].numpy()


def threshold_range(confidence, members, unsure, portion):
    """The confidence at the quantile `portion` of the members of a class, between the lowest and the highest that it can be
    where `unsure` pixels, whose two best classes are level but for rounding, may be members or not."""
    ascending = numpy.sort(confidence[members])
    rank = min(int(numpy.round(portion * len(ascending))), len(ascending) - 1)
    ranks = numpy.array([rank - unsure, rank, rank + unsure]).clip(0, len(ascending) - 1)
    return ascending[ranks]


def pseudo_labels(request):
    """How ours differ from the pseudo-labels that come of holding all predictions and sorting them."""
    best, second, confidence, tied, everything = [], [], [], [], []
    for scores in predictions(request):
        top = numpy.sort(scores, axis=0)[-2:]
        everything.append(scores.astype(numpy.float64))
        best.append(scores.argmax(0))
        second.append(numpy.argsort(scores, axis=0)[-2])
        confidence.append(scores.max(0).astype(numpy.float64))
        tied.append(top[1] - top[0] <= request["noise"])
    best, second = numpy.stack(best), numpy.stack(second)
    confidence, tied = numpy.stack(confidence), numpy.stack(tied)

    classes = scores.shape[0]
    # Of each class the lowest, the expected and the highest threshold; without pixels there is one by definition.
    ranges = numpy.full((classes, 3), 1.0 if request["method"] == "class-balanced" else 0.0)
    if request["method"] != "mpt":
        for index in numpy.unique(best):
            unsure = int((tied & ((best == index) | (second == index))).sum())
            ranges[index] = threshold_range(confidence, best == index, unsure, request["portion"])
    if request["method"] == "mpt":
        ranges[:] = request["threshold"]
        thresholds = ranges[:, 1]
        decisive = thresholds
        kept = confidence > thresholds[best]
    elif request["method"] == "class-balanced":
        thresholds = ranges[:, 1]
        # Classes and what is kept by our thresholds, whose errors are looked at apart.
        ratios = numpy.stack(everything) / numpy.array(request["thresholds"])[:, None, None]
        top = numpy.sort(ratios, axis=1)[:, -2:]
        best, tied = ratios.argmax(1), top[:, 1] - top[:, 0] <= 1e-5 * top[:, 1]
        confidence = numpy.take_along_axis(numpy.stack(everything), best[:, None], 1)[:, 0]
        decisive = numpy.array(request["thresholds"])
        kept = confidence > decisive[best]
    else:
        ranges = numpy.minimum(ranges, request["threshold"])
        thresholds = ranges[:, 1]
        decisive = thresholds
        kept = confidence >= thresholds[best]
    expected = numpy.where(kept, best, 255)

    labels = tensors.read(request["labels"])
    ours = numpy.stack([labels[str(i)].numpy() for i in range(len(best))])
    near = numpy.abs(confidence - decisive[best]) <= request["noise"]
    different = ours != expected
    found = numpy.array(request["thresholds"])
    return {
        "pixels": best.size,
        "different": int(different.sum()),
        "elsewhere": int((different & ~near & ~tied).sum()),
        "near": int(near.sum()),
        "tied": int(tied.sum()),
        "thresholds": float(numpy.maximum(ranges[:, 0] - found, found - ranges[:, 2]).max().clip(0)),
        "kept": int(kept.sum()),
        "classes": int((numpy.bincount(best.ravel(), minlength=classes) > 0).sum()),
        "capped": int((thresholds == request["threshold"]).sum()),
    }


def ssl_labels(best, confidence):
    """What SSL.py keeps of a whole set: p >= t_c with t_c = min(0.9, the median of class c), compared in float64."""
    best, confidence = numpy.stack(best), numpy.stack(confidence).astype(numpy.float64)
    thresholds = numpy.zeros(19)
    for index in numpy.unique(best):
        ascending = numpy.sort(confidence[best == index])
        thresholds[index] = min(0.9, ascending[int(numpy.round(len(ascending) * 0.5))])
    return numpy.where(confidence < thresholds[best], 255, best), thresholds


def ssl_pseudo_labels(request):
    """How ours differ from those of SSL.py's procedure on the same logits, and which of both float64 agrees with."""
    found = {name: ([], []) for name in ("float32", "float64", "ours")}
    kept = []
    for file in request["images"]:
        given = tensors.read(file)
        size = given["best"].shape[1:]
        for name in ("float32", "float64"):
            probabilities = torch.softmax(given["logits"].to(getattr(torch, name)), 1)
            scores = training.upsample(probabilities, size)[0].numpy()
            found[name][0].append(scores.argmax(0).astype(numpy.uint8))
            found[name][1].append(scores.max(0))
        found["ours"][0].append(given["best"][0].numpy())
        found["ours"][1].append(given["confidence"][0].numpy())
        kept.append(given["kept"][0].numpy())
    kept = numpy.stack(kept)
    theirs, _ = ssl_labels(*found["float32"])
    truth, _ = ssl_labels(*found["float64"])
    expected, thresholds = ssl_labels(*found["ours"])
    assert (kept == expected).all(), "our own thresholds are not applied as SSL.py applies them"
    different = kept != theirs
    exact = numpy.stack(found["float64"][1])
    return {
        "pixels": kept.size,
        "kept": int((kept != 255).sum()),
        "capped": int((thresholds == 0.9).sum()),
        "sorted": float(numpy.abs(numpy.array(request["thresholds"]) - thresholds).max()),
        "different": int(different.sum()),
        "oursRight": int((different & (kept == truth)).sum()),
        "theirsRight": int((different & (theirs == truth)).sum()),
        "oursError": float(numpy.abs(numpy.stack(found["ours"][1]) - exact).max()),
        "theirsError": float(numpy.abs(numpy.stack(found["float32"][1]) - exact).max()),
    }


# Label ids of the 19 classes, in the order of their indices.
LABEL_IDS = {
    "cityscapes": [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
    "synthia": [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11],
}


def nearest(labels, height, width):
    """Resizes a label map with Pillow's nearest."""
    from PIL import Image

    image = Image.fromarray(labels.astype(numpy.int32))
    return numpy.asarray(image.resize((width, height), Image.Resampling.NEAREST))


def scores_of(matrix, part):
    """The usual scores of a confusion matrix, means over the classes of `part`."""
    matrix = numpy.asarray(matrix, numpy.float64)
    with numpy.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        hits, truth = numpy.diag(matrix), matrix.sum(1)
        iou = hits / (truth + matrix.sum(0) - hits)
        accuracy = hits / truth
        frequency = truth[part] / truth[part].sum()
        return {
            "iou": [None if numpy.isnan(value) else value for value in iou.tolist()],
            "accuracy": [None if numpy.isnan(value) else value for value in accuracy.tolist()],
            "meanIou": float(numpy.nanmean(iou[part])),
            "meanAccuracy": float(numpy.nanmean(accuracy[part])),
            "pixelAccuracy": float(hits.sum() / matrix.sum()),
            "frequencyWeightedIou": float(numpy.nansum(frequency * iou[part])),
        }


def evaluation(request):
    """The confusion matrix over some images, how many of its pixels have two best classes, and the scores of our matrix."""
    classes = len(request["confusion"])
    matrix, tied = numpy.zeros((classes, classes), numpy.int64), 0
    to_class = numpy.full(65536, 255)
    to_class[LABEL_IDS[request["labelMap"]]] = numpy.arange(19)
    for file, scores in zip(request["labels"], predictions(request), strict=True):
        truth = nearest(to_class[tensors.read(file)["ids"].numpy()], *scores.shape[1:])
        top = numpy.sort(numpy.partition(scores, -2, axis=0)[-2:], axis=0)
        counted = truth != 255
        tied += int((counted & (top[1] - top[0] <= request["noise"])).sum())
        pairs = truth[counted] * classes + scores.argmax(0)[counted]
        matrix += numpy.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    ours = numpy.asarray(request["confusion"], numpy.int64)
    return {
        "pixels": int(matrix.sum()),
        "different": int(numpy.abs(ours - matrix).sum()) // 2,
        "tied": tied,
        "scores": scores_of(ours, request["meanClasses"]),
    }
