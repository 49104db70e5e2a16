"""Residual networks: `cifar_resnet` for small images, `resnet18` and `resnet50` for ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu

from bioshare.checks import check_memory, flag, real, whole


def cifar_resnet(depth: int = 20, num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> ResNet:
    """Make a ResNet for CIFAR (He et al. 2015, Sec. 4.2), for images of any size from 4 x 4.

    A 3 x 3 convolution, then three stages of equally many blocks with 16, 32 and 64 channels; the second and the third
    stage halve the image.

    Args:
        depth: number of layers with weights on the longest path, 6 n + 2 for n blocks a stage: 8, 14, 20, ...
        num_classes, in_channels: number of outputs, and of channels of the images.
        width: factor of the stages' 16, 32 and 64 channels.

    Raises:
        TypeError, ValueError: depth is no 6 n + 2, width is no positive multiple of 1/16, or another argument no whole
            number of at least 1.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(8).parameters())
        78042
    """
    whole("num_classes", num_classes, "a whole number", at_least=1)
    whole("in_channels", in_channels, "a whole number", at_least=1)
    if whole("depth", depth, "6 n + 2 layers: 8, 14, 20, ...", at_least=8) % 6 != 2:
        raise ValueError(f"depth must be 6 n + 2 layers: 8, 14, 20, ...; got {depth}")
    first = _channels(16, width)
    stem = nn.Sequential(_same_convolution(in_channels, first, 3), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
    blocks = (depth - 2) // 6
    return ResNet(stem, [first, 2 * first, 4 * first], blocks=[blocks] * 3, num_classes=num_classes)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Make the paper's ResNet-20, see `cifar_resnet`.

    Example:
        >>> sum(p.numel() for p in resnet20().parameters())
        272474
    """
    return cifar_resnet(20, num_classes, in_channels=in_channels)


def resnet18(num_classes: int = 1000, width: float = 0.5, in_channels: int = 3, norm_after: bool = False) -> ResNet:
    """Make ResNet-18 for ImageNet (He et al. 2015, Table 1), by default with half of the channels, as in the paper.

    A 7 x 7 convolution with stride 2 and max pooling, then four stages of two blocks; all but the first stage halve
    the image.

    Args:
        num_classes, in_channels: number of outputs, and of channels of the images.
        width: factor of the stages' 64, 128, 256 and 512 channels.
        norm_after: normalise after the ReLU of every convolution, as Akrout et al. (2019) do, see `BasicBlock`.

    Raises:
        TypeError, ValueError: width is no positive multiple of 1/64, or another argument no whole number of at least 1.
    """
    return _imagenet_resnet(BasicBlock, (2, 2, 2, 2), num_classes, width, in_channels, norm_after)


def resnet50(num_classes: int = 1000, width: float = 1.0, in_channels: int = 3, norm_after: bool = False) -> ResNet:
    """Make ResNet-50 for ImageNet (He et al. 2015, Table 1), with `Bottleneck` blocks.

    Args:
        num_classes, in_channels, norm_after: as for `resnet18`.
        width: factor of the stages' 256, 512, 1024 and 2048 channels.

    Example:
        >>> sum(p.numel() for p in resnet50().parameters())
        25557032
    """
    return _imagenet_resnet(Bottleneck, (3, 4, 6, 3), num_classes, width, in_channels, norm_after)


