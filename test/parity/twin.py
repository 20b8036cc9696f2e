"""Answers requests, one line of JSON each, about what the PyTorch twins compute. Started by test/helpers/twin.ts."""

import itertools
import json
import sys
import traceback

import torch
import torch.nn.functional as F
from torch import nn

import backbones
import checkpoints
import kernels
import evaluation
import exported
import gradients
import label_free
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
        "visits": len(training.reference_visits(module, 1)) - 8 if hasattr(module, "layer1") else 0,
    }


def shapes(request):
    """Shapes of a network's outputs for these input shapes, without its weights."""
    with torch.device("meta"):
        module = networks.build(request["network"])
        return [list(module(torch.empty(shape)).shape) for shape in request["inputs"]]


def forward(request):
    """Errors of outputs in training and in evaluation mode, and of the state behind the training pass, to float64."""
    module = networks.load(request["network"], tensors.read(request["weights"])).double()
    case = tensors.read(request["case"])
    case["input"] = case["input"].double()
    errors = {}
    with torch.no_grad():
        errors["train"] = tensors.spread_error(case["train"], module.train()(case["input"]))
        errors["eval"] = tensors.spread_error(case["eval"], module.eval()(case["input"]))
    if "after" in request:
        state = tensors.read(request["after"])
        assert state.keys() == module.state_dict().keys()
        errors["statistics"] = max(tensors.relative_error(state[n], v) for n, v in module.named_buffers())
    for name, kernel in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
        if hasattr(module, name):
            weight = getattr(module, name).weight
            twin = torch.eye(weight.shape[0])[:, :, None, None] * networks.bilinear_filter(kernel)
            errors[name] = tensors.relative_error(weight, twin)
    return errors


def translate(request):
    """The share of an image's bytes that differ, and the largest difference, for an image of any size."""
    module = networks.load(request["network"], tensors.read(request["weights"]))
    case = tensors.read(request["case"])
    height, width = case["image"].shape[1:3]
    right, bottom = -width % request["multiple"], -height % request["multiple"]
    mode = "reflect" if right < width and bottom < height else "replicate"
    with torch.no_grad():
        x = training.translator_input(case["image"], training.dtype_of(module))
        x = F.pad(x, (0, right, 0, bottom), mode=mode)
        rgb = (module(x)[:, :, :height, :width] + 1) / 2 * 255
    difference = (rgb.permute(0, 2, 3, 1).round().int() - case["translated"].int()).abs()
    return {"share": (difference > 0).double().mean().item(), "largest": difference.max().item()}


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


def network_gradients(request):
    """Errors of a loss and, for each trained network, of its gradients: the largest of a parameter, and how large those
    are that have to vanish."""
    case = tensors.read(request["case"])
    twins = {}
    for letter, given in request["networks"].items():
        twins[letter] = networks.load(given["network"], tensors.read(given["weights"])).train(given["training"])
        if "gradients" not in given:
            twins[letter].requires_grad_(False)
    value = gradients.LOSSES[request["loss"]](twins, case, request["options"])
    value.backward()
    errors = {"loss": tensors.relative_error(case["loss"].reshape(()), value)}
    for letter, given in request["networks"].items():
        if "gradients" in given:
            ours = tensors.read(given["gradients"])
            twin = {name: p.grad for name, p in twins[letter].named_parameters() if p.grad is not None}
            assert ours.keys() == twin.keys(), f"gradients of one side only: {sorted(ours.keys() ^ twin.keys())}"
            idle = idle_biases(twins[letter])
            errors[letter] = max(tensors.relative_error(ours[n], g) for n, g in twin.items() if n not in idle)
            if idle:
                # Relative to the weight's gradient: their own is a sum that vanishes but for rounding.
                weights = {name: twin[name.removesuffix("bias") + "weight"] for name in idle}
                sizes = [ours[name].norm().item() / weights[name].norm().item() for name in idle]
                errors[letter + ", idle biases"] = max(sizes)
    return errors


def idle_biases(module):
    """Names of biases whose true gradient is 0, because an InstanceNorm behind them takes them away again."""
    names = set()
    for prefix, sequence in module.named_modules():
        if isinstance(sequence, nn.Sequential):
            for (name, _), (_, following) in itertools.pairwise(sequence.named_children()):
                if isinstance(following, nn.InstanceNorm2d):
                    names.add(f"{prefix}.{name}.bias")
    return names


STATISTICS = ("running_mean", "running_var", "class_shares")


