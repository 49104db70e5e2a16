"""Tables of networks that learn without weight transport: those of two papers, and three of our own for two cores.

"moskovitz" is Table 1 of Moskovitz, Litwin-Kumar and Abbott (2018), "akrout" the errors in the text of Akrout et al.
(2019), Sec. 7. "feedback" compares the ways in which errors travel back in a small convolutional network, "night"
{convolutional, locally connected, locally connected asleep} x {backpropagation and others}, and "signs" fixes the signs
of all weights from different times on (Fig. 5 of Moskovitz et al.).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bioshare.bridge import FixedNorms, FixedSigns, KolenPollack, Mirror, Phase, SignSymmetry
from bioshare.train.config import (
    SGD,
    Adam,
    AdamW,
    DirectFeedback,
    Every,
    Feedback,
    FeedbackWeights,
    TrainConfig,
)
from bioshare.train.networks import AkroutNetwork, PlainNetwork
from bioshare.train.tables import miniature
from bioshare.train.tables.rows import Paper, Row, Tables

BACK = FeedbackWeights()


@dataclass(frozen=True)
class Method:
    """A way in which errors travel back, and the phases after every step that make it so.

    Attributes:
        feedback: None for backpropagation.
        phases: phases after every step, in order.
        from_part: the first phase begins after this part of the training.
    """

    feedback: Feedback | None = None
    phases: tuple[Phase, ...] = ()
    from_part: float = 0.0

    def applied(self, setting: TrainConfig) -> TrainConfig:
        """A configuration with this method."""
        firsts = [self.from_part if number == 0 else 0 for number in range(len(self.phases))]
        phases = tuple(Every(1, phase, "run", first) for phase, first in zip(self.phases, firsts, strict=True))
        return replace(setting, feedback=self.feedback, phases=(*setting.phases, *phases))


MIRROR = Mirror(samples=128, first_updates=100)
"""As many Gaussian inputs of every layer as images of a batch: a tenth of the time of a step of a convolutional
network, and as long as a step of a locally connected one (``python -m bioshare bench feedback``)."""

METHODS: dict[str, Method] = {
    "bp": Method(),
    "fa": Method(BACK),
    "init": Method(BACK, (SignSymmetry("init"),)),
    "sn": Method(BACK, (SignSymmetry("norm"),)),
    "kp": Method(BACK, (KolenPollack(),)),
    "mirror": Method(BACK, (MIRROR,)),
    "mirror-norms": Method(FeedbackWeights(past_norms=True), (MIRROR,)),
    "dfa": Method(DirectFeedback()),
}
"""Methods of the tables "feedback" and "night"."""

SIGNS = FixedSigns()
MOSKOVITZ_METHODS: dict[str, Method] = {
    "bp": Method(),
    "bp-noise": Method(FeedbackWeights("weights", noise=1.0, backpropagates=True)),
    "bp-alignment": Method(FeedbackWeights(backpropagates=True, alignment=0.001)),
    "fa": Method(BACK),
    "init-ei": Method(BACK, (SIGNS, SignSymmetry("init")), from_part=0.05),
    "init": Method(BACK, (SignSymmetry("init"),)),
    "sn": Method(BACK, (SignSymmetry("norm"),)),
    "dfa": Method(DirectFeedback()),
    "dense-fa": Method(DirectFeedback(dense=True)),
    "bp-const": Method(FeedbackWeights(backpropagates=True), (FixedNorms(),)),
    "const": Method(BACK, (FixedNorms(), SignSymmetry("norm"))),
    "const-ei": Method(BACK, (SIGNS, FixedNorms(), SignSymmetry("norm")), from_part=0.05),
}
"""Rows of Moskovitz' Table 1. The signs are fixed after 5 % of the training, before the norms."""

SIGN_METHODS: dict[str, Method] = {
    "never": MOSKOVITZ_METHODS["const"],
    **{f"fixed-{part}": replace(MOSKOVITZ_METHODS["const-ei"], from_part=part / 100) for part in (50, 20, 5, 0)},
}
"""Methods of the table "signs" by the part of the training, in per cent, after which the signs are fixed."""

MOSKOVITZ_ERRORS = """
              mnist  cifar-1  cifar-2  imagenet-1  imagenet-2
bp            0.8    17.2     11.0     79.5        45.5
bp-noise      0.8    17.4     11.0     79.2        46.0
bp-alignment  0.9    17.4     11.2     79.4        45.9
fa            1.1    26.6     35.6     95.2        94.5
init-ei       0.9    18.9     17.8     86.9        67.8
init          0.7    17.6     13.1     79.6        60.1
sn            0.7    17.7     12.6     78.9        54.4
dfa           1.0    28.6     -        -           -
dense-fa      0.7    16.9     -        -           -
bp-const      -      -        -        -           46.9
const         -      -        -        -           51.2
const-ei      -      -        -        -           66.1
"""
"""Top-1 errors of Moskovitz' Table 1, per cent."""

AKROUT_ERRORS = """
             resnet18  resnet50
bp           30.1      22.9
fa           97.4      98.9
sn           39.2      33.8
sn-before    37.8      32.6
mirror       30.2      23.4
"""
"""Top-1 errors in the text of Akrout's Sec. 7, per cent; sign symmetry with |B| as there is not said, here "sn".

The row "sn-before" has batch normalisation before the ReLU. The paper's mirror averages over all positions of 2,048
images. The row "mirror" has 7 x 7 positions, those of the last convolutions, for every convolution: B is about 2.3
degrees from a W that rests in the widest (`bioshare.theory.mirror_angle`), and in the last, dense layer, which has no
positions, 5 degrees (ResNet-18) and 11 (ResNet-50).
"""


