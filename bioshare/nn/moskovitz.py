"""The five networks of Moskovitz, Litwin-Kumar and Abbott (2018), Sec. 3: plain, with ReLU, without normalisation."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import nn

from bioshare.checks import choice, flag, shown, whole

PlainName = Literal["mnist", "cifar-1", "cifar-2", "imagenet-1", "imagenet-2"]

LAYERS: dict[str, str] = {
    "mnist": "5x32 pool 5x64 pool 1024 drop0.5",
    "cifar-1": "5x64 pool 5x64 pool 384 192",
    "cifar-2": "drop0.2 3x96 3x96 3x96/2 drop0.5 3x192 3x192 3x192/2 drop0.5 3x192 1x192 mean",
    "imagenet-1": "9x192/2 pool 5x192/2 pool 512 512",
    "imagenet-2": "9x192/4 3x192/2 3x192/3 5x256/2 3x256 3x256/2 3x512 1x512 mean",
}
"""Layers before the last: kernel x channels / stride, 2 x 2 pooling, units of a dense layer, dropout; with "mean", the
last layer is a 1 x 1 convolution with ReLU, whose scores are averaged over positions."""


def moskovitz(
    name: PlainName, num_classes: int = 10, input_size: tuple[int, int, int] = (3, 32, 32), dropout: bool = True
) -> nn.Sequential:
    """Make a network by name, for images of any size.

    The sizes of the paper's images are 28 x 28 ("mnist"), 24 x 24 ("cifar-1"), 32 x 32 ("cifar-2") and 299 x 299
    pixels. Convolutions and pooling pad as TensorFlow's "SAME", the only padding with the paper's sizes before the last
    pooling: the output has ceil(size / stride) rows and columns; an odd row of zeros lies below, an odd column on the
    right.

    Weights start from N(0, 1 / inputs) of a neuron (the forward half of the paper's feedback initialisation, Sec. 4),
    from PyTorch's default generator; biases at 0.

    Args:
        name: name of the network.
        num_classes: number of scores.
        input_size: (channels, rows, columns).
        dropout: False to leave out dropout.

    Example:
        >>> sum(p.numel() for p in moskovitz("cifar-1", input_size=(3, 24, 24)).parameters())
        1068298
    """
    choice("name", name, get_args(PlainName))
    whole("num_classes", num_classes, "a whole number", at_least=1)
    flag("dropout", dropout)
    if not isinstance(input_size, tuple | list) or len(input_size) != 3:
        raise TypeError(f"input_size must be (channels, rows, columns); got {shown(input_size)}")
    channels, *size = (whole("input_size", n, "(channels, rows, columns)", at_least=1) for n in input_size)
    layers, flat = nn.Sequential(), False

    def convolution(kernel: int, outputs: int, stride: int) -> None:
        layers.append(_same_padding(size, kernel, stride))
        layers.append(nn.Conv2d(channels, outputs, kernel, stride))
        size[:] = [-(-n // stride) for n in size]

    for word in LAYERS[name].split():
        if word == "pool":
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            size[:] = [-(-n // 2) for n in size]
        elif word == "mean":
            convolution(1, num_classes, 1)
            layers.extend([nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        elif word.startswith("drop"):
            layers.extend([nn.Dropout(float(word.removeprefix("drop")))] if dropout else [])
        elif "x" in word:
            kernel, _, rest = word.partition("x")
            outputs, _, stride = rest.partition("/")
            convolution(int(kernel), int(outputs), int(stride or 1))
            layers.append(nn.ReLU())
            channels = int(outputs)
        else:
            layers.extend([] if flat else [nn.Flatten()])
            inputs, flat = (channels if flat else channels * math.prod(size)), True
            channels = int(word)
            layers.extend([nn.Linear(inputs, channels), nn.ReLU()])
    if flat:
        layers.append(nn.Linear(channels, num_classes))
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, math.prod(layer.weight.shape[1:]) ** -0.5)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType] (all have a bias)
    return layers


def _same_padding(size: list[int], kernel: int, stride: int) -> nn.Module:
    """Zeros around an image so that a kernel with a stride has ceil(size / stride) positions."""
    rows, columns = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in size)
    return nn.ZeroPad2d((columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)))
