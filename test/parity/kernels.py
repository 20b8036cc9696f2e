"""fp64 twins of what native/kernels computes from upsampled logits, and the errors of results against them."""

import torch
import torch.nn.functional as F

import tensors


def upsample(x, case):
    if tuple(x.shape[2:]) == tuple(case["size"]):
        return x
    return F.interpolate(x, size=case["size"], mode="bilinear", align_corners=case["options"].get("alignCorners", True))


def pixel_losses(logits, labels, ignore):
    """-log p of each pixel's label, and whether it counts."""
    counts = labels != ignore
    log_p = F.log_softmax(logits, 1)
    picked = log_p.gather(1, labels.where(counts, torch.zeros_like(labels)).unsqueeze(1)).squeeze(1)
    return -picked.where(counts, torch.zeros_like(picked)), counts


def reduced(losses, counts, labels, case, inputs):
    options = case["options"]
    weights = counts.double()
    if "classWeights" in options:
        table = torch.tensor(options["classWeights"], dtype=torch.float64)
        weights = weights * table[labels.where(counts, torch.zeros_like(labels))]
    if "pixelWeights" in inputs:
        weights = weights * inputs["pixelWeights"].double()
    total = (losses * weights).sum()
    if options.get("normalize", "valid") == "all":
        return total / labels.numel()
    return total / weights.sum() if weights.sum() > 0 else total


def disagreements(ours, twin, doubtful):
    """How many labels differ where the twin has no doubt."""
    return int(((ours.long() != twin) & ~doubtful).sum())


def prediction(probabilities):
    """First most probable class, its probability, and where rounding may decide between two."""
    top, _ = probabilities.topk(2, dim=1)
    best = probabilities.max(1, keepdim=True).values
    first = (probabilities == best).double().argmax(1)
    gap = top[:, 0] - top[:, 1]
    return first, top[:, 0], (gap > 0) & (gap < 1e-5)


def gradient_error(ours, twin):
    return tensors.relative_error(ours.reshape(twin.shape), twin)


def compare(case, inputs, ours):
    """Errors of one case's results."""
    logits = inputs["logits"].to(getattr(torch, case["dtype"])).double().requires_grad_(True)
    options, errors = case["options"], {}
    ignore = options.get("ignoreIndex", 255)
    if case["do"] == "probabilities":
        p = F.softmax(upsample(logits, case), 1)
        errors["probabilities"] = (ours["probabilities"].double() - p).abs().max().item()
        loss = ((p - 1) ** 2).mean()
    elif case["do"] == "labels":
        labels = inputs["labels"].long()
        losses, counts = pixel_losses(upsample(logits, case), labels, ignore)
        loss = reduced(losses, counts, labels, case, inputs)
    else:
        up = upsample(logits, case)
        softmax_first = options.get("order") == "probabilities"
        p = (upsample(F.softmax(logits, 1), case) if softmax_first else F.softmax(up, 1)).detach()
        labels, confidence, doubtful = prediction(p)
        threshold = torch.as_tensor(options["threshold"], dtype=torch.float64).expand(p.shape[1])[labels]
        doubtful = doubtful | ((confidence - threshold).abs() < 1e-6)
        kept = confidence >= threshold if options.get("inclusive") else confidence > threshold
        labels = labels.where(kept, torch.full_like(labels, ignore))
        errors["confidence"] = (ours["confidence"].double() - confidence).abs().max().item()
        errors["labels"] = disagreements(ours["labels"], labels, doubtful)
        if case["do"] == "pseudo":
            return errors
        losses, counts = pixel_losses(up, ours["labels"].long(), ignore)
        loss = reduced(losses, counts, ours["labels"].long(), case, inputs)
    errors["loss"] = tensors.relative_error(ours["loss"].reshape(()), loss)
    errors["gradient"] = gradient_error(ours["gradient"], torch.autograd.grad(loss, logits)[0])
    return errors


def upsampled_softmax(request):
    """Errors of all cases of a file."""
    inputs, ours = tensors.read(request["inputs"]), tensors.read(request["results"])

    def part(all_tensors, name):
        return {key[len(name) + 1 :]: value for key, value in all_tensors.items() if key.startswith(name + "/")}

    return [compare(case, part(inputs, case["name"]), part(ours, case["name"])) for case in request["cases"]]
