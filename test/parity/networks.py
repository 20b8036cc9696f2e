"""PyTorch twins of the networks, written from their description."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def scaled(channels, width):
    return max(1, math.floor(channels * width + 0.5))


class Residual(nn.Module):
    def __init__(self, convolutions, shortcut):
        super().__init__()
        self.count = len(convolutions)
        for i, (in_channels, out_channels, kernel, stride, dilation) in enumerate(convolutions, 1):
            padding = dilation * (kernel - 1) // 2
            conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(out_channels))
        self.downsample = shortcut

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Head(nn.Module):
    def __init__(self, in_channels, classes, branches):
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, classes, 3, padding=d, dilation=d) for d in (6, 12, 18, 24)
        )
        self.branches = branches

    def forward(self, x):
        return sum(conv(x) for conv in list(self.conv2d_list)[: self.branches])


class DeepLabV2(nn.Module):
    DEPTHS = {
        "resnet18": (2, 2, 2, 2),
        "resnet34": (3, 4, 6, 3),
        "resnet50": (3, 4, 6, 3),
        "resnet101": (3, 4, 23, 3),
    }

    def __init__(self, backbone="resnet101", width=1.0, branches=4, classCount=19, bottleneckStride="first"):
        super().__init__()
        bottleneck = backbone in ("resnet50", "resnet101")
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        plan = zip((64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), self.DEPTHS[backbone])
        for layer, (planes, stride, dilation, depth) in enumerate(plan, 1):
            planes = scaled(planes, width)
            out = planes * 4 if bottleneck else planes
            blocks = []
            for i in range(depth):
                s = stride if i == 0 else 1
                if bottleneck:
                    first, middle = (s, 1) if bottleneckStride == "first" else (1, s)
                    convolutions = [
                        (channels, planes, 1, first, 1),
                        (planes, planes, 3, middle, dilation),
                        (planes, out, 1, 1, 1),
                    ]
                else:
                    convolutions = [(channels, planes, 3, s, dilation), (planes, planes, 3, 1, dilation)]
                shortcut = None
                if i == 0 and (s != 1 or channels != out or dilation > 1):
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, out, 1, s, bias=False), nn.BatchNorm2d(out)
                    )
                blocks.append(Residual(convolutions, shortcut))
                channels = out
            setattr(self, f"layer{layer}", nn.Sequential(*blocks))
        self.layer5 = Head(channels, classCount, branches)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.requires_grad_(False)
                module.bias.requires_grad_(False)

    def features(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1, ceil_mode=True)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def with_features(self, x):
        features = self.features(x)
        return features, self.layer5(features)

    def forward(self, x):
        return self.with_features(x)[1]


class DeepLabVgg16(nn.Module):
    """DeepLab-v2 on VGG-16: the last two poolings keep the size, and conv5 has a dilation instead of their strides."""

    STAGES = ((64, 2, 1), (128, 2, 1), (256, 3, 1), (512, 3, 1), (512, 3, 2))

    def __init__(self, width=1.0, branches=4, classCount=19):
        super().__init__()
        channels = 3
        for stage, (planes, depth, dilation) in enumerate(self.STAGES, 1):
            for i in range(1, depth + 1):
                conv = nn.Conv2d(channels, scaled(planes, width), 3, padding=dilation, dilation=dilation)
                setattr(self, f"conv{stage}_{i}", conv)
                channels = conv.out_channels
        self.layer5 = Head(channels, classCount, branches)

    def with_features(self, x):
        for stage, (_, depth, _) in enumerate(self.STAGES, 1):
            for i in range(1, depth + 1):
                x = F.relu(getattr(self, f"conv{stage}_{i}")(x))
            x = F.max_pool2d(x, 2, ceil_mode=True) if stage < 4 else F.max_pool2d(x, 3, 1, 1)
        return x, self.layer5(x)

    def forward(self, x):
        return self.with_features(x)[1]


class SeededDropout(nn.Module):
    """Half of the channels of each image are 0, the others twice what they were. Which ones, its own generator says: in
    training mode every pass draws one number for each image and channel."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def forward(self, x):
        if not self.training:
            return x
        keep = torch.empty(*x.shape[:2], 1, 1, device="cpu").bernoulli_(0.5, generator=self.generator)
        return x * 2 * keep.to(x)


class Fcn8s(nn.Module):
    STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

    def __init__(self, width=1.0, classCount=19, seed=1):
        super().__init__()
        channels = 3
        for stage, (planes, depth) in enumerate(self.STAGES, 1):
            planes = scaled(planes, width)
            for i in range(1, depth + 1):
                padding = 100 if stage == i == 1 else 1
                setattr(self, f"conv{stage}_{i}", nn.Conv2d(channels, planes, 3, padding=padding))
                channels = planes
        hidden = scaled(4096, width)
        self.fc6 = nn.Conv2d(channels, hidden, 7)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.dropout = SeededDropout(seed)
        self.score_fr = nn.Conv2d(hidden, classCount, 1)
        self.score_pool3 = nn.Conv2d(scaled(256, width), classCount, 1)
        self.score_pool4 = nn.Conv2d(scaled(512, width), classCount, 1)
        for name, kernel in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
            up = nn.ConvTranspose2d(classCount, classCount, kernel, kernel // 2, bias=False)
            up.weight.requires_grad_(False)
            setattr(self, name, up)

    def forward(self, image):
        return self.with_features(image)[1]

    def with_features(self, image):
        x, pools = image, []
        for stage, (_, depth) in enumerate(self.STAGES, 1):
            for i in range(1, depth + 1):
                x = F.relu(getattr(self, f"conv{stage}_{i}")(x))
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            pools.append(x)
        x = self.dropout(F.relu(self.fc6(x)))
        features = self.dropout(F.relu(self.fc7(x)))
        x = self.upscore2(self.score_fr(features))
        x = x + self.crop(self.score_pool4(0.01 * pools[3]), 5, x)
        x = self.upscore_pool4(x)
        x = x + self.crop(self.score_pool3(0.0001 * pools[2]), 9, x)
        return features, self.crop(self.upscore8(x), 31, image)

    @staticmethod
    def crop(x, offset, like):
        height, width = like.shape[2:]
        return x[:, :, offset : offset + height, offset : offset + width]


def bilinear_filter(kernel):
    """The interpolating filter of a transposed convolution with stride kernel / 2."""
    factor = kernel / 2
    line = [1 - abs(i + 0.5 - factor) / factor for i in range(kernel)]
    return torch.tensor([[a * b for b in line] for a in line])


class GeneratorBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels),
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv_block(x)


