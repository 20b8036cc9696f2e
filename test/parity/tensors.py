"""Reading and writing safetensors with json and numpy, and how errors are measured."""

import json

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
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    result = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        # Through bytes, because numpy has no bfloat16.
        values = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        values.reshape(-1).view(torch.uint8).numpy()[:] = numpy.frombuffer(data[begin:end], numpy.uint8)
        result[name] = values
    return result


def relative_error(ours, twin):
    """Norm of the difference over the norm of the twin's; infinite where the shapes differ."""
    if ours.shape != twin.shape:
        return float("inf")
    ours, twin = ours.detach().double(), twin.detach().double()
    difference = torch.linalg.vector_norm(ours - twin).item()
    return 0.0 if difference == 0 else difference / max(torch.linalg.vector_norm(twin).item(), 1e-300)
