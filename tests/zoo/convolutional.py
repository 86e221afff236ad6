"""Small convolutional networks in torch, one for each way in which published architectures connect channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Pooled(nn.Module):
    """A feature extractor, a global average pool and a classifier."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return y


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(72, 10), nn.Sigmoid(), nn.Linear(10, 5)),
    )


def vgg_bn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 6), (6, 8), (8, 10)):
        layers += [*conv_bn(inputs, outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if outputs > inputs > 3 else []
    head = nn.Linear(160, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5)
    return nn.Sequential(*layers, nn.Flatten(), *head)


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.second = conv_bn(outputs, outputs)
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class OptionA(Basic):
    """The shortcut takes every second position and pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.missing = outputs - inputs
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, ::2, ::2] if self.missing else x
        shortcut = F.pad(kept, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return F.relu(self.second(F.relu(self.first(x))) + shortcut)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, groups: int = 1, stride: int = 1) -> None:
        super().__init__()
        narrow, wide = conv_bn(inputs, middle, 1), conv_bn(middle, middle, 3, stride, groups)
        self.body = nn.Sequential(narrow, nn.ReLU(), wide, nn.ReLU(), conv_bn(middle, outputs, 1))
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet_basic() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 6), nn.ReLU(), Basic(6, 6, 1), Basic(6, 10, 2), Basic(10, 10, 1)), 10)


def resnet_option_a() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 6), nn.ReLU(), OptionA(6, 6, 1), OptionA(6, 12, 2), OptionA(12, 12, 1)), 12)


def resnet_bottleneck() -> nn.Module:
    stem = conv_bn(3, 6), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    return Pooled(
        nn.Sequential(*stem, Bottleneck(6, 4, 12), Bottleneck(12, 4, 12), Bottleneck(12, 6, 16, stride=2)), 16
    )


def resnext() -> nn.Module:
    stem = conv_bn(3, 6), nn.ReLU()
    return Pooled(nn.Sequential(*stem, Bottleneck(6, 8, 12, groups=4), Bottleneck(12, 8, 12, groups=2)), 12)


class Inverted(nn.Module):
    """MobileNetV2: widen, depthwise, narrow without an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide, self.residual = inputs * 3, inputs == outputs
        depthwise = conv_bn(wide, wide, 3, stride, groups=wide)
        self.body = nn.Sequential(
            conv_bn(inputs, wide, 1), nn.ReLU6(), depthwise, nn.ReLU6(), conv_bn(wide, outputs, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def mobilenet_v2() -> nn.Module:
    stem = conv_bn(3, 4, 3, 2), nn.ReLU6()
    return Pooled(nn.Sequential(*stem, Inverted(4, 4, 1), Inverted(4, 6, 2), Inverted(6, 6, 1)), 6)


class Shuffled(nn.Module):
    """ShuffleNetV2: half of the channels pass, half are convolved, then both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        depthwise = conv_bn(half, half, 3, 1, groups=half)
        self.branch = nn.Sequential(conv_bn(half, half, 1), nn.ReLU(), depthwise, conv_bn(half, half, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = x.chunk(2, dim=1)
        joined = torch.cat((passed, self.branch(changed)), dim=1)
        n, c, h, w = joined.shape
        return joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    stem, last = (conv_bn(3, 8, 3, 2), nn.ReLU()), (conv_bn(8, 10, 1), nn.ReLU())
    return Pooled(nn.Sequential(*stem, Shuffled(8), Shuffled(8), *last), 10)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), *conv_bn(inputs, 8, 1), nn.ReLU())
        self.last = nn.Conv2d(8, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.last(self.body(x))), dim=1)


def densenet() -> nn.Module:
    transition = nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 7, 1), nn.AvgPool2d(2)
    end = nn.BatchNorm2d(11), nn.ReLU()
    stem = nn.Conv2d(3, 6, 3, padding=1)
    return Pooled(nn.Sequential(stem, DenseLayer(6, 4), DenseLayer(10, 4), *transition, DenseLayer(7, 4), *end), 11)


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = conv_bn(inputs, 4, 1)
        self.three = nn.Sequential(conv_bn(inputs, 4, 1), nn.ReLU(), conv_bn(4, 6, 3))
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat((self.one(x), self.three(x), self.pooled(x)), dim=1))


def inception() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 6), nn.ReLU(), Inception(6), nn.MaxPool2d(2), Inception(14)), 14)


class SqueezeExcite(nn.Module):
    """The block of EfficientNet: widen, depthwise, a gate for each channel, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = width * 2
        depthwise = conv_bn(wide, wide, 3, 1, groups=wide)
        self.widen = nn.Sequential(conv_bn(width, wide, 1), nn.SiLU(), depthwise, nn.SiLU())
        self.gate = nn.Sequential(nn.Conv2d(wide, 4, 1), nn.SiLU(), nn.Conv2d(4, wide, 1), nn.Sigmoid())
        self.narrow = conv_bn(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.widen(x)
        return x + self.narrow(wide * self.gate(F.adaptive_avg_pool2d(wide, 1)))


def efficientnet() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 6, 3, 2), nn.SiLU(), SqueezeExcite(6), SqueezeExcite(6)), 6)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.scale * self.mlp(rows).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return Pooled(nn.Sequential(nn.Conv2d(3, 6, 2, 2), ConvNeXtBlock(6), ConvNeXtBlock(6)), 6)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_bn(3, 6), nn.ReLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), conv_bn(6, 8), nn.ReLU())
        self.bottom = nn.Sequential(nn.MaxPool2d(2), conv_bn(8, 10), nn.ReLU())
        self.up2 = nn.ConvTranspose2d(10, 8, 2, 2)
        self.join2 = nn.Sequential(conv_bn(16, 8), nn.ReLU())
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 6, 1))
        self.join1 = nn.Sequential(conv_bn(12, 6), nn.ReLU())
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(one)
        joined = self.join2(torch.cat((two, self.up2(self.bottom(two))), dim=1))
        y: Tensor = self.head(self.join1(torch.cat((one, self.up1(joined)), dim=1)))
        return y