def _printed(printed: str, methods: Mapping[str, Method], settings: Mapping[str, TrainConfig]) -> dict[str, Row]:
    """Rows of a table of printed errors; the settings by column."""
    first, *lines = printed.strip("\n").splitlines()
    rows: dict[str, Row] = {}
    for index, column in enumerate(first.split()):
        errors = {name: numbers[index] for name, *numbers in map(str.split, lines) if numbers[index] != "-"}
        setting = settings[column]
        for name, error in errors.items():
            top1, difference = round(100 - float(error), 1), round(float(errors["bp"]) - float(error), 1)
            applied = methods[name].applied(setting)
            paper = Paper(top1, top1_diff=difference)
            rows[f"{column}-{name}"] = Row(applied, paper=paper, references=(f"{column}-bp",))
    return rows


def _moskovitz() -> dict[str, Row]:
    small: dict[str, Any] = {"batch_size": 128, "padding": 4}
    every_30 = tuple(epoch / 154 for epoch in range(30, 154, 30))
    large: dict[str, Any] = {"epochs": 100, "batch_size": 256, "padding": 0}
    settings = {
        "mnist": TrainConfig(
            "mnist", PlainNetwork("mnist"), Adam(1e-4), None, (20 / 25,), 10.0, epochs=25, batch_size=50, padding=0
        ),
        # 24 x 24 crops in the paper; here all 32 x 32 pixels of shifted images
        "cifar-1": TrainConfig(
            "cifar10", PlainNetwork("cifar-1"), Adam(5e-4), None, every_30, 1 / 0.8, epochs=154, **small
        ),
        "cifar-2": TrainConfig(
            "cifar10", PlainNetwork("cifar-2"), SGD(0.05, 1e-3), None, (120 / 256, 240 / 256), 10.0, epochs=256, **small
        ),
        # 224 x 224 crops of ImageNet, 299 x 299 in the paper
        "imagenet-1": TrainConfig("imagenet", PlainNetwork("imagenet-1"), Adam(1e-4), None, (), **large),
        "imagenet-2": TrainConfig("imagenet", PlainNetwork("imagenet-2"), Adam(1e-4), None, (), **large),
    }
    return _printed(MOSKOVITZ_ERRORS, MOSKOVITZ_METHODS, settings)


def _akrout() -> dict[str, Row]:
    steps, warm_up = (32 / 90, 62 / 90, 82 / 90), 6
    setting = lambda depth: TrainConfig(
        "imagenet", AkroutNetwork(depth), SGD(0.8), None, steps, 10.0, warm_up, epochs=90, batch_size=2048, padding=0
    )
    mirror = Method(BACK, (Mirror(samples=2048, positions=7, first_updates=1251),))
    methods = METHODS | {"mirror": mirror, "sn-before": METHODS["sn"]}
    rows = _printed(AKROUT_ERRORS, methods, {f"resnet{depth}": setting(depth) for depth in (18, 50)})

    def changed(depth: Literal[18, 50], method: str) -> dict[str, Any]:
        if method == "mirror":
            # App. C.2: the 1251 updates are the paper's first two epochs, so that its epochs 3 to 90 are learned
            return {"epochs": 88, "milestones": tuple((epoch - 2) / 88 for epoch in (32, 62, 82))}
        best = {"optimizer": SGD(0.5)}  # App. C.1: the best rate of a grid search for sign symmetry
        before = {"network": AkroutNetwork(depth, norm_after=False)}
        return {"sn": best, "sn-before": best | before}.get(method, {})

    changes = {f"resnet{depth}-{method}": changed(depth, method) for depth in (18, 50) for method in methods}
    return {name: replace(row, setting=replace(row.setting, **changes[name])) for name, row in rows.items()}


CHOSEN: dict[str, AdamW] = {}
"""The best points of the grid searches by row (``python -m bioshare sweep night/cifar10-16/lc-kp``); a row that lacks
has those of its network in the tables in miniature. The rows of "signs" have those of "conv-sn", and
"lc-asleep-mirror-shared" has those of "lc-asleep-mirror"."""

NETWORKS = {
    "conv": miniature.SMALL["conv"],
    "lc": miniature.SMALL["lc"],
    "lc-asleep": miniature.SMALL["lc-ws10-recommended"],
}
"""Networks with backpropagation; the last one is asleep in the rate circuit after every tenth step."""


def _name(network: str, method: str) -> str:
    return network if method == "bp" else f"{network}-{method}"


def _row(network: str, method: Method, tuned: str, references: tuple[str, ...]) -> Row:
    """A network in miniature at half the length, with the learning rate of a row."""
    row = NETWORKS[network]
    setting = replace(row.setting, epochs=30, optimizer=CHOSEN.get(tuned, row.setting.optimizer))
    return replace(row, setting=method.applied(setting), references=references)


FEEDBACK = {
    name: _row("conv", method, name, ("conv",)) for one, method in METHODS.items() for name in (_name("conv", one),)
}
NIGHT = {
    name: _row(network, METHODS[method], name, (network, _name("conv", method)))
    for network in NETWORKS
    for method in ("bp", "fa", "sn", "kp", "mirror")
    for name in (_name(network, method),)
}
_shared: Any = replace(NIGHT["lc-asleep-mirror"], references=("lc-asleep", "lc-asleep-mirror"))
NIGHT["lc-asleep-mirror-shared"] = replace(_shared, sleep=replace(_shared.sleep, feedback=True))  # B sleeps, too
SIGNS_FIXED = {name: _row("conv", method, "conv-sn", ("never",)) for name, method in SIGN_METHODS.items()}

TABLES: Tables = {
    "moskovitz": [_moskovitz()],
    "akrout": [_akrout()],
    "feedback": [FEEDBACK],
    "night": [NIGHT],
    "signs": [SIGNS_FIXED],
}
