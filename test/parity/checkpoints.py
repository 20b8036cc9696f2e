"""Files of torch.save in every format, and whether what became of them is the same bit for bit."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import uuid

import numpy
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


class Mode(enum.Enum):
    FAST = 1


@dataclasses.dataclass
class Settings:
    rate: float = 0.1


class Record(dict):
    pass


def beside():
    """What training scripts put beside a state dict. Nothing of it is a tensor of the state dict."""
    module = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(noise(2, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    things = {
        "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(names=["a", "b"])),
        "miou": numpy.float64(0.5),
        "epoch": numpy.int64(3),
        "confusion": numpy.arange(6).reshape(2, 3),
        "names": numpy.array(["road", "sky"]),
        "objects": numpy.array([None, {"a": 1}], dtype=object),
        "random": numpy.random.RandomState(1).get_state(),
        "generator": torch.get_rng_state(),
        "optimizer": optimizer.state_dict(),
        "the optimizer": optimizer,
        "schedule": schedule.state_dict(),
        "counts": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("abca"),
        "deque": collections.deque([1, 2], maxlen=3),
        "ordered": collections.OrderedDict(a=1),
        "record": Record(a=noise(2)),
        "when": datetime.datetime(2020, 1, 2),
        "took": datetime.timedelta(1),
        "path": pathlib.PurePosixPath("a/b"),
        "sets": [{1, 2}, frozenset({3}), range(3), slice(1, 2), 1 + 2j],
        "mode": Mode.FAST,
        "settings": Settings(),
        "partial": functools.partial(int, base=2),
        "decimal": decimal.Decimal("1.5"),
        "uuid": uuid.UUID(int=7),
        "types": [torch.float32, torch.Tensor, nn.Linear, torch.relu, torch.strided],
        "module": module,
    }
    return things | {"state_dict": plain()}


def lacking():
    return plain() | {name: torch.ones(2, 3).to(getattr(torch, name)) for name in DTYPES}


def attributes():
    """Tensors of which torch.save remembers a class or attributes."""
    state = {"tensor": noise(2, 3), "parameter": nn.Parameter(noise(3)), "tied": noise(4)[::2]}
    for value in state.values():
        value.note = "a"
    return state | {"sparse": noise(2, 2).to_sparse(), "quantized": torch.quantize_per_tensor(noise(2), 0.1, 0, torch.qint8)}


DTYPES = ("bool", "int8", "int16", "uint16", "uint32", "uint64", "complex64", "float8_e4m3fn", "float8_e5m2")
UNREAD = (*DTYPES, "sparse", "quantized")

CASES = {"plain": plain, "nested": nested, "dtypes": dtypes, "strided": strided, "shared": shared, "odd": odd}
CASES |= {"beside": beside, "lacking": lacking, "attributes": attributes}
CASES["module alone"] = lambda: nn.Sequential(nn.Linear(2, 2))
CASES["module inside"] = lambda: {"epoch": 1, "model": nn.Sequential(nn.Linear(2, 2))}
CASES["two"] = lambda: {"a": plain(), "b": {"weight": noise(2)}}
CASES["one weight"] = lambda: {"weight": noise(3, 4)}
CASES["large"] = lambda: {"x": torch.tensor([1.0, 7e4])}
CASES["module."] = lambda: {"module." + name: value for name, value in plain().items()}
CASES["Scale."] = lambda: {"state_dict": {"module.Scale." + name: value for name, value in plain().items()}}


def expected(case):
    state = CASES[case]()
    state = state.get("state_dict", state)
    return {
        name.removeprefix("module.").removeprefix("Scale."): value.detach()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name not in UNREAD
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


class MultiLevel(networks.DeepLabV2):
    """DeepLab-v2 of AdaptSegNet and ADVENT: an auxiliary head on layer3, and on layer4 the one that predicts."""

    def __init__(self, multiLevel=True, **options):
        super().__init__(**options)
        self.layer6 = self.layer5
        last = self.layer3[-1].bn2
        self.layer5 = networks.Head(last.num_features, options["classCount"], 4) if multiLevel else None

    def with_features(self, x):
        features = self.features(x)
        return features, self.layer6(features)


class Split(nn.Module):
    """DeepLab-v2 of the Transfer Learning Library: a backbone and a classifier."""

    def __init__(self, **options):
        super().__init__()
        self.backbone = networks.DeepLabV2(**options)
        self.classifier = self.backbone.layer5
        self.backbone.layer5 = None

    def forward(self, x):
        return self.classifier(self.backbone.features(x))


networks.KINDS |= {"multi-level": MultiLevel, "split": Split}


def foreign_forward(request):
    """How far a network's logits are from those of the module that its weights were saved from."""
    module = networks.build(request["network"])
    prefix = request.get("prefix", "")
    state = torch.load(request["pth"], weights_only=True)
    module.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()}, strict=True)
    case = tensors.read(request["case"])
    with torch.no_grad():
        return tensors.spread_error(case["output"], module.eval()(case["input"]))


def save_shapes(request):
    """A state dict of zeros with these names and shapes."""
    torch.save({name: torch.zeros(shape) for name, shape in request["shapes"].items()}, request["file"])


def save_found(request):
    """A state dict under an unusual key, beside another one, a namespace and, in it, a mask of booleans."""
    module = networks.build(request["network"])
    state = module.state_dict() | {"mask": torch.ones(2, dtype=torch.bool)}
    if "lacking" in request:
        state[request["lacking"]] = state[request["lacking"]].to(torch.int8)
    discriminator = networks.build({"kind": "feature-discriminator", "options": {"featureCount": 3, "baseWidth": 1}})
    rest = {"args": argparse.Namespace(lr=0.1), "discriminator": {"d." + n: v for n, v in discriminator.state_dict().items()}}
    torch.save({"trained": state} | rest, request["file"])