class Yolo(nn.Module):
    """A backbone with a C2f-like split, an upsampled neck and two heads whose boxes are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.SiLU())
        self.branch = nn.Sequential(conv_bn(4, 4), nn.SiLU())
        self.down = nn.Sequential(conv_bn(12, 8, 3, 2), nn.SiLU())
        self.neck = nn.Sequential(conv_bn(20, 8, 1), nn.SiLU())
        self.heads = nn.ModuleList([nn.Conv2d(8, 3 * 7, 1), nn.Conv2d(8, 3 * 7, 1)])

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        one, two = stem.split((4, 4), dim=1)
        large = torch.cat((one, two, self.branch(two)), dim=1)
        small = self.down(large)
        large = self.neck(torch.cat((large, F.interpolate(small, scale_factor=2.0, mode="nearest")), dim=1))
        rows = []
        for head, features in zip(self.heads, (large, small), strict=True):
            boxes = head(features)
            n, _, h, w = boxes.shape
            rows.append(boxes.view(n, 3, 7, h, w).permute(0, 1, 3, 4, 2).reshape(n, -1, 7).sigmoid())
        return torch.cat(rows, dim=1)


class Decoded(nn.Module):
    """A detector whose boxes are decoded inside: pooled pyramids, a split trunk, for each side of a box the mean of a
    distribution, and anchors from the sizes of the maps; as YOLOv8."""

    bins, classes = 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.SiLU())
        self.split = nn.Sequential(conv_bn(8, 8, 1), nn.SiLU())
        self.inner = nn.Sequential(conv_bn(4, 4), nn.SiLU(), conv_bn(4, 4), nn.SiLU())
        self.join = nn.Sequential(conv_bn(12, 8, 1), nn.SiLU())
        self.narrow, self.pool = conv_bn(8, 4, 1), nn.MaxPool2d(5, 1, 2)
        self.spread = nn.Sequential(conv_bn(16, 10, 1), nn.SiLU())
        self.down = nn.Sequential(conv_bn(10, 10, 3, 2), nn.SiLU())
        self.boxes = nn.ModuleList(
            nn.Sequential(conv_bn(10, 6), nn.SiLU(), nn.Conv2d(6, 4 * self.bins, 1)) for _ in (0, 1)
        )
        self.scores = nn.ModuleList(
            nn.Sequential(conv_bn(10, 7), nn.SiLU(), nn.Conv2d(7, self.classes, 1)) for _ in (0, 1)
        )
        self.mean = nn.Conv2d(self.bins, 1, 1, bias=False)
        self.mean.weight.data[:] = torch.arange(self.bins).view(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.split(self.stem(x)).chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        pooled = [self.narrow(self.join(torch.cat(parts, 1)))]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        large = self.spread(torch.cat(pooled, 1))
        maps = [
            torch.cat((box(level), score(level)), 1)
            for box, score, level in zip(self.boxes, self.scores, (large, self.down(large)), strict=True)
        ]
        rows = torch.cat([one.view(one.shape[0], 4 * self.bins + self.classes, -1) for one in maps], 2)
        sides, scores = rows.split((4 * self.bins, self.classes), 1)
        n, _, places = sides.shape
        sides = self.mean(sides.view(n, 4, self.bins, places).transpose(2, 1).softmax(1)).view(n, 4, places)
        low, high = sides.chunk(2, 1)
        anchors = torch.cat([self.anchors(one) for one in maps], 1)
        return torch.cat(((anchors - low + anchors + high) / 2, high + low, scores.sigmoid()), 1)

    def anchors(self, level: Tensor) -> Tensor:
        y, x = torch.meshgrid(torch.arange(level.shape[2]), torch.arange(level.shape[3]), indexing="ij")
        return torch.stack((x.flatten(), y.flatten())) + 0.5


def pixel_shuffle() -> nn.Module:
    """Super-resolution: channels become positions."""
    first = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 24, 3, padding=1), nn.PixelShuffle(2)
    return nn.Sequential(*first, nn.ReLU(), nn.Conv2d(6, 12, 3, padding=1), nn.PixelShuffle(2))


def autoencoder() -> nn.Module:
    encoder = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()
    decoder = nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 3, 2, 1, 1), nn.Sigmoid()
    return nn.Sequential(*encoder, *decoder)


def cnn_1d() -> nn.Module:
    first = nn.Conv1d(4, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2)
    second = nn.Conv1d(6, 8, 3, padding=2, dilation=2), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool1d(1)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(8, 5))