class ResizeConvolution(nn.Conv2d):
    """Doubles the size by nearest neighbors and convolves."""

    def forward(self, x):
        return super().forward(nn.functional.pad(nn.functional.interpolate(x, scale_factor=2), (1, 1, 1, 1), "reflect"))


class Generator(nn.Module):
    def __init__(self, blocks=9, baseWidth=64, upsampling="transposed"):
        super().__init__()
        w = baseWidth
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), nn.InstanceNorm2d(w), nn.ReLU()]
        for a, b in ((w, 2 * w), (2 * w, 4 * w)):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.InstanceNorm2d(b), nn.ReLU()]
        layers += [GeneratorBlock(4 * w) for _ in range(blocks)]
        for a, b in ((4 * w, 2 * w), (2 * w, w)):
            transposed = upsampling == "transposed"
            up = nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1) if transposed else ResizeConvolution(a, b, 3)
            layers += [up, nn.InstanceNorm2d(b), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh())

    def forward(self, x):
        return self.model(x)


class UNetLevel(nn.Module):
    """Down, what is within, and up again, beside what came in."""

    def __init__(self, outside, inside, within, outermost):
        super().__init__()
        down = nn.Conv2d(outside, inside, 4, 2, 1)
        up = nn.ConvTranspose2d(inside if within is None else 2 * inside, outside, 4, 2, 1)
        self.outermost = outermost
        if outermost:
            layers = [down, within, nn.ReLU(), up, nn.Tanh()]
        elif within is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.InstanceNorm2d(outside)]
        else:
            layers = [nn.LeakyReLU(0.2), down, nn.InstanceNorm2d(inside), within]
            layers += [nn.ReLU(), up, nn.InstanceNorm2d(outside)]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UNet(nn.Module):
    def __init__(self, depth=8, baseWidth=64):
        super().__init__()
        channels = [3] + [baseWidth * min(2**i, 8) for i in range(depth)]
        level = None
        for i in range(depth - 1, -1, -1):
            level = UNetLevel(channels[i], channels[i + 1], level, i == 0)
        self.model = level

    def forward(self, x):
        return self.model(x)


class FeatureDiscriminator(nn.Module):
    def __init__(self, featureCount=2048, baseWidth=64):
        super().__init__()
        self.conv1 = nn.Conv2d(featureCount, 8 * baseWidth, 1)
        self.conv2 = nn.Conv2d(8 * baseWidth, 8 * baseWidth, 1)
        self.classifier = nn.Conv2d(8 * baseWidth, 1, 1)

    def forward(self, x):
        return self.classifier(F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2))


class PatchDiscriminator(nn.Module):
    def __init__(self, baseWidth=64, inputChannels=3):
        super().__init__()
        w = baseWidth
        layers = [nn.Conv2d(inputChannels, w, 4, 2, 1), nn.LeakyReLU(0.2)]
        for a, b, stride in ((w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 8 * w, 1)):
            layers += [nn.Conv2d(a, b, 4, stride, 1), nn.InstanceNorm2d(b), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(8 * w, 1, 4, 1, 1))

    def forward(self, x):
        return self.model(x)


class OutputDiscriminator(nn.Module):
    def __init__(self, classCount=19, baseWidth=64):
        super().__init__()
        channels = [classCount] + [baseWidth << i for i in range(4)]
        for i in range(4):
            setattr(self, f"conv{i + 1}", nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1))
        self.classifier = nn.Conv2d(channels[4], 1, 4, 2, 1)

    def forward(self, x):
        for i in range(1, 5):
            x = F.leaky_relu(getattr(self, f"conv{i}")(x), 0.2)
        return self.classifier(x)


KINDS = {
    "deeplab-v2": DeepLabV2,
    "fcn-8s": Fcn8s,
    "resnet-generator": Generator,
    "unet-generator": UNet,
    "feature-discriminator": FeatureDiscriminator,
    "patch-discriminator": PatchDiscriminator,
    "output-discriminator": OutputDiscriminator,
}


def build(network):
    """From { kind, options }."""
    options = dict(network.get("options", {}))
    if options.get("backbone") == "vgg16":
        del options["backbone"]
        return DeepLabVgg16(**options)
    return KINDS[network["kind"]](**options)


def load(network, state):
    """The network with these weights, in their dtype. The tensors become the module's own."""
    with torch.device("meta"):
        module = build(network)
    module.load_state_dict(state, strict=True, assign=True)
    return module
