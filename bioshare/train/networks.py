"""The networks of the papers besides those of Pogodin 2021, and networks of patches.

A stored configuration names the class of its network; `bioshare.train.stored` finds these here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from bioshare.checks import choice, flag, whole
from bioshare.nn import (
    MLPMixer,
    VisionTransformer,
    dascoli,
    moskovitz,
    resnet18,
    resnet50,
    to_fully_connected,
    to_locally_connected,
)
from bioshare.nn.dascoli import DAscoliName
from bioshare.nn.fully_connected import FullyConnected2d
from bioshare.nn.locally_connected import LocallyConnected2d
from bioshare.nn.moskovitz import PlainName
from bioshare.train.config import Network

Space = Literal["conv", "lc", "fc"]
Kind = Literal["vit", "mixer"]
KINDS: dict[Kind, Callable[..., nn.Module]] = {"vit": VisionTransformer, "mixer": MLPMixer}


@dataclass(frozen=True)
class PlainNetwork(Network):
    """A network of Moskovitz et al. (2018).

    Attributes:
        name: name of the network, see `bioshare.nn.moskovitz`.
    """

    name: PlainName = "cifar-1"

    def __post_init__(self) -> None:
        choice("name", self.name, get_args(PlainName))

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        return moskovitz(self.name, num_classes, input_size)


@dataclass(frozen=True)
class AkroutNetwork(Network):
    """A residual network of Akrout et al. (2019).

    Attributes:
        depth: 18 or 50.
        norm_after: batch normalisation after the ReLU.
    """

    depth: Literal[18, 50] = 18
    norm_after: bool = True

    def __post_init__(self) -> None:
        choice("depth", self.depth, (18, 50))
        flag("norm_after", self.norm_after)

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        resnet = resnet18 if self.depth == 18 else resnet50
        return resnet(num_classes, 1.0, input_size[0], norm_after=self.norm_after)


@dataclass(frozen=True)
class DAscoliNetwork(Network):
    """A network of d'Ascoli et al. (2019), convolutional or in a larger space.

    Attributes:
        name: "vanilla" or "alexnet", see `bioshare.nn.dascoli`.
        channels: channels of the first convolution.
        space: "conv", "lc" for locally connected layers, or "fc" for fully connected layers.
        padded_columns: fully connected layers have weights from the zeros around an image, too, as in the paper's code.
    """

    name: DAscoliName = "vanilla"
    channels: int = 64
    space: Space = "conv"
    padded_columns: bool = False

    def __post_init__(self) -> None:
        choice("name", self.name, get_args(DAscoliName))
        whole("channels", self.channels, "a number of channels", at_least=1)
        choice("space", self.space, get_args(Space))
        flag("padded_columns", self.padded_columns)

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        """The network for images of ``input_size``, with PyTorch's default initialisation in its own space."""
        model = self.embed(dascoli(self.name, num_classes, input_size, self.channels), input_size)
        for layer in model.modules():
            if isinstance(layer, FullyConnected2d):
                layer.reset_parameters()
            elif isinstance(layer, LocallyConnected2d):  # as a convolution of its own at every position
                limit = 1 / math.sqrt(layer.weight[0, 0, 0].numel())
                for parameter in layer.parameters(recurse=False):
                    nn.init.uniform_(parameter, -limit, limit)
        return model

    def embed(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        """The network with the function of a convolutional network, in the space of this network."""
        if self.space == "lc":
            return to_locally_connected(model, input_size, "copy", layout="channels_last")
        return to_fully_connected(model, input_size, self.padded_columns) if self.space == "fc" else model


@dataclass(frozen=True)
class SharedPatches(Network):
    """A small network of patches, all of whose tokens have the same weights.

    Attributes:
        kind: "vit" for `bioshare.nn.VisionTransformer`, "mixer" for `bioshare.nn.MLPMixer`.
        patch: rows and columns of a patch.
        features: number of features of a token; for "vit" a multiple of its 4 heads.
        depth: number of blocks.
    """

    kind: Kind
    patch: int = 2
    features: int = 48
    depth: int = 2

    def __post_init__(self) -> None:
        choice("kind", self.kind, get_args(Kind))
        whole("patch", self.patch, "a number of pixels", at_least=1)
        whole("depth", self.depth, "a number of blocks", at_least=1)
        whole("features", self.features, "a number of features", at_least=1)
        if self.kind == "vit" and self.features % 4:
            raise ValueError(f'features must be a multiple of the 4 heads of a "vit"; got {self.features}')

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        """The network for images of ``input_size`` (channels, rows, columns), a multiple of ``patch``."""
        return KINDS[self.kind](num_classes, input_size, self.patch, self.features, self.depth)


@dataclass(frozen=True)
class UnsharedPatches(SharedPatches):
    """A small network of patches, every token of which has its own weights; the classifier alone is shared.

    Further attributes are those of `SharedPatches`.

    Attributes:
        start: weights before training, "independent" for every token, or the "copy" of a shared network's. Independent
            patch embeddings start as a `bioshare.nn.LocallyConnected2d`, smaller than a convolution and without offset.
    """

    start: Literal["independent", "copy"] = "independent"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("start", self.start, ("independent", "copy"))

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        """The network for images of ``input_size`` (channels, rows, columns), a multiple of ``patch``."""
        model = super().build(num_classes, input_size)
        return to_locally_connected(model, input_size, self.start, layout="channels_last", linear=True)
