"""The ImageNet classifiers of torchvision, written from their description: what they compute from a state dict."""

import re

import torch
import torch.nn.functional as F

import tensors

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
DEVIATION = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
# What a segmenter's zero is in this scale: the mean of Caffe, as R, G, B.
CAFFE = torch.tensor([122.67891434, 116.66876762, 104.00698793], dtype=torch.float64)

VGG = {
    "vgg16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    "vgg19": (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"),
}
RESNET = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
CAFFE_NAMES = [f"conv{stage}_{i}" for stage, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1)]


class Weights(dict):
    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def convolution(self, name, outputs, inputs, kernel, bias=False):
        self[f"{name}.weight"] = self.random(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
        if bias:
            self[f"{name}.bias"] = 0.2 * self.random(outputs)

    def linear(self, name, outputs, inputs):
        self[f"{name}.weight"] = self.random(outputs, inputs) * (2 / inputs) ** 0.5
        self[f"{name}.bias"] = 0.2 * self.random(outputs)

    def norm(self, name, channels):
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            self[f"{name}.{part}"] = torch.rand(channels, generator=self.generator) + low
        self[f"{name}.num_batches_tracked"] = torch.tensor(3)


def vgg(kind, width, norms, classifier, seed):
    state = Weights(seed)
    index, channels = 0, 3
    for planes in VGG[kind]:
        if planes == "M":
            index += 1
            continue
        planes = int(planes * width)
        state.convolution(f"features.{index}", planes, channels, 3, bias=True)
        if norms:
            state.norm(f"features.{index + 1}", planes)
        index += 3 if norms else 2
        channels = planes
    if classifier:
        hidden = int(4096 * width)
        state.linear("classifier.0", hidden, channels * 49)
        state.linear("classifier.3", hidden, hidden)
        state.linear("classifier.6", 1000, hidden)
    return state


def resnet(kind, width, groups, variance, seed):
    state = Weights(seed)
    depths, bottleneck = RESNET[kind]
    channels = int(64 * width)
    state.convolution("conv1", channels, 3, 7)
    state.norm("bn1", channels)
    for layer, depth in enumerate(depths):
        planes = int((64 << layer) * width)
        out = planes * 4 if bottleneck else planes
        for block in range(depth):
            name = f"layer{layer + 1}.{block}"
            shapes = [(planes, channels, 3), (planes, planes, 3)]
            if bottleneck:
                shapes = [(planes, channels, 1), (planes, planes // groups, 3), (out, planes, 1)]
            for i, shape in enumerate(shapes, 1):
                state.convolution(f"{name}.conv{i}", *shape)
                state.norm(f"{name}.bn{i}", shape[0])
            if block == 0 and (layer > 0 or bottleneck):
                state.convolution(f"{name}.downsample.0", out, channels, 1)
                state.norm(f"{name}.downsample.1", out)
            channels = out
    state.linear("fc", 1000, channels)
    state["bn1.running_var"] *= variance
    return state


def keras(state):
    """Caffe's state with the names and layouts of Keras: height, width, inputs, outputs."""
    found = {}
    for name, value in state.items():
        layer, part = name.split(".")
        conv = re.fullmatch(r"conv(\d)_(\d)", layer)
        fully = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
        own = f"block{conv[1]}_conv{conv[2]}" if conv else fully[layer]
        if part == "weight" and conv:
            value = value.permute(2, 3, 1, 0).contiguous()
        elif part == "weight":
            side = 7 if layer == "fc6" else 1
            value = value.reshape(len(value), -1, side, side).permute(2, 3, 1, 0).reshape(-1, len(value)).contiguous()
        found[f"{own}/{'kernel' if part == 'weight' else 'bias'}"] = value
    return found


def save(request):
    """A state dict of random weights with the names of torchvision, of Caffe or, from these, of Keras."""
    kind, width, seed = request["kind"], request["width"], request.get("seed", 1)
    if kind.startswith("vgg"):
        state = vgg(kind, width, request.get("norms", False), request.get("classifier", True), seed)
    else:
        state = resnet(kind, width, request.get("groups", 1), request.get("variance", 1), seed)
    if request.get("caffe"):
        order = list(dict.fromkeys(name.rpartition(".")[0] for name in state if name.startswith("features.")))
        names = dict(zip(order, CAFFE_NAMES, strict=True)) | {f"classifier.{i}": f"fc{6 + i // 3}" for i in (0, 3, 6)}
        state = {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": value for n, value in state.items()}
    if request.get("keras"):
        state = keras(state)
    if "dtype" in request:
        dtype = getattr(torch, request["dtype"])
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    torch.save({request.get("prefix", "") + name: value for name, value in state.items()}, request["file"])


def padded(x, border, value):
    """With this color around it."""
    frame = value.reshape(1, 3, 1, 1).expand(x.shape[0], 3, x.shape[2] + 2 * border, x.shape[3] + 2 * border).clone()
    frame[:, :, border:-border, border:-border] = x
    return frame


def norm(state, name, x):
    mean, var, weight, bias = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def vgg_features(state, x, color):
    """Of VGG-16 at every place where its input of 7x7 fits, for an image with 100 pixels around it."""
    norms = "features.1.running_mean" in state
    index, x = 0, padded(x, 100, color)
    for planes in VGG["vgg16"]:
        if planes == "M":
            x = F.max_pool2d(x, 2)
            index += 1
            continue
        x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=int(index > 0))
        x = F.relu(norm(state, f"features.{index + 1}", x) if norms else x)
        index += 3 if norms else 2
    for name, kernel in (("classifier.0", 7), ("classifier.3", 1)):
        weight = state[f"{name}.weight"]
        x = F.relu(F.conv2d(x, weight.reshape(len(weight), -1, kernel, kernel), state[f"{name}.bias"]))
    return x


def dilated_vgg_features(state, x, color):
    """Of VGG-16 without its last two strides, as in a DeepLab-v2: a window of 3 and a dilation in their place."""
    norms = "features.1.running_mean" in state
    index, pools, x = 0, 0, padded(x, 1, color)
    for planes in VGG["vgg16"]:
        if planes == "M":
            pools += 1
            x = F.max_pool2d(x, 2, ceil_mode=True) if pools < 4 else F.max_pool2d(x, 3, 1, 1)
            index += 1
            continue
        d = 2 if pools == 4 else 1
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        x = F.conv2d(x, weight, bias, padding=d if index > 0 else 0, dilation=d)
        x = F.relu(norm(state, f"features.{index + 1}", x) if norms else x)
        index += 3 if norms else 2
    return x


def resnet_features(state, x, color):
    """Of the last layer. As in every DeepLab-v2, layer3 and layer4 have a dilation instead of a stride."""
    x = F.conv2d(padded(x, 3, color), state["conv1.weight"], stride=2)
    x = F.max_pool2d(F.relu(norm(state, "bn1", x)), 3, 2, 1)
    for layer, (layer_stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), 1):
        block = 0
        while f"layer{layer}.{block}.conv1.weight" in state:
            name, stride = f"layer{layer}.{block}", layer_stride if block == 0 else 1
            # Of the first convolution of 3x3.
            strided = 2 if f"{name}.conv3.weight" in state else 1
            y, i = x, 1
            while f"{name}.conv{i}.weight" in state:
                weight = state[f"{name}.conv{i}.weight"]
                d = dilation if weight.shape[2] == 3 else 1
                y = F.conv2d(y, weight, None, stride if i == strided else 1, d * (weight.shape[2] // 2), d)
                y = norm(state, f"{name}.bn{i}", y)
                i += 1
                if f"{name}.conv{i}.weight" in state:
                    y = F.relu(y)
            if f"{name}.downsample.0.weight" in state:
                x = norm(state, f"{name}.downsample.1", F.conv2d(x, state[f"{name}.downsample.0.weight"], None, stride))
            x = F.relu(x + y)
            block += 1
    return x


def compare(request):
    """How far features are from those of the classifier on normalized R, G, B: inside of what the frame of zeros around
    the image reaches, there and beyond it, and everywhere if the frame has the color that a segmenter's zero is."""
    state = {name: value.double() for name, value in torch.load(request["pth"], weights_only=True).items()}
    case = tensors.read(request["case"])
    x = ((case["images"].double() / 255 - MEAN) / DEVIATION).permute(0, 3, 1, 2)
    of_vgg = dilated_vgg_features if request["dilated"] else vgg_features
    features = of_vgg if "features.0.weight" in state else resnet_features
    with torch.no_grad():
        zero = features(state, x, torch.zeros(3, dtype=torch.float64))
        other = features(state, x, torch.full((3,), 50.0, dtype=torch.float64))
        same = features(state, x, (CAFFE / 255 - MEAN) / DEVIATION)
    ours, largest = case["features"].double(), zero.abs().max()
    assert ours.shape == zero.shape, f"{list(ours.shape)} is not {list(zero.shape)}"
    inside = ((zero - other).abs().amax(1, keepdim=True) < 1e-12 * largest).expand_as(zero)
    distance = (ours - zero).abs() / largest
    return {
        "places": int(inside[:, 0].sum()),
        "inside": distance[inside].max().item(),
        "everywhere": distance.max().item(),
        "framed": ((ours - same).abs().max() / same.abs().max()).item(),
    }
