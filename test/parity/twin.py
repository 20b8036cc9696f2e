"""Answers requests, one line of JSON each, about what the PyTorch twins compute. Started by test/helpers/twin.ts."""

import itertools
import json
import sys
import traceback

import torch
from torch import nn

import checkpoints
import kernels
import evaluation
import exported
import networks
import packaged
import tensors
import training


def count(request):
    """Sizes and state-dict names of a network, without its weights."""
    with torch.device("meta"):
        module = networks.build(request["network"])
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "trained": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "names": sorted(module.state_dict()),
        "visits": len(training.reference_visits(module, 1)) - 8 if hasattr(module, "layer5") else 0,
    }


def forward(request):
    """Errors of outputs in training and in evaluation mode, and of the state behind the training pass."""
    module = networks.load(request["network"], tensors.read(request["weights"]))
    case = tensors.read(request["case"])
    errors = {}
    with torch.no_grad():
        if "train" in case:
            errors["train"] = tensors.relative_error(case["train"], module.train()(case["input"]))
            state = tensors.read(request["after"])
            assert state.keys() == module.state_dict().keys()
            errors["state"] = max(tensors.relative_error(state[n], v) for n, v in module.state_dict().items())
        errors["eval"] = tensors.relative_error(case["eval"], module.eval()(case["input"]))
    for name, kernel in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
        if hasattr(module, name):
            weight = getattr(module, name).weight
            twin = torch.eye(weight.shape[0])[:, :, None, None] * networks.bilinear_filter(kernel)
            errors[name] = tensors.relative_error(weight, twin)
    return errors


def loss(request):
    """Errors of a loss and of its gradient with respect to the first tensor."""
    case = tensors.read(request["case"])
    x = case["x"].requires_grad_(True)
    value = training.LOSSES[request["loss"]](x, case.get("other"), request.get("options", {}))
    (gradient,) = torch.autograd.grad(value, x)
    return {
        "loss": tensors.relative_error(case["loss"].reshape(()), value),
        "gradient": tensors.relative_error(case["gradient"], gradient),
    }


def noise_biases(module):
    """Names of biases whose true gradient is 0, because an InstanceNorm behind them takes them away again."""
    names = set()
    for prefix, sequence in module.named_modules():
        if isinstance(sequence, nn.Sequential):
            for (name, _), (_, following) in itertools.pairwise(sequence.named_children()):
                if isinstance(following, nn.InstanceNorm2d):
                    names.add(f"{prefix}.{name}.bias")
    return names


def compare_training(before, after, module):
    """Errors of the weights behind a training and of how far they moved: the largest of a tensor, and of the network
    as a whole. Biases without a gradient apart, as the largest difference."""
    state = module.state_dict()
    assert after.keys() == before.keys() == state.keys(), "names differ"
    noise = noise_biases(module)
    names = [name for name in state if name not in noise and state[name].is_floating_point()]
    pairs = {
        "weights": [(after[name], state[name]) for name in names],
        "moved": [(after[name] - before[name], state[name] - before[name]) for name in names],
    }
    errors = {"noise": max(((after[n] - state[n]).abs().max().item() for n in noise), default=0.0)}
    for what, tensor_pairs in pairs.items():
        errors[what] = max(tensors.relative_error(ours, twin) for ours, twin in tensor_pairs)
        ours, twin = (torch.cat([t.flatten() for t in side]) for side in zip(*tensor_pairs))
        errors[what + "Overall"] = tensors.relative_error(ours, twin)
    return errors


def loss_error(history, ours):
    """The largest relative error of a loss that the twin reports."""
    return max(
        abs(mine[name] - value) / max(abs(value), 1e-12)
        for mine, twin in zip(ours, history, strict=True)
        for name, value in twin.items()
    )


def part_of(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def segmentation(request):
    """Errors behind some iterations of the segmenter's training."""
    befores, twins = {}, {}
    for role in ("segmenter", "discriminator"):
        if role in request:
            befores[role] = tensors.read(request[role]["before"])
            twins[role] = networks.load(request[role]["network"], befores[role])
    history = training.train_segmenter(
        twins["segmenter"], twins.get("discriminator"), [tensors.read(batch) for batch in request["batches"]],
        request["options"], request["learningRate"], request["discriminatorLearningRate"],
    )  # fmt: skip
    result = {
        role: compare_training(befores[role], tensors.read(request[role]["after"]), twin)
        for role, twin in twins.items()
    }
    return result | {"losses": loss_error(history, request["losses"])}


def translation(request):
    """Errors behind some iterations of the translators' training."""
    before, after = tensors.read(request["before"]), tensors.read(request["after"])
    twins = {
        prefix: networks.load(network, part_of(before, prefix))
        for prefix, network in request["networks"].items()
    }
    segmenter = None
    if "segmenter" in request:
        segmenter = networks.load(request["segmenter"]["network"], tensors.read(request["segmenter"]["before"]))
    history = training.train_translator(
        [twins[prefix] for prefix in ("to_target.", "to_source.", "target_critic.", "source_critic.")],
        segmenter, [tensors.read(batch) for batch in request["batches"]], request["options"],
        request["learningRate"],
    )  # fmt: skip
    result = {
        prefix: compare_training(part_of(before, prefix), part_of(after, prefix), twin)
        for prefix, twin in twins.items()
    }
    return result | {"losses": loss_error(history, request["losses"])}


def accumulation(request):
    """Errors behind optimizer steps on the same gradient: nobody forgets gradients in between."""
    before = tensors.read(request["before"])
    module = networks.load(request["network"], before).eval()
    optimizer = training.segmenter_optimizer(module, request["options"], request["learningRate"])
    batch = tensors.read(request["batch"])
    logits = module(training.segmenter_input(batch["source.images"]))
    training.cross_entropy(logits, batch["source.labels"], "valid", 255).backward()
    for _ in range(request["steps"]):
        optimizer.step()
    return compare_training(before, tensors.read(request["after"]), module)


HANDLERS = {"count": count, "forward": forward, "loss": loss, "accumulation": accumulation}
HANDLERS |= {"segmentation": segmentation, "translation": translation}
HANDLERS |= {"saveCase": checkpoints.save_case, "compareCase": checkpoints.compare_case}
HANDLERS |= {"upsampledSoftmax": kernels.upsampled_softmax}
HANDLERS |= {"writePackaged": packaged.write, "comparePackaged": packaged.compare, "saveState": packaged.save_state}
HANDLERS |= {"compareState": packaged.compare_state, "oddDtypes": packaged.odd_dtypes}
HANDLERS |= {"packagedMetadata": packaged.metadata}
HANDLERS |= {"runTorchScript": exported.run_torchscript, "runOnnx": exported.run_onnx}
HANDLERS |= {"saveNetwork": checkpoints.save_network, "compareNetwork": checkpoints.compare_network}
HANDLERS |= {"pseudoLabels": evaluation.pseudo_labels, "evaluation": evaluation.evaluation}

torch.set_num_threads(1)
for line in sys.stdin:
    try:
        request = json.loads(line)
        answer = {"result": HANDLERS[request["do"]](request)}
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
