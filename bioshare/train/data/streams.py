"""Batches of too many images for the memory, which a pool of workers decodes, resizes and crops."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from bioshare.machine import cores
from bioshare.train.data.batches import Batches
from bioshare.train.data.images import Encoded, random_resized_crop, resized_crop

RESIZE = 256
"""Pixels of the smaller side before the crop."""

Item = tuple[int, np.ndarray, bool]
"""Number of an image, its draws (see `Batches.parts`), and whether the crop is mirrored."""


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

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str) or not self.folder:
            raise ValueError(f"folder must be text, and not empty; got {self.folder!r:.80}")
        for name, expected in (("names", np.uint8), ("starts", np.int64), ("ends", np.int64)):
            array = getattr(self, name)
            if array.dtype != expected or array.ndim != 1:
                raise ValueError(
                    f"{name} must be {expected.__name__} on one axis; got {array.dtype} of the shape {array.shape}"
                )
        starts, ends = self.starts, self.ends
        if len(starts) != len(ends) or not ((starts >= 0) & (starts < ends) & (ends <= len(self.names))).all():
            raise ValueError(f"starts and ends must rise from 0 to {len(self.names)}, the number of bytes in names")
        self._check_inside()

    def _check_inside(self) -> None:
        """Check that no name leads out of the folder; single names are looked at only if two dots stand somewhere."""
        first = np.flatnonzero(self.names[self.starts] == ord("/"))[:1]
        dots = range(len(self)) if ".." in self.names.tobytes().decode() else ()
        for index in (*first, *dots):
            name = self.name(index)
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"names must lead to files in the folder; number {index} is {name!r}")

    @staticmethod
    def of(folder: str, names: np.ndarray, ends: np.ndarray) -> ImageFiles:
        """All files whose names are in ``names``, one after the next."""
        return ImageFiles(folder, names, np.concatenate([np.zeros(1, ends.dtype), ends.ravel()[:-1]]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, chosen: np.ndarray) -> ImageFiles:
        """A choice of the files."""
        return ImageFiles(self.folder, self.names, self.starts[chosen], self.ends[chosen])

    def path(self, index: int) -> str:
        """Path of the file of a number."""
        return str(Path(self.folder, self.name(index)))

    def name(self, index: int) -> str:
        """Name of the file of a number, below the folder."""
        return self.names[self.starts[index] : self.ends[index]].tobytes().decode()


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedBatches(Batches):
    """Batches of image files.

    Workers get instructions image by image, so that the number of workers changes nothing. Workers return uint8;
    images are normalised on the device.

    Attributes:
        files: the images.
        labels: (n,) int64.
        side: rows and columns of the crops.
        random_resized: whether a random part is cropped and then resized, instead of resized and then cropped.
        mean, std: statistics of the pixels from 0 to 255, (channels, 1, 1), on the device.
        workers: number of decoding processes; None for one per core, shared with the processes of torchrun on this
            machine; 0 to decode in this process.
    """

    files: ImageFiles
    labels: Tensor
    side: int
    mean: Tensor
    std: Tensor
    random_resized: bool = False
    workers: int | None = None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.mean.device
        workers = _free_cores() if self.workers is None else self.workers
        loader = DataLoader(
            _Crops(self.files, self.side, self.random_resized),
            batch_sampler=(list(zip(*part, strict=True)) for part in self.parts(epoch, start)),  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_parent,
            collate_fn=partial(_collate, side=self.side),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # instead of the global generator
        )
        for pixels, indices in _decoded(loader):
            images = sent(pixels, device)
            yield (images - self.mean) / self.std, sent(self.labels[indices], device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A copy of the host's values on a device; the host does not wait, since the source is pinned."""
    if device.type == "cuda":
        values = values.pin_memory()  # no copy of pinned values
    return values.to(device, non_blocking=True)


def _decoded(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a loader; an error of a worker is one line.

    Raises:
        ValueError: an image can't be read; gives its name.
        ChildProcessError: a worker was killed.
    """
    try:
        for batch in loader:
            if isinstance(batch, ValueError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not any(words in str(error) for words in ("exited unexpectedly", "killed by signal")):
            raise
        raise ChildProcessError(
            "a process that decodes images was killed, perhaps for lack of memory. Free memory, and go on with --resume"
        ) from error


class _Crops(MapDataset):
    """The crops of items."""

    def __init__(self, files: ImageFiles, side: int, random_resized: bool) -> None:
        self.files, self.side, self.random_resized = files, side, random_resized

    def __getitem__(self, item: Item) -> tuple[np.ndarray | ValueError, int]:
        """A crop, or the error of an image that can't be read; PyTorch would make pages of an exception."""
        index, (row, column, _, area, aspect), mirrored = item
        file = Encoded(self.files.path(index))
        try:
            if self.random_resized:
                crop = random_resized_crop(file, self.side, row, column, area, aspect)
            else:
                crop = resized_crop(file, RESIZE, self.side, row, column)
        except ValueError as error:
            return error, index
        return crop[..., ::-1] if mirrored else crop, index


def _leave_signals_to_the_parent(worker: int) -> None:
    """Move a worker out of the process group: its death by Ctrl-C would end the run before the checkpoint."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _collate(crops: list[tuple[np.ndarray | ValueError, int]], side: int) -> tuple[Tensor, Tensor] | ValueError:
    """Pixels and indices of a batch, which may be empty; or the error of an image."""
    pixels = np.empty((len(crops), 3, side, side), np.uint8)
    for place, (crop, _) in zip(pixels, crops, strict=True):
        if isinstance(crop, ValueError):
            return crop
        place[:] = crop
    return torch.from_numpy(pixels), torch.tensor([index for _, index in crops], dtype=torch.int64)


def _free_cores() -> int:
    """Cores per process of torchrun on this machine; 0 in a daemonic process, which may not start another."""
    if multiprocessing.current_process().daemon:
        return 0
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
