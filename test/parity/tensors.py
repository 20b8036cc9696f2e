"""Reading safetensors with json and numpy, and how errors are measured."""

import json
import math

import numpy
import torch

DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}


def read(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    # Mapped, so that half a gigabyte of weights is in memory once.
    data = numpy.memmap(path, numpy.uint8, "r")[8 + length :]
    header.pop("__metadata__", None)
    result = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        # Through bytes, because numpy has no bfloat16.
        values = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        values.reshape(-1).view(torch.uint8).numpy()[:] = data[begin:end]
        result[name] = values
    return result


def squared_norm(tensor):
    """In float64, piece by piece: no copy of the whole."""
    return sum(piece.double().square().sum().item() for piece in tensor.detach().reshape(-1).split(1 << 20))


def squared_distance(a, b):
    assert a.shape == b.shape, f"{list(a.shape)} is not {list(b.shape)}"
    pieces = zip(*(tensor.detach().reshape(-1).split(1 << 20) for tensor in (a, b)))
    return sum((p.double() - q.double()).square().sum().item() for p, q in pieces)


def relative_error(ours, twin):
    """Norm of the difference over the norm of the twin's."""
    return overall_error([(ours, twin)])


def overall_error(pairs):
    """The same of several tensors as if they were one."""
    difference = sum(squared_distance(*pair) for pair in pairs)
    return difference and math.sqrt(difference / max(sum(squared_norm(twin) for _, twin in pairs), 1e-300))


def spread_error(ours, twin):
    """Norm of the difference over how far the twin's values lie from the mean of their image and channel, so that an
    output that hardly depends on the place cannot hide an error."""
    difference = squared_distance(ours, twin)
    spread = squared_distance(twin, twin.mean((2, 3), keepdim=True).expand_as(twin))
    return difference and math.sqrt(difference / max(spread, 1e-300))