def _imagenet_resnet(
    block: type[BasicBlock] | type[Bottleneck],
    blocks: Sequence[int],
    num_classes: int,
    width: float,
    in_channels: int,
    norm_after: bool,
) -> ResNet:
    whole("num_classes", num_classes, "a whole number", at_least=1)
    whole("in_channels", in_channels, "a whole number", at_least=1)
    flag("norm_after", norm_after)
    first = _channels(64, width)
    norm, activation = nn.BatchNorm2d(first), nn.ReLU(inplace=not norm_after)
    stem = nn.Sequential(
        _same_convolution(in_channels, first, 7, stride=2),
        *((activation, norm) if norm_after else (norm, activation)),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = [first * block.expansion * 2**i for i in range(4)]
    return ResNet(stem, channels, blocks, num_classes, partial(block, norm_after=norm_after), first)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, mean over positions, linear layer.

    Convolutions have no bias and start from N(0, 2 / (out_channels kh kw)) (Kaiming normal, fan-out, ReLU gain), from
    torch's default generator.

    Args:
        stem: first layers, from images to ``stem_channels`` channels.
        channels: channels of every stage; the first stage keeps the size of the image, later stages halve the image.
        blocks: number of blocks in every stage.
        num_classes: number of outputs.
        block: a function of the numbers of channels of input and output, and of the stride, that makes a block.
        stem_channels: channels of the stem; None for ``channels[0]``.

    Attributes:
        stem, stages, head: the parts in the order of computation; ``stages[i][j]`` is a block.
    """

    def __init__(
        self,
        stem: nn.Module,
        channels: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
        block: Callable[[int, int, int], nn.Module] | None = None,
        stem_channels: int | None = None,
    ) -> None:
        super().__init__()
        block = block or BasicBlock
        self.stem = stem
        self.stages, inputs = nn.Sequential(), stem_channels or channels[0]
        for outputs, count in zip(channels, blocks, strict=True):
            first = block(inputs, outputs, 2 if len(self.stages) else 1)
            others = (block(outputs, outputs, 1) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *others))
            inputs = outputs
        self.head = nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, in_channels, H, W) to logits (batch, num_classes)."""
        return self.head(self.stages(self.stem(x)).mean((-2, -1)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, and a shortcut around both; a 1 x 1 convolution where the shape changes.

    y = relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))

    With ``norm_after``, y = norm2(relu(conv2(norm1(relu(conv1(x)))))) + shortcut(x): Akrout et al. (2019) normalise
    after the ReLU, and do not say where the sum stands.

    Args:
        in_channels, out_channels: channels of the block's input and output.
        stride: stride of conv1 and the shortcut.
        norm_after: normalise after the ReLU.
    """

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm_after: bool = False) -> None:
        super().__init__()
        self.conv1 = _same_convolution(in_channels, out_channels, 3, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _same_convolution(out_channels, out_channels, 3)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.norm_after = norm_after

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, H, W) to (batch, out_channels, H / stride, W / stride), rounded up."""
        if self.norm_after:
            y = self.norm1(relu(self.conv1(x)))
            return self.norm2(relu(self.conv2(y))) + self.shortcut(x)
        y = relu(self.norm1(self.conv1(x)), inplace=True)
        return relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution, a quarter as wide inside, and a shortcut, as in `BasicBlock`.

    Args:
        in_channels, out_channels: channels of the block's input and output.
        stride: stride of conv2 and the shortcut.
        norm_after: normalise after the ReLU, and add the shortcut in the end.
    """

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm_after: bool = False) -> None:
        super().__init__()
        inside = out_channels // self.expansion
        self.conv1, self.norm1 = _same_convolution(in_channels, inside, 1), nn.BatchNorm2d(inside)
        self.conv2, self.norm2 = _same_convolution(inside, inside, 3, stride), nn.BatchNorm2d(inside)
        self.conv3, self.norm3 = _same_convolution(inside, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.norm_after = norm_after

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, H, W) to (batch, out_channels, H / stride, W / stride), rounded up."""
        if self.norm_after:
            y = self.norm2(relu(self.conv2(self.norm1(relu(self.conv1(x))))))
            return self.norm3(relu(self.conv3(y))) + self.shortcut(x)
        y = relu(self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))))
        return relu(self.norm3(self.conv3(y)) + self.shortcut(x), inplace=True)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A 1 x 1 convolution where the shape changes; nothing elsewhere."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(_same_convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def _channels(usual: int, width: float) -> int:
    """Channels of the first stage."""
    expected = f"a positive multiple of 1/{usual}, for {usual} * width channels"
    channels = usual * float(real("width", width, expected, above=0, array=False))
    if not channels.is_integer():
        raise ValueError(f"width must be {expected}; got {width!r}")
    check_memory("width", 9 * channels**2, "the weights of the first stage")
    return int(channels)


def _same_convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