def compare_training(before, after, module):
    """Errors of the weights behind a training and of how far they moved: the largest of a tensor, and of the network
    as a whole. Idle biases apart, as the largest difference, and running statistics apart."""
    state = {name: value.detach() for name, value in module.state_dict().items()}
    assert after.keys() == before.keys() == state.keys(), "names differ"
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert all(after[name] == state[name] for name in counters), "counters of batches differ"
    idle = idle_biases(module)
    names = [name for name, _ in module.named_parameters() if name not in idle]
    pairs = {
        "weights": [(after[name], state[name]) for name in names],
        "moved": [(after[name] - before[name], state[name] - before[name]) for name in names],
    }
    errors = {}
    for what, tensor_pairs in pairs.items():
        errors[what] = max(tensors.relative_error(ours, twin) for ours, twin in tensor_pairs)
        errors[what + "Overall"] = tensors.overall_error(tensor_pairs)
    statistics = [tensors.relative_error(after[n], state[n]) for n in state if n.endswith(STATISTICS)]
    if statistics:
        errors["statistics"] = max(statistics)
    if idle:
        errors["idle"] = max((after[n] - state[n]).abs().max().item() for n in idle)
    return errors


def loss_error(twin, ours):
    """The largest relative error of a loss that the twin reports."""
    return max(abs(ours[name] - value) / max(abs(value), 1e-12) for name, value in twin.items())


