"""Data sets by name, each but the digits in one prepared file, ``NAME.safetensors``.

The file holds ``train_images`` (n, channels, rows, columns) uint8, ``train_labels`` (n,) int64, ``test_images`` and
``test_labels``; and as JSON, in the metadata field "bioshare": ``name``, ``classes``, ``source``, the ``sha256`` of a
source in one file, the ``version`` of bioshare, and ``mean`` and ``std`` of the training pixels per channel, from 0
to 1.

ImageNet's images differ in size and would fill 300 GB. The images stay in ``folder`` of the metadata; the place of
``train_images`` is taken by ``train_names`` (bytes,) uint8, the file names in UTF-8 one after the next, and
``train_ends`` (n,) int64, the end of each name.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bioshare.train.config import DatasetName

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel in the paper for TinyImageNet and ImageNet."""
DIGITS_FOR_TRAINING = 1437


@dataclass(frozen=True)
class Usage:
    """Treatment of a data set in Sec. 5 of the paper.

    Attributes:
        side: rows and columns of the network's input.
        validation: number of training images to hold out for tuning.
        flip: whether half of the training images are mirrored.
        imagenet_statistics: whether images are normalised with ImageNet's mean and standard deviation, rather than
            with the mean and standard deviation of all training pixels.
    """

    side: int
    validation: int
    flip: bool = False
    imagenet_statistics: bool = False


USAGES = {
    "cifar10": Usage(32, 5_000),
    "cifar10-jpeg": Usage(32, 5_000),
    "cifar100": Usage(32, 5_000),
    "tinyimagenet": Usage(48, 10_000, imagenet_statistics=True),
    "imagenet": Usage(224, 10_000, flip=True, imagenet_statistics=True),
    "digits": Usage(8, DIGITS_FOR_TRAINING // 5),
}


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Paths of up to a million image files, in two arrays.

    Attributes:
        folder: the folder of all files.
        names: file names in UTF-8, one after the next, (bytes,) uint8.
        starts, ends: start and end of each name, (n,).
    """

    folder: str
    names: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, chosen: np.ndarray) -> ImageFiles:
        """A choice of the files."""
        return ImageFiles(self.folder, self.names, self.starts[chosen], self.ends[chosen])

    def path(self, index: int) -> str:
        """Path of the file of a number."""
        return str(Path(self.folder, self.names[self.starts[index] : self.ends[index]].tobytes().decode()))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their classes.

    Attributes:
        name: a key of `USAGES`.
        classes: names of the classes, in the order of the labels.
        train_images, test_images: (n, channels, rows, columns) uint8; or image files of any size.
        train_labels, test_labels: (n,) int64.
        mean, std: per channel, for normalisation; the brightest pixel counts as 1.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor | ImageFiles
    train_labels: Tensor
    test_images: Tensor | ImageFiles
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of the network's input."""
        side = USAGES[self.name].side
        return len(self.mean), side, side


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """A data set by name. Images stay on disk until their first use: the file is mapped into memory.

    "digits" are scikit-learn's 1,797 handwritten digits of 8 x 8, and need no file. The 17 levels of grey become 0 to
    255. In a shuffled order with a fixed seed, the first 1,437 train and the last 360 test.

    Args:
        name: a key of `USAGES`.
        folder: folder of the file from ``python -m bioshare prepare``; None for the environment variable
            BIOSHARE_DATA, or ``data``.

    Raises:
        FileNotFoundError: the data set was not prepared; gives the command.
        ValueError: the name is unknown, or the file is damaged.
    """
    if name not in get_args(DatasetName):
        raise ValueError(f"name must be one of {', '.join(get_args(DatasetName))}; got {name!r}")
    if name == "digits":
        return _digits()
    return _read_prepared(prepared_file(name, folder), name)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes half a second

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = np.rint(pixels[order] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    images, labels = torch.from_numpy(pixels), torch.from_numpy(labels[order].astype(np.int64))
    train, test = slice(DIGITS_FOR_TRAINING), slice(DIGITS_FOR_TRAINING, None)
    mean, std = map(tuple, pixel_statistics(pixels[train]))
    names = tuple(map(str, range(10)))
    return Dataset("digits", names, images[train], labels[train], images[test], labels[test], mean, std)


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (n, channels, rows, columns) uint8, where 255 counts as 1."""
    counts = np.zeros((images.shape[1], 256))
    for part in np.array_split(images, -(-len(images) // 1000)):  # bincount needs eight bytes per pixel
        counts += [np.bincount(part[:, channel].ravel(), minlength=256) for channel in range(len(counts))]
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.sqrt(variance).tolist()


def prepared_file(name: str, folder: Path | str | None = None) -> Path:
    """Path of a prepared data set, in ``folder``, $BIOSHARE_DATA or ``data``."""
    return Path(folder or os.environ.get("BIOSHARE_DATA") or "data", f"{name}.safetensors")


def _read_prepared(path: Path, name: str) -> Dataset:
    command = f"python -m bioshare prepare {name} --from PATH --to {path.parent}"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; make it by: {command}")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["bioshare"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        if facts["name"] != name:
            raise ValueError(f"it holds {facts['name']}")
        train, test = ((_images(part, tensors, facts), tensors[f"{part}_labels"]) for part in ("train", "test"))
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a whole prepared file: {error}. Make it again by: {command}") from error
    if "folder" in facts and not Path(facts["folder"]).is_dir():
        raise FileNotFoundError(
            f"{path} leads to images in {facts['folder']}, which isn't there; make it by: {command}"
        )
    mean, std = IMAGENET_STATISTICS if USAGES[name].imagenet_statistics else (facts["mean"], facts["std"])
    return Dataset(name, tuple(facts["classes"]), *train, *test, tuple(mean), tuple(std))


def _images(part: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Tensor | ImageFiles:
    if f"{part}_images" in tensors:
        return tensors[f"{part}_images"]
    names, ends = (tensors[f"{part}_{kind}"].numpy() for kind in ("names", "ends"))
    return ImageFiles(facts["folder"], names, np.concatenate([[0], ends[:-1]]), ends)
