"""A data set by name, and the batches for training and testing.

Each data set but the digits is in one prepared file, see `bioshare.train.data.prepared`.
"""

# ruff: noqa: PT028 (test_batches is no test)
from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bioshare.checks import shown, whole
from bioshare.train.config import DatasetName, ImageNet, TrainConfig
from bioshare.train.data.batches import Batches, DecodedBatches
from bioshare.train.data.datasets import DIGITS_FOR_TRAINING, Dataset, pixel_statistics
from bioshare.train.data.prepared import prepared_file, read_prepared
from bioshare.train.distributed import device_named
from bioshare.train.seeds import seeded


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """A data set by name. Images stay on disk until their first use: the file is mapped into memory.

    "digits" are scikit-learn's 1,797 handwritten digits of 8 x 8, and need no file. The 17 levels of grey become 0 to
    255. In a shuffled order with a fixed seed, the first 1,437 train and the last 360 test.

    Args:
        name: a key of `USAGES`, or the name of images of one's own.
        folder: folder of the file from ``python -m bioshare prepare``; None for the environment variable
            BIOSHARE_DATA, or ``data``.

    Raises:
        FileNotFoundError: the data set was not prepared; gives the command.
        TypeError: ``folder`` is no path.
        ValueError: the name is unknown, or the file is damaged or of another form; names the file and the command.
    """
    path = prepared_file(name, folder)
    if not isinstance(name, str) or (name not in get_args(DatasetName) and not path.exists()):
        raise ValueError(
            f"name must be one of {', '.join(get_args(DatasetName))}; got {name!r}. For images of your own, make "
            f"{path} by: python -m bioshare prepare {name} --from FOLDER --side PIXELS"
        )
    if name == "digits":
        return _digits()
    return read_prepared(path, name)


def training_batches(
    dataset: Dataset, config: TrainConfig, device: torch.device, rank: int = 0, world: int = 1
) -> Batches:
    """The training images of a run, in a new order and in new crops in every epoch.

    An epoch is one pass over the images. A batch has batch_size / repetitions different images, each
    ``config.repetitions`` times in a row, in different crops; an epoch has ``config.repetitions`` times as many batches
    as without repetitions.

    Crops (Sec. 5.1): CIFAR's images and digits have a border of ``config.padding`` pixels that are 0 after
    normalisation, and are cropped to their size; TinyImageNet's central (48 + 2 padding) x (48 + 2 padding) pixels are
    cropped to 48 x 48; ImageNet's smaller side becomes 256 pixels, and the image is cropped to 224 x 224 or by
    `ImageNet.crop`, at any padding. ``config.flip`` mirrors half of the images; None mirrors ImageNet only.

    Args:
        dataset: a data set from `load`.
        config: the configuration of the run.
        device: device of the batches; decoded images move there whole.
        rank, world: number of this process, and of all processes. Each process gets consecutive images of every batch;
            the numbers differ by one image at most, and may be 0 in a small batch.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: ``config`` asks for more images than there are, or for more padding than TinyImageNet has;
            ``rank`` isn't below ``world``.
    """
    device = _checked(dataset, config, device, rank, world)
    chosen = np.arange(len(dataset.train_labels))
    if config.validation:
        chosen = np.setdiff1d(chosen, _held_out(dataset))
    if config.train_images is not None:
        if config.train_images > len(chosen):
            raise ValueError(f"train_images must be at most {len(chosen)} here; got {config.train_images}")
        chosen = np.sort(seeded("subset", config.seed).choice(chosen, config.train_images, replace=False))
    flip = dataset.usage.flip if config.flip is None else config.flip
    order = {"repetitions": config.repetitions, "seed": config.seed, "flip": flip, "rank": rank, "world": world}
    random_resized = isinstance(config.dataset, ImageNet) and config.dataset.crop == "random-resized"
    return _batches(dataset, "train", chosen, config, device, config.padding, random_resized, **order)


def test_batches(dataset: Dataset, config: TrainConfig, device: torch.device, rank: int = 0, world: int = 1) -> Batches:
    """The test images in order, or with ``config.validation`` the held-out training images; the same every epoch.

    Images are not padded; the network sees the centre of larger images. The arguments are as for `training_batches`.
    """
    device = _checked(dataset, config, device, rank, world)
    chosen = _held_out(dataset) if config.validation else np.arange(len(dataset.test_labels))
    part = "train" if config.validation else "test"
    return _batches(dataset, part, chosen, config, device, rank=rank, world=world)


test_batches.__test__ = False  # pyright: ignore[reportFunctionMemberAccess] (nor where it is imported)


def _checked(dataset: object, config: object, device: str | torch.device, rank: int, world: int) -> torch.device:
    """The device; raise TypeError or ValueError for an argument of another kind."""
    for name, value, kind in (("dataset", dataset, Dataset), ("config", config, TrainConfig)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}; got {shown(value)}")
    last = whole("world", world, "a number of processes", at_least=1) - 1
    if whole("rank", rank, "the number of a process", at_least=0) > last:
        raise ValueError(f"rank must be from 0 to world - 1 = {last}; got {rank}")
    return device_named(device)


def _batches(
    dataset: Dataset,
    part: Literal["train", "test"],
    chosen: np.ndarray,
    config: TrainConfig,
    device: torch.device,
    padding: int = 0,
    random_resized: bool = False,
    **fields: Any,
) -> Batches:
    """The batches of the chosen training or test images, with further fields of `Batches`."""
    images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
    if len(chosen) < len(images):
        images, labels = images[chosen], labels[chosen]
    side = dataset.usage.side
    mean, std = (255 * torch.tensor(v, device=device)[:, None, None] for v in (dataset.mean, dataset.std))
    fields |= {"images": len(chosen), "batch_size": config.batch_size, "side": side, "mean": mean, "std": std}
    if not isinstance(images, Tensor):
        from bioshare.train.data.streams import StreamedBatches  # not for small images

        return StreamedBatches(files=images, labels=labels, random_resized=random_resized, **fields)
    most = (images.shape[-1] - side) // 2
    if most and padding > most:
        raise ValueError(
            f"padding must be at most {most} for {dataset.name}, since {side} + 2 padding of the "
            f"{images.shape[-1]} rows and columns of an image are used; got {padding}"
        )
    return DecodedBatches(pixels=images.to(device), labels=labels.to(device), padding=padding, **fields)


def _held_out(dataset: Dataset) -> np.ndarray:
    """Indices of the validation images among the training images, the same for all seeds."""
    held_out, images = dataset.usage.validation, len(dataset.train_labels)
    if not held_out:
        raise ValueError(f"validation=True holds out a tenth of the images; {dataset.name} has only {images} here")
    if held_out >= images:
        raise ValueError(f"validation=True holds out {held_out} images; {dataset.name} has only {images} here")
    return np.sort(seeded("validation", 0).choice(images, held_out, replace=False))


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
