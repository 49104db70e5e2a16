"""``python -m bioshare prepare``: from the form in which a data set is published to one file that training maps.

The file ``NAME.safetensors`` holds ``train_images`` (n, channels, rows, columns) uint8, ``train_labels`` (n,) int64,
``test_images`` and ``test_labels``; and as JSON, in the metadata field "bioshare": ``name``, ``classes``, ``source``
and its ``sha256`` (of a single file), the ``version`` that wrote it, ``mean`` and ``std`` of the training pixels, a
number from 0 to 1 per channel.

ImageNet's images differ in size and would fill 300 GB: they stay where they are, in ``folder`` of the metadata, and
``train_images`` is replaced by their names, ``train_names`` (bytes,) uint8 in UTF-8, one after the other, and
``train_ends`` (n,) int64, where each of them ends.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

import bioshare
from bioshare.files import refuse_unwritable, replacing
from bioshare.train.data.image_folders import ImageFolder
from bioshare.train.data.sources import CifarArchive, Contents, JpegArrays, Source, Split

SOURCES: dict[str, Source] = {
    "cifar10": CifarArchive(
        form="the official cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        names="batches.meta.txt",
        classes=10,
        label_bytes=1,
    ),
    "cifar100": CifarArchive(
        form="the official cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        names="fine_label_names.txt",
        classes=100,
        label_bytes=2,  # coarse and fine
    ),
    "cifar10-jpeg": JpegArrays(
        form="an .npz file with CIFAR-10 as JPEG files (arrays as in bioshare.train.data.sources.JpegArrays)",
        classes=10,
        side=32,
        images={"train": 50_000, "test": 10_000},
    ),
    "tinyimagenet": ImageFolder(
        form="the folder tiny-imagenet-200, or its zip file",
        classes=200,
        side=64,
        images={"train": 100_000, "test": 10_000},
    ),
    "imagenet": ImageFolder(
        form="a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG, or val/*.JPEG and val_annotations.txt",
        classes=1000,
        side=None,
        images={"train": 1_281_167, "test": 50_000},
    ),
}


def prepare(
    name: str,
    path: Path | str,
    folder: Path | str | None = None,
    source: Source | None = None,
    progress: bool = True,
) -> Path:
    """Turn a published data set into the one file that `bioshare.train.data.load` reads.

    The file appears whole or not at all, and replaces one that was there.

    Args:
        name: a key of `SOURCES`.
        path: the archive or the folder that was fetched.
        folder: where ``NAME.safetensors`` goes; None as in `data_folder`.
        source: what ``path`` must be; None for ``SOURCES[name]``.
        progress: show a bar over the images.

    Images are decoded in processes of their own: a script that calls this needs ``if __name__ == "__main__":``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is no ``path``.
        PermissionError: ``folder`` can't be written.
        ValueError: the name is unknown, or the source isn't what it should be; names the file. Nothing was written.
    """
    if name not in SOURCES:
        told = "digits needs no preparation" if name == "digits" else f"got {name!r}"
        raise ValueError(f"name must be one of {', '.join(SOURCES)}; {told}")
    source, path, target = source or SOURCES[name], Path(path), prepared_file(name, folder)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; it must be {source.form}")
    refuse_unwritable(target.parent)
    with tqdm(total=sum(source.images.values()), desc=name, unit="image", disable=not progress, leave=False) as bar:
        contents = source.read(path, bar)
    tensors = _tensors("train", contents.train) | _tensors("test", contents.test)
    metadata = {"bioshare": json.dumps(_facts(name, path, contents))}
    with replacing(target) as temporary:
        save_file(tensors, temporary, metadata)
    return target


def data_folder(folder: Path | str | None = None) -> Path:
    """``folder``; or the environment variable BIOSHARE_DATA; or ``data``."""
    return Path(folder or os.environ.get("BIOSHARE_DATA") or "data")


def prepared_file(name: str, folder: Path | str | None = None) -> Path:
    """Where the prepared data set of that name is."""
    return data_folder(folder) / f"{name}.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command line."""
    forms = "; ".join(f"{name}: {source.form}" for name, source in SOURCES.items())
    parser.add_argument("name", choices=SOURCES, help="the data set")
    parser.add_argument("--from", dest="path", type=Path, required=True, help=f"what was fetched. {forms}")
    parser.add_argument("--to", type=Path, help="folder of NAME.safetensors (default: $BIOSHARE_DATA, or data)")


def main(arguments: argparse.Namespace) -> None:
    """Prepare a data set and say where it is."""
    print(prepare(arguments.name, arguments.path, arguments.to))


def _tensors(part: str, split: Split) -> dict[str, np.ndarray]:
    """What a part is stored as, by name."""
    labels = {f"{part}_labels": split.labels}
    if isinstance(split.images, np.ndarray):
        return labels | {f"{part}_images": split.images}
    encoded = [name.encode() for name in split.images]
    names = np.frombuffer(b"".join(encoded), np.uint8)
    return labels | {f"{part}_names": names, f"{part}_ends": np.cumsum([len(name) for name in encoded])}


def _facts(name: str, path: Path, contents: Contents) -> dict:
    """The metadata."""
    facts = {"name": name, "classes": contents.classes, "source": path.resolve().name, "sha256": contents.sha256}
    facts["version"] = bioshare.__version__
    if contents.folder:
        facts["folder"] = str(contents.folder.resolve())
    if isinstance(contents.train.images, np.ndarray):
        facts["mean"], facts["std"] = pixel_statistics(contents.train.images)
    return facts


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (n, channels, rows, columns) uint8, where 255 counts as 1."""
    counts = np.zeros((images.shape[1], 256))
    for part in np.array_split(images, -(-len(images) // 1000)):  # bincount needs eight bytes per pixel
        counts += [np.bincount(part[:, channel].ravel(), minlength=256) for channel in range(len(counts))]
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.sqrt(variance).tolist()
