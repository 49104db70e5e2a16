"""The tables in miniature: CIFAR-10 at 16 x 16, a ResNet with a block a stage, an afternoon on two cores.

The table "small" is Table 1 with simulated sleeps. Further tables change one thing at a time, mostly from the row
"lc-ws10": "early" asks why sharing hurts early in training, "realism" what realistic sleeps cost, "controls" could show
that something else than sharing helps, and "questions" has the open questions of the paper's discussion (Sec. 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bioshare.bridge import InstantSharing, LearnedGroups
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking
from bioshare.train.config import AdamW, Convolutional, LocallyConnected, TrainConfig
from bioshare.train.phases import (
    CircuitOptions,
    HebbianOptions,
    IdealOptions,
    NoisyIdealOptions,
    PhaseOptions,
)

IMAGES, BATCH, EPOCHS = 10_000, 128, 60
BATCHES = math.ceil(IMAGES / BATCH)
"""Batches of an epoch."""
GAIN = 1 / 0.8025
"""Gain that undoes the loss of a sleep through the rate circuit at alpha = 10, for every K."""

NETWORK = LocallyConnected("resnet8")
SETTING = TrainConfig(
    "cifar10-16", NETWORK, milestones=(0.5, 0.75), epochs=EPOCHS, batch_size=BATCH, padding=2, train_images=IMAGES
)

OPTIMIZERS = {
    "conv": AdamW(5e-3, 1e-4),
    "lc": AdamW(1e-3, 1e-2),
    "lc-ws1": AdamW(2e-3, 1e-2),
    "lc-ws10": AdamW(2e-3, 1e-2),
    "lc-ws100": AdamW(1e-3, 1e-2),
}
"""The best points of the grid searches (``python -m bioshare sweep small/cifar10-16/conv``)."""


@dataclass(frozen=True)
class MiniatureRow:
    """A row of a table in miniature: a network of `OPTIMIZERS`, and the changes.

    Attributes:
        tuned: name of the network whose learning rate and weight decay the row takes.
        every, sleep, count, first: as for `bioshare.train.experiments.Experiment`.
        changes: fields of the configuration.
    """

    tuned: str = "lc-ws10"
    every: int | None = 10
    sleep: PhaseOptions = field(default_factory=InstantSharing)
    count: Literal["epoch", "run"] = "epoch"
    first: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> TrainConfig:
        """The configuration without phases."""
        return replace(SETTING, **{"optimizer": OPTIMIZERS[self.tuned]} | dict(self.changes))


LC = MiniatureRow("lc", None)
WS10 = MiniatureRow()


def _scaled_rate(row: str, factor: float) -> AdamW:
    return replace(OPTIMIZERS[row], learning_rate=factor * OPTIMIZERS[row].learning_rate)


def _longer(row: str) -> dict[str, Any]:
    """Four times longer training at a quarter of the learning rate."""
    return {"epochs": 4 * EPOCHS, "optimizer": _scaled_rate(row, 0.25)}


def _circuit(alpha: float = 10.0, pool: int | None = 8, **options: Any) -> MiniatureRow:
    return MiniatureRow(sleep=CircuitOptions(alpha=alpha, pool=pool, **options))


SMALL = {
    "conv": MiniatureRow("conv", None, changes={"network": Convolutional("resnet8")}),
    "lc": LC,
    "lc-4reps": MiniatureRow("lc", None, changes={"repetitions": 4}),
    "lc-ws1": MiniatureRow("lc-ws1", 1),
    "lc-ws10": WS10,
    "lc-ws100": MiniatureRow("lc-ws100", 100),
    "lc-ws10-ideal": MiniatureRow(sleep=IdealOptions(pool=8)),
    "lc-ws10-alpha50": _circuit(50.0),
    "lc-ws10-alpha10": _circuit(),
    "lc-ws10-recommended": _circuit(moments="share", border="scale"),
    "lc-ws10-hebbian": MiniatureRow(sleep=HebbianOptions()),
    "lc-ws10-noise0.01": MiniatureRow(sleep=NoisyIdealOptions(noise=0.01)),
}

EARLY = {
    "lc": LC,
    "lc-ws10": WS10,
    "lc-copy": replace(LC, changes={"network": replace(NETWORK, start="copy")}),
    "lc-ws10-copy": replace(WS10, changes={"network": replace(NETWORK, start="copy")}),
    "lc-ws10-late": replace(WS10, count="run", first=EPOCHS // 2 * BATCHES),
    "lc-ws10-share-moments": replace(WS10, sleep=InstantSharing(moments="share")),
    "lc-ws10-share-moments-scale": replace(WS10, sleep=InstantSharing(moments="share", border="scale")),
    "lc-ws10-recommended": SMALL["lc-ws10-recommended"],
    "lc-ws10-reset-moments": replace(WS10, sleep=InstantSharing(moments="reset")),
    "lc-ws10-last-batch": replace(WS10, first=(BATCHES - 1) % 10),
    "lc-ws10-run": replace(WS10, count="run"),
    "lc-ws10-rate-half": replace(WS10, changes={"optimizer": _scaled_rate("lc-ws10", 0.5)}),
    "lc-ws10-rate-double": replace(WS10, changes={"optimizer": _scaled_rate("lc-ws10", 2.0)}),
}

REALISM = {
    "lc": LC,
    "lc-ws10": WS10,
    "lc-ws10-ideal": SMALL["lc-ws10-ideal"],
    **{f"lc-ws10-alpha{alpha}": _circuit(alpha) for alpha in (50, 20, 10, 5, 2)},
    **{f"lc-ws10-alpha{alpha}-unscaled": _circuit(alpha, rescale=False) for alpha in (50, 20, 10, 5, 2)},
    **{f"lc-ws10-presentations{times}": _circuit(presentations=times) for times in (1, 2, 10)},
    "lc-ws10-noise0.01": SMALL["lc-ws10-noise0.01"],
    **{f"lc-ws10-noise{noise}": MiniatureRow(sleep=NoisyIdealOptions(noise=noise)) for noise in (0.03, 0.1)},
    **{
        f"lc-ws10-gaussian-noise{noise}": MiniatureRow(sleep=NoisyIdealOptions(noise=noise, stimulus="gaussian"))
        for noise in (0.01, 0.1)
    },
    "lc-ws10-gaussian": _circuit(stimulus="gaussian"),
    "lc-ws10-ideal-gaussian": MiniatureRow(sleep=IdealOptions(pool=8, stimulus="gaussian")),
    "lc-ws10-ideal-relayed": MiniatureRow(sleep=IdealOptions(stimulus="gaussian", patterns="relayed")),
    "lc-ws10-keep": replace(WS10, sleep=InstantSharing(border="keep")),
    "lc-ws10-alpha10-keep": _circuit(border="keep"),
}

SPREADS = (0.01, 0.1, 0.3, 0.6)
"""Parts of the deviations that a sharing leaves, in a curve from lc-ws10, which leaves 0, to lc, which leaves 1."""

CONTROLS = {
    "lc": LC,
    "lc-ws10": WS10,
    "lc-ws10-random-groups": replace(WS10, sleep=RandomGroups()),
    "lc-shrunk-once": MiniatureRow(every=EPOCHS * BATCHES, sleep=Shrinking(), count="run"),  # after the first batch
    "lc-ws10-keep": REALISM["lc-ws10-keep"],
    "lc-ws10-scale": replace(WS10, sleep=InstantSharing(border="scale")),
    "lc-ws10-layer-mean": replace(WS10, sleep=LayerMean()),
    "lc-ws10-alpha10": SMALL["lc-ws10-alpha10"],
    "lc-ws10-alpha10-gain": _circuit(gain=GAIN),
    **{f"lc-ws10-spread{spread}": replace(WS10, sleep=InstantSharing(spread=spread)) for spread in SPREADS},
}

QUESTIONS = {
    "lc": LC,
    "lc-ws10": WS10,
    "lc-ws10-ideal-relayed": REALISM["lc-ws10-ideal-relayed"],
    "lc-ws10-ideal-simultaneous": MiniatureRow(sleep=IdealOptions(stimulus="gaussian", patterns="simultaneous")),
    "lc-ws10-ideal-simultaneous-pull": MiniatureRow(
        sleep=IdealOptions(stimulus="gaussian", patterns="simultaneous", gamma=0.1)
    ),
    "lc-ws10-learned-groups": replace(WS10, sleep=LearnedGroups()),
    "lc-lateral": replace(LC, changes={"network": replace(NETWORK, normalisation="lateral")}),
    "lc-ws10-lateral": replace(WS10, changes={"network": replace(NETWORK, normalisation="lateral")}),
    "lc-4x": replace(LC, changes=_longer("lc")),
    "lc-ws10-4x": replace(WS10, changes=_longer("lc-ws10")),
}

TABLES: dict[str, dict[str, MiniatureRow]] = {
    "small": SMALL,
    "early": EARLY,
    "realism": REALISM,
    "controls": CONTROLS,
    "questions": QUESTIONS,
}
"""Rows by the name of the table and of the row; a row of the same name is the same in all tables."""

STUDIES = {
    "early": "why sharing hurts early in training",
    "realism": "the cost of realism",
    "controls": "what else could help",
    "questions": "open questions of the paper",
}
"""Tables of changes to the table "small", by name with the subject."""
