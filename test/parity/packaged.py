"""Files of the Python package safetensors, and what that package makes of ours. It is imported where it is needed: the
other tests do without it."""

import torch

import checkpoints
import networks


def contiguous(state):
    # The package refuses views and tensors that share their memory.
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def write(request):
    from safetensors.torch import save_file

    state = contiguous(checkpoints.expected(request["case"]))
    save_file(state, request["file"], request.get("metadata"))


def differences(file, twin):
    """How many tensors there are, and the names of those that differ in name, dtype, shape or any bit."""
    from safetensors.torch import load_file

    ours = load_file(file)
    same = [name for name in twin if name in ours and checkpoints.bits(ours[name]) == checkpoints.bits(twin[name])]
    return {"count": len(twin), "different": sorted((ours.keys() | twin.keys()) - set(same))}


def compare(request):
    found = differences(request["file"], checkpoints.expected(request["case"]))
    return found | {"metadata": metadata(request)}


def metadata(request):
    from safetensors import safe_open

    with safe_open(request["file"], "pt") as file:
        return file.metadata()


def odd_dtypes(request):
    """A file for each dtype that bidiseg has no tensors of."""
    from safetensors.torch import save_file

    names = ("bool", "int8", "int16", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "complex64")
    for name in names:
        odd = torch.zeros(4, 3).to(getattr(torch, name))
        save_file({"odd.weight": odd} | checkpoints.expected("one weight"), f"{request['file']}-{name}")
    return names


def random_state(network, seed):
    module = networks.build(network)
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.fill_(len(name))
    return state


def save_state(request):
    from safetensors.torch import save_file

    state = random_state(request["network"], request["seed"])
    state = {name: v for name, v in state.items() if not name.endswith(tuple(request.get("without", [])))}
    save_file(state, request["file"])
    return len(state)


def compare_state(request):
    """Whether a twin takes our file with nothing missing or left over, and how it differs from saveState's."""
    from safetensors.torch import load_file

    with torch.device("meta"):
        module = networks.build(request["network"])
    module.load_state_dict(load_file(request["file"]), strict=True, assign=True)
    twin = random_state(request["network"], request["seed"])
    if "dtype" in request:
        dtype = getattr(torch, request["dtype"])
        twin = {name: value.to(dtype) if value.is_floating_point() else value for name, value in twin.items()}
    ours = module.state_dict()
    same = [name for name in twin if ours[name].dtype == twin[name].dtype and torch.equal(ours[name], twin[name])]
    return {"count": len(ours), "different": sorted(twin.keys() - set(same))}
