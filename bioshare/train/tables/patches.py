"""The table "patches": a vision transformer and an MLP-Mixer with and without shared weights (Pogodin 2021, A.4).

Rows for the digits (16 tokens) and for CIFAR-10 at 16 x 16 (64 tokens). The paper has no such experiment.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bioshare.bridge import InstantSharing
from bioshare.train.config import AdamW, Network, TrainConfig
from bioshare.train.networks import Kind, SharedPatches, UnsharedPatches
from bioshare.train.phases import CircuitOptions, IdealOptions
from bioshare.train.tables import miniature
from bioshare.train.tables.rows import Row, Tables

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


def _of_kind(dataset: str, kind: Kind) -> dict[str, Row]:
    """The rows of a kind of network by name."""

    def setting(network: Network, row: str) -> TrainConfig:
        return replace(SETTINGS[dataset], network=network, optimizer=AdamW(RATES[dataset][row], 1e-2))

    row = partial(Row, references=(kind, f"{kind}-unshared"))
    alone = setting(UnsharedPatches(kind), f"{kind}-unshared")
    asleep = setting(UnsharedPatches(kind), f"{kind}-ws10")
    return {
        kind: row(setting(SharedPatches(kind), kind)),
        f"{kind}-unshared": row(alone),
        f"{kind}-unshared-copy": row(replace(alone, network=UnsharedPatches(kind, start="copy"))),
        f"{kind}-ws10": row(asleep, 10),
        f"{kind}-ws10-copy": row(replace(asleep, network=UnsharedPatches(kind, start="copy")), 10),
        f"{kind}-ws10-share-moments": row(asleep, 10, InstantSharing(moments="share")),
        f"{kind}-ws10-ideal": row(asleep, 10, IdealOptions(pool=8)),
        f"{kind}-ws10-alpha10": row(asleep, 10, CircuitOptions(pool=8)),
    }


TABLES: Tables = {"patches": [_of_kind(dataset, "vit") | _of_kind(dataset, "mixer") for dataset in SETTINGS]}
