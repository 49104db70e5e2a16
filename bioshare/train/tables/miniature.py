"""The tables in miniature: CIFAR-10 at 16 x 16, a ResNet with a block a stage, an afternoon on two cores.

The table "small" is Table 1 with simulated sleeps. Further tables change one thing at a time, mostly from the row
"lc-ws10": "early" asks why sharing hurts early in training, "realism" what realistic sleeps cost, "controls" could show
that something else than sharing helps, and "questions" has the open questions of the paper's discussion (Sec. 6).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from bioshare.bridge import InstantSharing, LearnedGroups
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking
from bioshare.train.config import AdamW, Convolutional, LocallyConnected, TrainConfig
from bioshare.train.phases import CircuitOptions, HebbianOptions, IdealOptions, NoisyIdealOptions, PhaseOptions
from bioshare.train.tables import paper
from bioshare.train.tables.rows import Row, Tables

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


def _row(tuned: str = "lc-ws10", every: int | None = 10, sleep: PhaseOptions | None = None, **changes: Any) -> Row:
    """A row with the learning rate and weight decay of a network in `OPTIMIZERS`, and changes of the configuration."""
    setting = replace(SETTING, **{"optimizer": OPTIMIZERS[tuned]} | changes)
    return Row(setting, every, sleep or InstantSharing())


LC = _row("lc", None)
WS10 = _row()


def _scaled_rate(row: str, factor: float) -> AdamW:
    return replace(OPTIMIZERS[row], learning_rate=factor * OPTIMIZERS[row].learning_rate)


def _longer(row: str) -> dict[str, Any]:
    """Four times longer training at a quarter of the learning rate."""
    return {"epochs": 4 * EPOCHS, "optimizer": _scaled_rate(row, 0.25)}


def _circuit(alpha: float = 10.0, pool: int | None = 8, **options: Any) -> Row:
    return _row(sleep=CircuitOptions(alpha=alpha, pool=pool, **options))


SMALL = {
    "conv": _row("conv", None, network=Convolutional("resnet8")),
    "lc": LC,
    "lc-4reps": _row("lc", None, repetitions=4),
    "lc-ws1": _row("lc-ws1", 1),
    "lc-ws10": WS10,
    "lc-ws100": _row("lc-ws100", 100),
    "lc-ws10-ideal": _row(sleep=IdealOptions(pool=8)),
    "lc-ws10-alpha50": _circuit(50.0),
    "lc-ws10-alpha10": _circuit(),
    "lc-ws10-recommended": _circuit(moments="share", border="scale"),
    "lc-ws10-hebbian": _row(sleep=HebbianOptions()),
    "lc-ws10-noise0.01": _row(sleep=NoisyIdealOptions(noise=0.01)),
}

EARLY = {
    "lc": LC,
    "lc-ws10": WS10,
    "lc-copy": _row("lc", None, network=replace(NETWORK, start="copy")),
    "lc-ws10-copy": _row(network=replace(NETWORK, start="copy")),
    "lc-ws10-late": replace(WS10, count="run", first=0.5),
    "lc-ws10-share-moments": replace(WS10, sleep=InstantSharing(moments="share")),
    "lc-ws10-share-moments-scale": replace(WS10, sleep=InstantSharing(moments="share", border="scale")),
    "lc-ws10-recommended": SMALL["lc-ws10-recommended"],
    "lc-ws10-reset-moments": replace(WS10, sleep=InstantSharing(moments="reset")),
    "lc-ws10-last-batch": replace(WS10, first=-1),
    "lc-ws10-run": replace(WS10, count="run"),
    "lc-ws10-rate-half": _row(optimizer=_scaled_rate("lc-ws10", 0.5)),
    "lc-ws10-rate-double": _row(optimizer=_scaled_rate("lc-ws10", 2.0)),
}

REALISM = {
    "lc": LC,
    "lc-ws10": WS10,
    "lc-ws10-ideal": SMALL["lc-ws10-ideal"],
    **{f"lc-ws10-alpha{alpha}": _circuit(alpha) for alpha in (50, 20, 10, 5, 2)},
    **{f"lc-ws10-alpha{alpha}-unscaled": _circuit(alpha, rescale=False) for alpha in (50, 20, 10, 5, 2)},
    **{f"lc-ws10-presentations{times}": _circuit(presentations=times) for times in (1, 2, 10)},
    "lc-ws10-noise0.01": SMALL["lc-ws10-noise0.01"],
    **{f"lc-ws10-noise{noise}": _row(sleep=NoisyIdealOptions(noise=noise)) for noise in (0.03, 0.1)},
    **{
        f"lc-ws10-gaussian-noise{noise}": _row(sleep=NoisyIdealOptions(noise=noise, stimulus="gaussian"))
        for noise in (0.01, 0.1)
    },
    "lc-ws10-gaussian": _circuit(stimulus="gaussian"),
    "lc-ws10-ideal-gaussian": _row(sleep=IdealOptions(pool=8, stimulus="gaussian")),
    "lc-ws10-ideal-relayed": _row(sleep=IdealOptions(stimulus="gaussian", patterns="relayed")),
    "lc-ws10-keep": replace(WS10, sleep=InstantSharing(border="keep")),
    "lc-ws10-alpha10-keep": _circuit(border="keep"),
}

SPREADS = (0.01, 0.1, 0.3, 0.6)
"""Parts of the deviations that a sharing leaves, in a curve from lc-ws10, which leaves 0, to lc, which leaves 1."""

CONTROLS = {
    "lc": LC,
    "lc-ws10": WS10,
    "lc-ws10-random-groups": replace(WS10, sleep=RandomGroups()),
    "lc-shrunk-once": replace(WS10, every=EPOCHS * BATCHES, sleep=Shrinking(), count="run"),  # after the first batch
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
    "lc-ws10-ideal-simultaneous": _row(sleep=IdealOptions(stimulus="gaussian", patterns="simultaneous")),
    "lc-ws10-ideal-simultaneous-pull": _row(
        sleep=IdealOptions(stimulus="gaussian", patterns="simultaneous", gamma=0.1)
    ),
    "lc-ws10-learned-groups": replace(WS10, sleep=LearnedGroups()),
    "lc-lateral": _row("lc", None, network=replace(NETWORK, normalisation="lateral")),
    "lc-ws10-lateral": _row(network=replace(NETWORK, normalisation="lateral")),
    "lc-4x": _row("lc", None, **_longer("lc")),
    "lc-ws10-4x": _row(**_longer("lc-ws10")),
}

_THEIRS = {name: row.paper for name, row in paper.TABLES[1][0].items()}
"""The paper's numbers by row, for CIFAR-10 at 32 x 32."""

TABLES: Tables = {
    table: [{name: replace(row, paper=_THEIRS.get(name, row.paper)) for name, row in rows.items()}]
    for table, rows in {
        "small": SMALL,
        "early": EARLY,
        "realism": REALISM,
        "controls": CONTROLS,
        "questions": QUESTIONS,
    }.items()
}
"""A row of the same name is the same in all tables."""
