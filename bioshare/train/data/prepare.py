"""``python -m bioshare prepare``: turn a published data set into the one file that training maps into memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import bioshare
from bioshare.checks import flag, whole
from bioshare.cli import positive
from bioshare.files import check_writable, expanded
from bioshare.progress import shows_bar
from bioshare.train.config import OwnImages
from bioshare.train.data.datasets import pixel_statistics
from bioshare.train.data.image_folders import ImageFolder
from bioshare.train.data.prepared import prepared_file, write_prepared
from bioshare.train.data.sources import Averaged, CifarArchive, Contents, IdxFiles, JpegArrays, Source, Split

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
    "mnist": IdxFiles(
        form="a folder with train-images-idx3-ubyte.gz and MNIST's three other files",
        classes=10,
        side=28,
        images={"train": 60_000, "test": 10_000},
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
SOURCES |= {f"{name}-16": Averaged(SOURCES[name], 2) for name in ("cifar10", "cifar10-jpeg")}


def own_images(side: int) -> ImageFolder:
    """The form of images of one's own, brought to side x side pixels."""
    form = "a folder with train/CLASS and val/CLASS, and in these JPEG or PNG files of any size"
    return ImageFolder(form, None, whole("side", side, "a number of pixels", at_least=1), {}, resize=True)


def prepare(
    name: str,
    path: Path | str,
    folder: Path | str | None = None,
    source: Source | None = None,
    progress: bool = True,
) -> Path:
    """Turn a published data set, or images of one's own, into the one file for `bioshare.train.data.load`.

    The file appears whole or not at all, and replaces an older file. Many images are decoded in several processes,
    which end with this process, however that ends.

    Args:
        name: a key of `SOURCES`; or with ``source=own_images(side)`` the name of images of one's own.
        path: the archive or folder.
        folder: folder of the new file ``NAME.safetensors``; None for $BIOSHARE_DATA, or ``data``.
        source: form of ``path``; None for ``SOURCES[name]``.
        progress: show a bar over the images.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: there is no ``path``.
        PermissionError: ``folder`` can't be written.
        TypeError: ``path`` or ``folder`` is no path, ``source`` no `Source`, or ``progress`` not True or False.
        ValueError: the name is unknown, or the source is damaged or of another form. Nothing was written.
        ChildProcessError: a decoding process was killed. Nothing was written.
    """
    if source is not None and not isinstance(source, Source):
        raise TypeError(f"source must be own_images(side) or another Source; got {source!r:.80}")
    flag("progress", progress)
    known = isinstance(name, str) and name in SOURCES
    if source is not None and not known:
        OwnImages(name)  # checks the name
    elif not known:
        detail = "digits needs no preparation" if name == "digits" else f"got {name!r}"
        own = "Images of your own need their size, --side PIXELS"
        raise ValueError(f"name must be one of {', '.join(SOURCES)}; {detail}. {own}")
    source, path, target = source or SOURCES[name], expanded(path), prepared_file(name, folder)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; it must be {source.form}")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} must be {source.form}; got a pipe or a device")
    check_writable(target.parent)
    with tqdm(
        total=sum(source.images.values()) or None, desc=name, unit="image", disable=not shows_bar(progress), leave=False
    ) as bar:
        contents = source.read(path, bar)
    tensors = _tensors("train", contents.train) | _tensors("test", contents.test)
    try:
        write_prepared(target, tensors, _facts(name, path, contents))
    except ValueError as error:
        raise ValueError(f"{path} holds no data set that can be used: {error}") from error
    return target


def _facts(name: str, source: Path, contents: Contents) -> dict[str, Any]:
    """The metadata of the prepared file."""
    facts = {"name": name, "classes": contents.classes, "source": source.resolve().name, "sha256": contents.sha256}
    facts["version"] = bioshare.__version__
    if contents.folder:
        facts["folder"] = str(contents.folder.resolve())
    if isinstance(contents.train.images, np.ndarray):
        facts["mean"], facts["std"] = pixel_statistics(contents.train.images)
    return facts


def _tensors(part: str, split: Split) -> dict[str, Tensor]:
    """The tensors of the training or test images, by name."""
    labels = {f"{part}_labels": torch.from_numpy(split.labels)}
    if isinstance(split.images, np.ndarray):
        return labels | {f"{part}_images": torch.from_numpy(split.images)}
    encoded = [name.encode() for name in split.images]
    names, ends = bytearray(b"".join(encoded)), np.cumsum([len(name) for name in encoded])
    return labels | {
        f"{part}_names": torch.frombuffer(names, dtype=torch.uint8),
        f"{part}_ends": torch.from_numpy(ends),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prepare``."""
    forms = "; ".join(f"{name}: {source.form}" for name, source in SOURCES.items())
    parser.add_argument("name", help=f"{', '.join(SOURCES)}; or a name for images of your own, with --side")
    own = f"images of your own: {own_images(1).form}"
    parser.add_argument("--from", dest="path", type=Path, required=True, help=f"the files. {forms}; {own}")
    side = "rows and columns of images of your own: the smaller side becomes as long, and the centre is cut out"
    parser.add_argument("--side", type=positive, metavar="PIXELS", help=side)
    parser.add_argument("--to", type=Path, help="folder of NAME.safetensors (default: $BIOSHARE_DATA, or data)")


def main(arguments: argparse.Namespace) -> None:
    """Prepare a data set and print the path of the file."""
    if arguments.side and arguments.name in SOURCES:
        raise ValueError(f"--side is for images of your own; {arguments.name} has a size already")
    source = own_images(arguments.side) if arguments.side else None
    print(prepare(arguments.name, arguments.path, arguments.to, source))
