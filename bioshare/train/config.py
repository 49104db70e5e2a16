"""`TrainConfig`: everything that decides the outcome of one training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

DatasetName = Literal["cifar10", "cifar10-jpeg", "cifar100", "tinyimagenet", "imagenet", "digits"]


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
        for name, least in (("epochs", 1), ("batch_size", 1), ("repetitions", 1), ("padding", 0), ("keep_first", 0)):
            _least(name, getattr(self, name), least)
        for name in ("share_every", "train_images"):
            if getattr(self, name) is not None:
                _least(name, getattr(self, name), 1)
        _least("seed", self.seed, 0)
        if self.batch_size % self.repetitions:
            raise ValueError(
                f"batch_size must be a multiple of repetitions={self.repetitions}; got {self.batch_size}. A batch "
                "holds batch_size / repetitions different images"
            )
        if not self.locally_connected and (self.share_every is not None or self.keep_first):
            raise ValueError("share_every and keep_first need locally_connected=True; a convolution shares by itself")
        for name, least in (("learning_rate", math.ulp(0.0)), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be finite and {'>= 0' if least == 0 else '> 0'}; got {value!r}")
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must be increasing fractions between 0 and 1; got {self.milestones!r}")


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


def _least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
