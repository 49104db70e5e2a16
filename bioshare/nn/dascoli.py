"""The two convolutional networks of d'Ascoli, Sagun, Bruna and Biroli (2019), Sec. 4 and Appendix B."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from bioshare.checks import choice, shown, whole

DAscoliName = Literal["vanilla", "alexnet"]
Convolution = tuple[int, int, int, int, bool]

CONVOLUTIONS: dict[str, list[Convolution]] = {
    "vanilla": [(4, 1, 2, 2, True), (5, 1, 1, 2, True), (3, 1, 1, 1, True)],
    "alexnet": [(4, 1, 2, 2, True), (5, 3, 1, 2, True), (3, 6, 1, 1, False), (3, 4, 1, 1, False), (3, 4, 1, 1, True)],
}
"""Kernel, channels in units of the first layer's, stride, padding, and whether pooling follows."""


def dascoli(
    name: DAscoliName = "vanilla",
    num_classes: int = 10,
    input_size: tuple[int, int, int] = (3, 32, 32),
    channels: int = 64,
) -> nn.Sequential:
    """Make a network by name, for images of any size; weights start from PyTorch's default initialisation.

    "vanilla" is the paper's VanillaCNN: 4 x 4 kernels with stride 2 and padding 2, 5 x 5 with padding 2, 3 x 3 with
    padding 1, each with ReLU and 3 x 3 pooling with stride 2, and a linear layer. "alexnet" has five convolutions, and
    dropout before two of the three linear layers. The numbers of positions for 32 x 32 pixels are 17^2 = 289, 8^2 = 64
    and 3^2 = 9. Images of fewer than 3 x 3 pixels are not pooled.

    Args:
        name: name of the network.
        num_classes: number of scores.
        input_size: (channels, rows, columns).
        channels: channels of the first convolution, from which all others scale; 64 in the paper.

    Example:
        >>> sum(p.numel() for p in dascoli().parameters())
        143178
    """
    choice("name", name, get_args(DAscoliName))
    whole("num_classes", num_classes, "a whole number", at_least=1)
    whole("channels", channels, "a number of channels", at_least=1)
    if not isinstance(input_size, tuple | list) or len(input_size) != 3:
        raise TypeError(f"input_size must be (channels, rows, columns); got {shown(input_size)}")
    inputs, *size = (whole("input_size", n, "(channels, rows, columns)", at_least=1) for n in input_size)
    layers = nn.Sequential()
    for kernel, factor, stride, padding, pools in CONVOLUTIONS[name]:
        layers.extend([nn.Conv2d(inputs, channels * factor, kernel, stride, padding), nn.ReLU()])
        inputs, size = channels * factor, [(n + 2 * padding - kernel) // stride + 1 for n in size]
        if pools and min(size) >= 3:
            layers.append(nn.MaxPool2d(3, 2))
            size = [(n - 3) // 2 + 1 for n in size]
    layers.append(nn.Flatten())
    features = inputs * size[0] * size[1]
    if name == "alexnet":
        for _ in range(2):
            layers.extend([nn.Dropout(), nn.Linear(features, 8 * channels), nn.ReLU()])
            features = 8 * channels
    layers.append(nn.Linear(features, num_classes))
    return layers
