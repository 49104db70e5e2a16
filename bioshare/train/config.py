"""`TrainConfig` and the small objects that make one: everything that decides the outcome of a training run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import nn

from bioshare.bridge import Phase
from bioshare.checks import choice, real, whole
from bioshare.nn import LocallyConnected2d, cifar_resnet, resnet18, to_locally_connected, with_lateral_centring
from bioshare.train.feedback import DirectFeedback as DirectFeedback
from bioshare.train.feedback import Feedback as Feedback
from bioshare.train.feedback import FeedbackWeights as FeedbackWeights
from bioshare.train.optimizers import SGD as SGD
from bioshare.train.optimizers import Adam as Adam
from bioshare.train.optimizers import AdamW as AdamW
from bioshare.train.optimizers import Optimizer as Optimizer
from bioshare.train.snapshot import Snapshot as Snapshot

DatasetName = Literal[
    "cifar10",
    "cifar10-jpeg",
    "cifar100",
    "cifar10-16",
    "cifar10-jpeg-16",
    "mnist",
    "tinyimagenet",
    "imagenet",
    "digits",
]
Architecture = Literal["resnet8", "resnet14", "resnet20", "resnet18"]
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in (8, 14, 20)},
    "resnet18": resnet18,
}


@dataclass(frozen=True)
class ImageData:
    """Small images: CIFAR at 32 x 32 or averaged to 16 x 16, MNIST, TinyImageNet, or scikit-learn's digits."""

    name: Literal[
        "cifar10", "cifar10-jpeg", "cifar100", "cifar10-16", "cifar10-jpeg-16", "mnist", "tinyimagenet", "digits"
    ]

    def __post_init__(self) -> None:
        choice("dataset", self.name, get_args(DatasetName))


@dataclass(frozen=True)
class ImageNet:
    """ImageNet, whose training images are streamed from their files.

    Attributes:
        crop: "resized" crops 224 x 224 pixels from the image resized to a smaller side of 256, as in the paper's text;
            "random-resized" takes a random part (8 to 100 % of the area, aspect 3/4 to 4/3), as in the published code.
    """

    name: ClassVar[str] = "imagenet"
    crop: Literal["resized", "random-resized"] = "resized"

    def __post_init__(self) -> None:
        choice("crop", self.crop, ("resized", "random-resized"))


@dataclass(frozen=True)
class OwnImages:
    """Images of one's own: in memory, or prepared by ``python -m bioshare prepare NAME --from FOLDER --side PIXELS``.

    Attributes:
        name: name of the prepared file, without its ending; for images in memory, any name.
    """

    name: str

    def __post_init__(self) -> None:
        word = isinstance(self.name, str) and re.fullmatch(r"\w[\w.-]*", self.name)
        if not word or self.name in get_args(DatasetName):
            raise ValueError(f"name must be a word that no known data set has; got {self.name!r}")


