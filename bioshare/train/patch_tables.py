"""The table "patches": a vision transformer and an MLP-Mixer with and without shared weights (Pogodin 2021, A.4).

Rows for the digits (16 tokens) and for CIFAR-10 at 16 x 16 (64 tokens). The paper has no such experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import nn

from bioshare.bridge import InstantSharing
from bioshare.checks import choice, whole
from bioshare.nn import MLPMixer, VisionTransformer, to_locally_connected
from bioshare.train import miniature
from bioshare.train.config import AdamW, Network, TrainConfig
from bioshare.train.phases import CircuitOptions, IdealOptions, PhaseOptions

Kind = Literal["vit", "mixer"]
KINDS: dict[Kind, Callable[..., nn.Module]] = {"vit": VisionTransformer, "mixer": MLPMixer}


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


@dataclass(frozen=True)
class PatchRow:
    """A row of the table.

    Attributes:
        setting: configuration without sleep.
        every: interval of the phase in batches; None for never.
        sleep: options of the phase.
    """

    setting: TrainConfig
    every: int | None = None
    sleep: PhaseOptions = field(default_factory=InstantSharing)


SETTINGS = {
    "digits": TrainConfig("digits", milestones=(0.5, 0.75), epochs=40, batch_size=32, padding=0),
    "cifar10-16": replace(miniature.SETTING, epochs=30),
}
"""Settings by data set, without network and optimiser."""

RATES = {
    "digits": {
        **{"vit": 5e-3, "vit-unshared": 5e-4, "vit-ws10": 2e-3},
        **{"mixer": 5e-3, "mixer-unshared": 5e-4, "mixer-ws10": 5e-3},
    },
    "cifar10-16": {
        **{"vit": 2e-3, "vit-unshared": 1e-3, "vit-ws10": 2e-3},
        **{"mixer": 5e-3, "mixer-unshared": 2e-3, "mixer-ws10": 2e-2},
    },
}
"""Learning rates by data set and row, the best of a grid search.

Every further row has the rate of the row which begins its name.
"""


def _rows(dataset: str, kind: Kind) -> dict[str, PatchRow]:
    """The rows of a kind of network by name."""

    def setting(network: Network, row: str) -> TrainConfig:
        return replace(SETTINGS[dataset], network=network, optimizer=AdamW(RATES[dataset][row], 1e-2))

    alone = setting(UnsharedPatches(kind), f"{kind}-unshared")
    asleep = setting(UnsharedPatches(kind), f"{kind}-ws10")
    return {
        kind: PatchRow(setting(SharedPatches(kind), kind)),
        f"{kind}-unshared": PatchRow(alone),
        f"{kind}-unshared-copy": PatchRow(replace(alone, network=UnsharedPatches(kind, start="copy"))),
        f"{kind}-ws10": PatchRow(asleep, 10),
        f"{kind}-ws10-copy": PatchRow(replace(asleep, network=UnsharedPatches(kind, start="copy")), 10),
        f"{kind}-ws10-share-moments": PatchRow(asleep, 10, InstantSharing(moments="share")),
        f"{kind}-ws10-ideal": PatchRow(asleep, 10, IdealOptions(pool=8)),
        f"{kind}-ws10-alpha10": PatchRow(asleep, 10, CircuitOptions(pool=8)),
    }


ROWS: dict[str, dict[str, PatchRow]] = {
    dataset: {name: row for kind in KINDS for name, row in _rows(dataset, kind).items()} for dataset in SETTINGS
}
"""Rows by data set and name."""
