"""Files of torch.save in every format, and whether what became of them is the same bit for bit."""

import collections

import torch
from torch import nn

import networks
import tensors


def noise(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)


def plain():
    state = collections.OrderedDict(weight=noise(3, 4), bias=noise(4), count=torch.tensor(12))
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    return state


def nested():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module.load_state_dict({name: torch.full_like(v, 3) for name, v in module.state_dict().items()})
    optimizer = torch.optim.Adam(module.parameters())
    module(noise(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    others = {"epoch": 3, "best": 0.5, "optimizer": optimizer.state_dict(), "loss": torch.tensor(0.25)}
    return others | {"state_dict": module.state_dict()}


def dtypes():
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    state = {str(dtype): noise(5, 3, dtype=dtype) for dtype in floats}
    for dtype in (torch.uint8, torch.int32, torch.int64):
        state[str(dtype)] = torch.arange(-3 if dtype.is_signed else 0, 9).to(dtype)
    special = torch.tensor([0x7FC00001, 0x7F800000, -0x80000000, 1], dtype=torch.int32)  # NaN, inf, -0, subnormal
    return state | {"special": special.view(torch.float32)}


def strided():
    base = noise(6, 8, 5)
    return {
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(1, 2, 0),
        "step": base[1::2, ::3],
        "column": base[:, 2, 1],
        "half": base.half().transpose(1, 2),
        "bfloat16": base.bfloat16()[:, ::2, 1:],
        "expanded": base[:, :1, :1].expand(6, 3, 2),
        "channels_last": noise(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }


def shared():
    base = noise(40)
    return {"a": base, "b": base[10:20], "c": base.view(5, 8), "d": base[1::3], "tied": base}


def odd():
    things = {"text": "ü", "number": 1 << 70, "small": -5, "bytes": b"\x00\xff", "none": None, "real": 1e-9}
    things |= {"tuple": (1, (2.5, "x")), "size": torch.Size([1, 2]), "device": torch.device("cuda", 0)}
    tensors_ = {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "one": torch.ones(1, 1, 1)}
    return tensors_ | {"parameter": nn.Parameter(noise(2, 2)), "ü": noise(1)} | things


CASES = {"plain": plain, "nested": nested, "dtypes": dtypes, "strided": strided, "shared": shared, "odd": odd}
CASES["large"] = lambda: {"x": torch.tensor([1.0, 7e4])}
CASES["module."] = lambda: {"module." + name: value for name, value in plain().items()}
CASES["Scale."] = lambda: {"state_dict": {"module.Scale." + name: value for name, value in plain().items()}}


def expected(case):
    state = CASES[case]()
    state = state.get("state_dict", state)
    return {
        name.removeprefix("module.").removeprefix("Scale."): value.detach()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def save_case(request):
    torch.save(
        CASES[request["case"]](), request["file"], _use_new_zipfile_serialization=request["zip"],
        pickle_protocol=request["protocol"],
    )  # fmt: skip


def bits(tensor):
    return (tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def compare_case(request):
    """How many tensors there are, and the names of those that differ in name, dtype, shape or any bit."""
    ours, twin = tensors.read(request["file"]), expected(request["case"])
    if "dtype" in request:
        dtype = getattr(torch, request["dtype"])
        twin = {n: v.to(dtype) if v.is_floating_point() else v for n, v in twin.items()}
    same = [name for name in twin if name in ours and bits(ours[name]) == bits(twin[name])]
    return {"count": len(twin), "different": sorted((ours.keys() | twin.keys()) - set(same))}


def save_network(request):
    """A state dict of random weights, changed as the request says, and as safetensors what a network must then have."""
    module = networks.build(request["network"])
    generator = torch.Generator().manual_seed(request.get("seed", 1))
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    state = module.state_dict()
    for name in [name for name in state if name.endswith(tuple(request.get("without", [])))]:
        del state[name]
    for name, shape in request.get("with", {}).items():
        state[name] = torch.ones(shape)
    state = {request.get("prefix", "") + name: value for name, value in state.items()}
    torch.save(state, request["file"], _use_new_zipfile_serialization=request.get("zip", True))


def compare_network(request):
    """Names of the tensors of two files, a state dict of torch.save and safetensors, that differ."""
    prefix = request.get("prefix", "")
    state = torch.load(request["pth"], weights_only=True)
    twin = {name.removeprefix(prefix): value for name, value in state.items()}
    ours = tensors.read(request["safetensors"])
    module = networks.build(request["network"])
    module.load_state_dict(ours, strict=True)
    return sorted(name for name in twin if name not in ours or bits(ours[name]) != bits(twin[name]))
