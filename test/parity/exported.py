"""Exported models, run by torch.jit and by ONNX Runtime, beside the PyTorch twin of the network they were made from."""

import json

import torch
import torch.nn.functional as F

import networks
import tensors


def compare(request, run):
    """For each shape of image: the largest error relative to the largest logit, and the share of pixels of equal class."""
    module = networks.load(request["network"], tensors.read(request["weights"])).eval()
    results = []
    for seed, shape in enumerate(request["shapes"]):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 60
        with torch.no_grad():
            twin = module(image)
            if request["upsample"]:
                twin = F.interpolate(twin, size=shape[2:], mode="bilinear", align_corners=True)
            logits = run(image)
        assert logits.shape == twin.shape and logits.dtype == twin.dtype, f"{logits.shape} {logits.dtype}"
        results.append({
            "error": ((logits - twin).abs().max() / twin.abs().max()).item(),
            "agreement": (logits.argmax(1) == twin.argmax(1)).double().mean().item(),
            "classes": len(twin.argmax(1).unique()),
        })  # fmt: skip
    return results


def run_torchscript(request):
    files = {"bidiseg.json": ""}
    module = torch.jit.load(request["file"], _extra_files=files)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    state = tensors.read(request["weights"])
    assert module.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    results = compare(request, module.train().eval())
    return {"results": results, "metadata": json.loads(files["bidiseg.json"])}


def run_onnx(request):
    import onnxruntime

    session = onnxruntime.InferenceSession(request["file"], providers=["CPUExecutionProvider"])
    results = compare(request, lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0]))
    for shape in request.get("refused", []):
        try:
            session.run(None, {"image": torch.zeros(shape).numpy()})
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
            continue
        raise AssertionError(f"an image of the shape {shape} is accepted")
    values = session.get_inputs() + session.get_outputs()
    metadata = session.get_modelmeta().custom_metadata_map
    return {
        "results": results,
        "metadata": json.loads(metadata["bidiseg"]),
        "values": [[value.name, value.type, value.shape] for value in values],
    }


def check_onnx(request):
    """What onnx itself says about a model: its checker, shapes by strict inference, and what each node is."""
    import onnx

    onnx.checker.check_model(request["file"], full_check=True)
    model = onnx.load(request["file"])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    kinds = onnx.AttributeProto
    fields = {kinds.INT: "i", kinds.FLOAT: "f", kinds.STRING: "s"}
    return {
        "operators": sorted({node.op_type for node in model.graph.node}),
        # HasField() tells a value that is 0 from one that the file lacks; lists have no presence.
        "without": [
            f"{node.name}.{attribute.name}"
            for node in model.graph.node
            for attribute in node.attribute
            if (not attribute.ints if attribute.type == kinds.INTS else not attribute.HasField(fields[attribute.type]))
        ],
        "shapes": [
            [value.name, [dim.dim_value if dim.HasField("dim_value") else "?" for dim in value.type.tensor_type.shape.dim]]
            for value in [*inferred.value_info, *inferred.output]
        ],
    }  # fmt: skip


def run_reference(request):
    """Like run_onnx, with the reference implementation that belongs to the standard."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(request["file"])
    run = lambda image: torch.from_numpy(evaluator.run(None, {"image": image.numpy()})[0])  # noqa: E731
    return {"results": compare(request, run)}
