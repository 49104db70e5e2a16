"""The file of a prepared data set, ``NAME.safetensors``: `write_prepared` makes the file, `read_prepared` maps it.

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
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

import bioshare
from bioshare.files import replacing
from bioshare.train.data.images import Encoded

if TYPE_CHECKING:
    from bioshare.train.data.sources import Contents, Split


def data_folder(folder: Path | str | None = None) -> Path:
    """``folder``; or the environment variable BIOSHARE_DATA; or ``data``."""
    return Path(folder or os.environ.get("BIOSHARE_DATA") or "data")


def prepared_file(name: str, folder: Path | str | None = None) -> Path:
    """Path of the prepared data set of a name."""
    return data_folder(folder) / f"{name}.safetensors"


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

    def file(self, index: int) -> Encoded:
        """The file of a number."""
        name = self.names[self.starts[index] : self.ends[index]].tobytes().decode()
        return Encoded(str(Path(self.folder, name)))


Labelled = tuple[Tensor | ImageFiles, Tensor]
"""Images and labels."""


def read_prepared(path: Path, name: str) -> tuple[Labelled, Labelled, dict[str, Any]]:
    """Images and labels for training, images and labels for testing, and the metadata.

    Raises:
        FileNotFoundError: the file is missing, or the folder of its images; gives the command.
        ValueError: the file is damaged, or holds another data set.
    """
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
    return train, test, facts


def _images(part: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Tensor | ImageFiles:
    if f"{part}_images" in tensors:
        return tensors[f"{part}_images"]
    names, ends = (tensors[f"{part}_{kind}"].numpy() for kind in ("names", "ends"))
    return ImageFiles(facts["folder"], names, np.concatenate([[0], ends[:-1]]), ends)


def write_prepared(path: Path, name: str, source: Path, contents: Contents) -> None:
    """Write the contents of a source to a prepared file, atomically."""
    tensors = _tensors("train", contents.train) | _tensors("test", contents.test)
    facts = {"name": name, "classes": contents.classes, "source": source.resolve().name, "sha256": contents.sha256}
    facts["version"] = bioshare.__version__
    if contents.folder:
        facts["folder"] = str(contents.folder.resolve())
    if isinstance(contents.train.images, np.ndarray):
        facts["mean"], facts["std"] = pixel_statistics(contents.train.images)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"bioshare": json.dumps(facts)})


def _tensors(part: str, split: Split) -> dict[str, np.ndarray]:
    """The arrays of the training or test images, by name."""
    labels = {f"{part}_labels": split.labels}
    if isinstance(split.images, np.ndarray):
        return labels | {f"{part}_images": split.images}
    encoded = [name.encode() for name in split.images]
    names = np.frombuffer(b"".join(encoded), np.uint8)
    return labels | {f"{part}_names": names, f"{part}_ends": np.cumsum([len(name) for name in encoded])}


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (n, channels, rows, columns) uint8, where 255 counts as 1."""
    counts = np.zeros((images.shape[1], 256))
    for part in np.array_split(images, -(-len(images) // 1000)):  # bincount needs eight bytes per pixel
        counts += [np.bincount(part[:, channel].ravel(), minlength=256) for channel in range(len(counts))]
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.sqrt(variance).tolist()