def part_of(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def checked(history, request, compare):
    """Runs a training and compares behind the iterations that the request names: one table of errors for each, with the
    largest error of a loss until then."""
    results, loss = {}, 0.0
    for step, (losses, ours) in enumerate(zip(history, request["losses"], strict=True), 1):
        loss = max(loss, loss_error(losses, ours))
        if str(step) in request["after"]:
            results[step] = {"losses": loss} | compare(request["after"][str(step)])
    return results


def batches_of(request):
    return (tensors.read(batch) for batch in request["batches"])


def segmentation(request):
    """Errors behind iterations of the segmenter's training."""
    roles = [role for role in ("segmenter", "discriminator") if role in request]
    twins = {role: networks.load(request[role]["network"], tensors.read(request[role]["before"])) for role in roles}
    befores = {role: tensors.read(request[role]["before"]) for role in roles}
    teacher = None
    if request["options"].get("teacher"):
        roles.append("teacher")
        shares = request["options"]["teacher"]["classShares"]
        befores["teacher"] = befores["segmenter"] | ({"class_shares": torch.tensor(shares)} if shares else {})
        spec = request["segmenter"]
        teacher = twins["teacher"] = networks.load(spec["network"], tensors.read(spec["before"]))
    history = training.train_segmenter(
        twins["segmenter"], twins.get("discriminator"), batches_of(request), request["options"], request["rates"], teacher
    )

    def compare(after):
        return {role: compare_training(befores[role], tensors.read(after[role]), twins[role]) for role in roles}

    return checked(history, request, compare)


def translation(request):
    """Errors behind iterations of the translators' training, and how many fakes the pools exchanged."""
    before, options = tensors.read(request["before"]), request["options"]
    twins = {
        prefix: networks.load(network, part_of(tensors.read(request["before"]), prefix))
        for prefix, network in request["networks"].items()
    }
    segmenter = None
    if "segmenter" in request:
        segmenter = networks.load(request["segmenter"]["network"], tensors.read(request["segmenter"]["before"]))
    pools = [training.ImagePool(options["poolSize"], options["seed"] + i) for i in range(2)]
    history = training.train_translator(
        [twins[prefix] for prefix in ("to_target.", "to_source.", "target_discriminator.", "source_discriminator.")],
        segmenter, batches_of(request), options, request["rates"], pools,
    )  # fmt: skip

    def compare(after):
        state = tensors.read(after)
        return {p: compare_training(part_of(before, p), part_of(state, p), twin) for p, twin in twins.items()}

    return {"errors": checked(history, request, compare), "exchanged": [pool.exchanged for pool in pools]}


def paired_translation(request):
    """Errors behind iterations of a paired translator's training."""
    before = tensors.read(request["before"])
    twins = {
        prefix: networks.load(network, part_of(tensors.read(request["before"]), prefix))
        for prefix, network in request["networks"].items()
    }
    history = training.train_paired_translator(
        *twins.values(), batches_of(request), request["options"], request["rates"]
    )

    def compare(after):
        state = tensors.read(after)
        return {p: compare_training(part_of(before, p), part_of(state, p), twin) for p, twin in twins.items()}

    return checked(history, request, compare)


def accumulation(request):
    """Errors behind optimizer steps on the same gradient: nobody forgets gradients in between."""
    before = tensors.read(request["before"])
    module = networks.load(request["network"], tensors.read(request["before"])).eval()
    optimizer = training.segmenter_optimizer(module, request["options"], request["learningRate"])
    batch = tensors.read(request["batch"])
    logits = module(training.segmenter_input(batch["source.images"], torch.float32))
    training.cross_entropy(logits, batch["source.labels"], "valid", 255).backward()
    for _ in range(request["steps"]):
        optimizer.step()
    return compare_training(before, tensors.read(request["after"]), module)


def schedule(request):
    """The factors on the learning rate at the given steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = training.scheduler(optimizer, request["schedule"])
    factors = []
    for step in range(request["steps"][-1] + 1):
        if step in request["steps"]:
            factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


def pool_draw(request):
    """The draw at a position of the pools' generator, counted from 1; as text, because it has 64 bits."""
    draw = training.MersenneTwister64(request["seed"])
    for _ in range(request["position"] - 1):
        draw()
    return str(draw())


def grad_scaler(request):
    """The scales of PyTorch's own scaler behind each of these steps, whose gradients are finite or not."""
    scaler = torch.amp.GradScaler("cpu")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1)
    scales = []
    for event in request["events"]:
        if "goodSteps" in event:
            scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": event["goodSteps"]})
        before = parameter.item()
        factor = 1 if event["finite"] else float("inf")
        optimizer.zero_grad()
        scaler.scale(factor * parameter.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert (parameter.item() == before - 1) == event["finite"]
        scales.append(scaler.get_scale())
    return scales


def statistics(request):
    """The error of running statistics that are PyTorch's cumulative averages over some batches of bytes."""
    module = networks.load(request["network"], tensors.read(request["weights"])).train()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None
    with torch.no_grad():
        for _, images in sorted(tensors.read(request["case"]).items()):
            module(training.segmenter_input(images, training.dtype_of(module)))
    state = tensors.read(request["after"])
    buffers = [(name, value) for name, value in module.named_buffers() if value.is_floating_point()]
    assert all(torch.equal(state[name], value) for name, value in module.named_parameters())
    return max(tensors.relative_error(state[name], value) for name, value in buffers)


HANDLERS = {"statistics": statistics, "count": count, "shapes": shapes, "forward": forward, "translate": translate, "loss": loss}
HANDLERS |= {"networkGradients": network_gradients, "accumulation": accumulation, "schedule": schedule}
HANDLERS |= {"segmentation": segmentation, "translation": translation, "poolDraw": pool_draw}
HANDLERS |= {"pairedTranslation": paired_translation, "gradScaler": grad_scaler}
HANDLERS |= {"saveCase": checkpoints.save_case, "compareCase": checkpoints.compare_case}
HANDLERS |= {"upsampledSoftmax": kernels.upsampled_softmax}
HANDLERS |= {"labelFree": label_free.scores}
HANDLERS |= {"writePackaged": packaged.write, "comparePackaged": packaged.compare, "saveState": packaged.save_state}
HANDLERS |= {"compareState": packaged.compare_state, "oddDtypes": packaged.odd_dtypes}
HANDLERS |= {"packagedMetadata": packaged.metadata}
HANDLERS |= {"runTorchScript": exported.run_torchscript, "runOnnx": exported.run_onnx}
HANDLERS |= {"checkOnnx": exported.check_onnx, "runReference": exported.run_reference}
HANDLERS |= {"saveNetwork": checkpoints.save_network, "compareNetwork": checkpoints.compare_network}
HANDLERS |= {"foreignForward": checkpoints.foreign_forward, "saveShapes": checkpoints.save_shapes}
HANDLERS |= {"saveClassifier": backbones.save, "classifierFeatures": backbones.compare}
HANDLERS |= {"saveFound": checkpoints.save_found}
HANDLERS |= {"pseudoLabels": evaluation.pseudo_labels, "evaluation": evaluation.evaluation}
HANDLERS |= {"sslPseudoLabels": evaluation.ssl_pseudo_labels}

torch.set_num_threads(1)
for line in sys.stdin:
    try:
        request = json.loads(line)
        answer = {"result": HANDLERS[request["do"]](request)}
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