class Network:
    """Base of the networks of a run.

    A network of one's own is a frozen dataclass derived from this class, whose fields are numbers, texts or tuples: the
    configuration of a run is stored as text.
    """

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        """The network for images of ``input_size`` (channels, rows, columns); weights from PyTorch's generator."""
        raise NotImplementedError(f"{type(self).__name__} must have the method build(num_classes, input_size)")

    def embed(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        """The network with the weights of a `Snapshot`, of which ``model`` is the network: by default ``model``."""
        return model


@dataclass(frozen=True)
class Convolutional(Network):
    """A network with ordinary convolutions.

    Attributes:
        architecture: "resnet8", "resnet14" or "resnet20" in the form for CIFAR, or "resnet18" in the form for ImageNet.
        width: factor of the usual number of channels; None for the paper's, 1, and 0.5 for "resnet18".
    """

    architecture: Architecture = "resnet20"
    width: float | None = None

    def __post_init__(self) -> None:
        choice("architecture", self.architecture, get_args(Architecture))
        if self.width is not None:
            real("width", self.width, "None or a positive factor of the channels", above=0, array=False)

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        """The network for images of ``input_size`` (channels, rows, columns)."""
        width = {} if self.width is None else {"width": self.width}
        return ARCHITECTURES[self.architecture](num_classes, in_channels=input_size[0], **width)


@dataclass(frozen=True)
class LocallyConnected(Network):
    """A network whose convolutions are replaced by locally connected layers.

    Attributes:
        architecture, width: as for `Convolutional`.
        keep_first: number of convolutions that stay, counted from the input ("1st layer conv" is 1).
        start: weights before training, "independent" at every position, as in the paper, or the "copy" of a
            convolution's.
        normalisation: "batch" normalisation; or "lateral": lateral connections subtract the mean over the neurons of a
            sharing module in every image (`bioshare.nn.with_lateral_centring`), before batch normalisation scales.
    """

    architecture: Architecture = "resnet20"
    keep_first: int = 0
    width: float | None = None
    start: Literal["independent", "copy"] = "independent"
    normalisation: Literal["batch", "lateral"] = "batch"

    def __post_init__(self) -> None:
        Convolutional(self.architecture, self.width)
        whole("keep_first", self.keep_first, "a number of convolutions", at_least=0)
        choice("start", self.start, ("independent", "copy"))
        choice("normalisation", self.normalisation, ("batch", "lateral"))

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        """The network for images of ``input_size`` (channels, rows, columns).

        Raises:
            ValueError: ``keep_first`` leaves no layer to be locally connected.
        """
        return self._converted(Convolutional(self.architecture, self.width).build(num_classes, input_size), input_size)

    def embed(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        """The locally connected copy of a convolutional network with the same function."""
        return replace(self, start="copy")._converted(model, input_size)

    def _converted(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        model = to_locally_connected(model, input_size, self.start, self.keep_first, layout="channels_last")
        if not any(isinstance(module, LocallyConnected2d) for module in model.modules()):
            raise ValueError(f"keep_first must leave a convolution of {self.architecture}; got {self.keep_first}")
        return with_lateral_centring(model) if self.normalisation == "lateral" else model


@dataclass(frozen=True)
class Every:
    """A phase after every n-th batch, ws(n) in the paper: after batches whose index n divides, the first one included.

    Attributes:
        n: number of batches from one phase to the next.
        phase: change of the weights, see `bioshare.bridge.Phase`.
        count: count batches from the start of every "epoch", as the paper does, or of the "run".
        first: number of the batch after which the first phase comes, from 0, counted as above: with n = 10 and
            first = 8, batches 8, 18, 28, ...; a float below 1 is a part of the epoch or run; with -1 the last batch
            is one of them.
    """

    n: int
    phase: Phase
    count: Literal["epoch", "run"] = "epoch"
    first: int | float = 0

    def __post_init__(self) -> None:
        whole("every", self.n, "a number of batches", at_least=1)
        expected = "the number of a batch, a part below 1 as a float, or -1"
        if isinstance(self.first, float):
            real("first", self.first, expected, at_least=0, below=1, array=False)
        else:
            whole("first", self.first, expected, at_least=-1)
        choice("count", self.count, ("epoch", "run"))
        if not isinstance(self.phase, Phase):
            raise TypeError(f"phase must be a Phase, such as bs.InstantSharing(); got {self.phase!r}")

    def first_of(self, batches: int, epochs: int) -> int:
        """The number of the batch after which the first phase comes, with so many batches in an epoch.

        Raises:
            ValueError: the phase would never come.
        """
        total = batches if self.count == "epoch" else batches * epochs
        first = round(self.first * total) if isinstance(self.first, float) else self.first
        first = (total - 1) % self.n if first == -1 else first
        if first >= total:
            raise ValueError(f"first must be a batch of the {total} of the {self.count}, from 0; got {first}")
        return first


@dataclass(frozen=True)
class TrainConfig:
    """One training run of Pogodin 2021, Sec. 5: same configuration, same machine, same weights.

    Attributes:
        dataset: training and test images; a name is short for `ImageData` of the name, or for ``ImageNet()``. Images
            of one's own are ``OwnImages(name)``.
        network: `Convolutional`, `LocallyConnected`, or a `Network` of one's own.
        optimizer: `AdamW`, `Adam` or `SGD`.
        feedback: how errors travel back: `FeedbackWeights`, `DirectFeedback`, or None for backpropagation.
        milestones: fractions of the epochs at which the learning rate is divided by ``divisor``.
        divisor: divisor of the learning rate.
        warm_up: epochs over which the learning rate rises in equal steps, the last of which is the full rate.
        phases: changes of the weights between steps of learning, each with an interval. Phases that fall due at one
            batch run in their order.
        epochs: passes over the training images.
        batch_size: images in a batch, repetitions included; over all processes.
        repetitions: crops of the same image in a batch.
        padding: pixels around a training image before the random crop (Sec. 5.1); ImageNet has none.
        flip: mirror half of the training images; None for the choice of the paper (ImageNet yes, others no).
        precision: "fp16" and "bf16" are automatic mixed precision; "auto" is fp16 on a GPU and fp32 on a CPU.
        compile: pass the network through `torch.compile`.
        start_from: first weights, a `Snapshot` of another run; None for weights drawn from the seed.
        snapshots: epochs after which a file of the weights is kept in the folder of the run, 0 for the first weights.
        train_images: number of training images, drawn at random; None for all.
        validation: hold out the paper's validation split, and test on this split instead of the test images.
        seed: seed of the initial weights, of the order and the crops of images, and of the phases.

    Raises:
        TypeError, ValueError: a field is of the wrong kind or out of range.
    """

    dataset: ImageData | ImageNet | OwnImages | str = "cifar10"
    network: Network = Convolutional()
    optimizer: Optimizer = field(default_factory=AdamW)
    feedback: Feedback | None = None
    milestones: tuple[float, ...] = (0.5, 0.75)
    divisor: float = 4.0
    warm_up: int = 0
    phases: tuple[Every, ...] = ()
    epochs: int = 200
    batch_size: int = 512
    repetitions: int = 1
    padding: int = 4
    flip: bool | None = None
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    compile: bool = False
    start_from: Snapshot | None = None
    snapshots: tuple[int, ...] = ()
    train_images: int | None = None
    validation: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.dataset, str):
            named = ImageNet() if self.dataset == "imagenet" else ImageData(self.dataset)  # pyright: ignore[reportArgumentType]
            object.__setattr__(self, "dataset", named)
        images, networks = (ImageData, ImageNet, OwnImages), (Convolutional, LocallyConnected, Network)
        parts = {"dataset": images, "network": networks, "optimizer": (AdamW, Adam, SGD)}
        parts |= {"feedback": (FeedbackWeights, DirectFeedback)} if self.feedback is not None else {}
        parts |= {"start_from": (Snapshot,)} if self.start_from is not None else {}
        for name, kinds in parts.items():
            if not isinstance(getattr(self, name), kinds):
                kind = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{name} must be an object of type {kind}; got {getattr(self, name)!r}")
        for name, kind in (("milestones", float | int), ("phases", Every), ("snapshots", int)):
            items = getattr(self, name)
            if not isinstance(items, tuple) or not all(isinstance(item, kind) for item in items):
                raise TypeError(f"{name} must be a tuple of {getattr(kind, '__name__', 'numbers')}; got {items!r}")
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted({*self.milestones}):
            raise ValueError(f"milestones must be increasing fractions between 0 and 1; got {self.milestones!r}")
        real("divisor", self.divisor, "a number of at least 1", at_least=1, array=False)
        whole("warm_up", self.warm_up, "a number of epochs", at_least=0)
        whole("epochs", self.epochs, "a number of epochs", at_least=1)
        whole("batch_size", self.batch_size, "a number of images", at_least=1)
        whole("repetitions", self.repetitions, "a number of crops", at_least=1)
        whole("padding", self.padding, "a number of pixels", at_least=0)
        whole("seed", self.seed, "an integer", at_least=0)
        if self.train_images is not None:
            whole("train_images", self.train_images, "a number of images or None", at_least=1)
        for epoch in self.snapshots:
            whole("snapshots", epoch, "numbers of epochs", at_least=0)
        choice("flip", self.flip, (None, True, False))
        choice("compile", self.compile, (True, False))
        choice("validation", self.validation, (True, False))
        choice("precision", self.precision, ("auto", "fp32", "fp16", "bf16"))
        if self.batch_size % self.repetitions:
            raise ValueError(
                f"batch_size must be a multiple of repetitions={self.repetitions}; got {self.batch_size}. A batch "
                "holds batch_size / repetitions different images"
            )

    @property
    def dataset_name(self) -> str:
        """Name of the data set."""
        return self.dataset if isinstance(self.dataset, str) else self.dataset.name

    def build_network(
        self, num_classes: int, input_size: Sequence[int], snapshot: nn.Module | None = None
    ) -> nn.Module:
        """The network for images of ``input_size`` (channels, rows, columns), with weights drawn from the seed.

        The network has the feedback weights, and the state of the phases. PyTorch's global generator stays as before.

        Args:
            num_classes: number of scores.
            input_size: (channels, rows, columns).
            snapshot: the network with the weights of ``start_from`` in the place of drawn ones; None without.
        """
        channels, rows, columns = input_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            drawn = lambda: self.network.build(num_classes, (channels, rows, columns))
            model = drawn() if snapshot is None else snapshot
        if self.feedback is not None:
            model = self.feedback.build(model, input_size, self.seed)
        for every in self.phases:
            every.phase.prepare(model)
        return model

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0: divided at every milestone, smaller while warming up."""
        passed = sum(epoch >= round(milestone * self.epochs, 9) for milestone in self.milestones)
        warm = min(1.0, (epoch + 1) / self.warm_up) if self.warm_up else 1.0
        return warm * (self.optimizer.learning_rate / self.divisor**passed)
