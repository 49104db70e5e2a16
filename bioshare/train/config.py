"""`TrainConfig`: everything that decides the outcome of one training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

DatasetName = Literal["cifar10", "cifar10-jpeg", "cifar100", "tinyimagenet", "imagenet", "digits"]

LEAST = {
    **dict.fromkeys(("epochs", "batch_size", "repetitions", "share_every", "pool", "train_images"), 1),
    **dict.fromkeys(("padding", "keep_first", "seed"), 0),
}
"""Of whole numbers."""

POSITIVE = ("learning_rate", "presentations", "strength")
NOT_NEGATIVE = ("weight_decay", "alpha", "gamma", "noise")
"""Of other numbers, all finite."""

SIMULATED = ("gamma", "presentations", "strength", "stimulus", "noise", "pool", "rescale")
"""Fields that only a simulated sleep has a use for."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run of Pogodin 2021, Sec. 5: same configuration, same machine, same weights.

    Attributes:
        dataset: what to train on; "digits" needs no files.
        network: "resnet20" (CIFAR form) or "resnet18" (half the usual width).
        locally_connected: replace the convolutions by locally connected layers.
        keep_first: how many convolutions stay convolutions, counted from the input ("1st layer conv" is 1).
        share_every: weight sharing after every n-th batch, ws(n) in the paper; None for never.
        share_count: count batches from the start of every "epoch", as the paper does, or of the "run". Sharing follows
            the batches whose index is divisible by share_every, the first one included.
        border: whether positions that see padding "share" with the others or "keep" their weights.
        sleep: what happens at a sharing: "instant", weights become their means at once; or a simulated sleep, in the
            "ideal" circuit (infinite alpha) or in the rate "circuit" in time (`bioshare.Sleep.rate_circuit`).
        alpha: inhibition of the rate circuit.
        gamma: pull of a simulated sleep to the weights before it.
        presentations: of a simulated sleep, for every input of a neuron.
        strength: of a presentation, below 2 (`bioshare.bridge.scaling.NormalisedRule`).
        stimulus: "grid" in random order, or "gaussian".
        noise: standard deviation of what every neuron adds to its inputs; every neuron is simulated then.
        pool: draw every sleep from so many that are kept; None simulates a new one each time.
        rescale: bring every group's mean back to its norm before a simulated sleep; the paper doesn't.
        moments: AdamW's at a sharing: "keep" leaves them, "share" lets them follow the weights, "reset" sets them to 0.
        epochs: passes over the training images.
        batch_size: images in a batch, repetitions included; over all processes.
        repetitions: crops of the same image in a batch.
        padding: pixels around a training image before the random crop (Sec. 5.1 says how, dataset by dataset).
        flip: mirror half of the training images; None for what the dataset's text says (ImageNet yes, others no).
        imagenet_crop: crop training images of ImageNet from the "resized" image, as the paper's text says, or crop a
            "random-resized" part (8 to 100 % of its area, aspect 3/4 to 4/3), as its published code does.
        learning_rate: of AdamW, at the start.
        weight_decay: of AdamW.
        milestones: fractions of the epochs at which the learning rate is divided by 4.
        precision: "fp16" and "bf16" are automatic mixed precision; "auto" is fp16 on a GPU and fp32 on a CPU.
        compile: pass the network through `torch.compile`.
        train_images: train on a random subset of that many images; None for all of them.
        validation: hold out the paper's validation split, and test on it instead of on the test images.
        seed: of the weights, the order of the images, their crops and the sleeps.

    Raises:
        ValueError: a field is of the wrong kind or out of range, or fields contradict each other.
    """

    dataset: DatasetName = "cifar10"
    network: Literal["resnet20", "resnet18"] = "resnet20"
    locally_connected: bool = False
    keep_first: int = 0
    share_every: int | None = None
    share_count: Literal["epoch", "run"] = "epoch"
    border: Literal["share", "keep"] = "share"
    sleep: Literal["instant", "ideal", "circuit"] = "instant"
    alpha: float = 10.0
    gamma: float = 0.0
    presentations: float = 5.0
    strength: float = 0.5
    stimulus: Literal["grid", "gaussian"] = "grid"
    noise: float = 0.0
    pool: int | None = None
    rescale: bool = True
    moments: Literal["keep", "share", "reset"] = "keep"
    epochs: int = 200
    batch_size: int = 512
    repetitions: int = 1
    padding: int = 4
    flip: bool | None = None
    imagenet_crop: Literal["resized", "random-resized"] = "resized"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    milestones: tuple[float, ...] = (0.5, 0.75)
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    compile: bool = False
    train_images: int | None = None
    validation: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.milestones, list):  # as JSON has it
            object.__setattr__(self, "milestones", tuple(self.milestones))
        for name, hint in get_type_hints(type(self)).items():
            if not _fits(getattr(self, name), hint):
                raise ValueError(f"{name} must be {_words(hint)}; got {getattr(self, name)!r}")
        self._refuse_sizes()
        self._refuse_quantities()
        self._refuse_contradictions()

    def _refuse_sizes(self) -> None:
        """Refuse whole numbers that are too small, and batches that repetitions don't divide."""
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
        if self.batch_size % self.repetitions:
            raise ValueError(
                f"batch_size must be a multiple of repetitions={self.repetitions}; got {self.batch_size}. A batch "
                "holds batch_size / repetitions different images"
            )

    def _refuse_quantities(self) -> None:
        """Refuse numbers that are out of range."""
        for name in (*POSITIVE, *NOT_NEGATIVE):
            value, least = getattr(self, name), math.ulp(0.0) if name in POSITIVE else 0.0
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be finite and {'> 0' if least else '>= 0'}; got {value!r}")
        if self.strength >= 2:
            raise ValueError(f"strength must be below 2, beyond which a sleep overshoots; got {self.strength!r}")
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must be increasing fractions between 0 and 1; got {self.milestones!r}")

    def _refuse_contradictions(self) -> None:
        """Refuse fields that need each other, or exclude each other."""
        if not self.locally_connected and (self.share_every is not None or self.keep_first):
            raise ValueError("share_every and keep_first need locally_connected=True; a convolution shares by itself")
        if self.share_every is None:
            self._refuse_others("without share_every (--every)", "sleep", "moments", "alpha", *SIMULATED)
        if self.sleep == "instant":
            self._refuse_others('for sleep="instant"', "alpha", *SIMULATED)
        if self.sleep == "ideal":
            self._refuse_others('for sleep="ideal"', "alpha")
        if self.noise:
            why = f"with noise={self.noise}, where a sleep is no linear map"
            self._refuse_others(why, "pool")
            if self.moments == "share":
                raise ValueError(f'moments must be "keep" or "reset" {why}; got {self.moments!r}')

    def _refuse_others(self, why: str, *names: str) -> None:
        """Refuse any other value than their defaults."""
        for name in names:
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default:
                raise ValueError(f"{name} must stay {default!r} {why}, where it has no use; got {value!r}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a field's kind. A whole number will do for any number, and a bool is none."""
    if isinstance(hint, UnionType):
        return any(_fits(value, kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _words(hint: Any) -> str:
    """A field's kind in words."""
    if isinstance(hint, UnionType):
        return " or ".join(map(_words, get_args(hint)))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        return f"a tuple, each item {_words(get_args(hint)[0])}"
    return {bool: "True or False", int: "a whole number", float: "a number", type(None): "None"}[hint]
