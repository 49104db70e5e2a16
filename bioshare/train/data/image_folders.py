"""Folders with a file per image: TinyImageNet, ImageNet, and images of one's own."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bioshare.train.data.images import Encoded, check_all, decode_all
from bioshare.train.data.reading import MOST_IMAGE_BYTES, MOST_TEXT_BYTES, check_size, naming, text_file, text_in
from bioshare.train.data.sources import Contents, Split, checksum

ANNOTATIONS = "val/val_annotations.txt", "val_annotations.txt"
"""Files with the classes of a flat validation folder: a line starts with the image's name and class."""
CLASS_LIST = "wnids.txt"
"""File with TinyImageNet's class names."""
SUFFIXES = ".jpeg", ".jpg", ".png"
TOP = "tiny-imagenet-200/"
"""Optional folder around train and val."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder or zip file with a file per image; the official validation set is the test set.

    Training images are below ``train/CLASS``; classes are in the order of the names. Test images are below
    ``val/CLASS``; or in ``val`` or ``val/images``, with the classes in one of the files `ANNOTATIONS`. Files without
    one of the `SUFFIXES`, in capitals or not, and files with a leading dot are ignored.

    Attributes:
        form: the source in words.
        classes: number of classes; None for any.
        side: rows and columns of every image; None for images of different sizes, which stay in their folder.
        images: number of images in "train" and "test"; empty for any.
        resize: whether images of any size are brought to ``side``.
    """

    form: str
    classes: int | None
    side: int | None
    images: dict[str, int]
    resize: bool = False

    def read(self, path: Path, bar: tqdm) -> Contents:
        if path.is_dir():
            return self._read(path, _in_folder(path), bar)
        if self.side is None:
            raise ValueError(f"{path} must be {self.form}; got a file")
        with naming(path, "is not a whole zip file"):
            archive = zipfile.ZipFile(path)
        with archive:
            return self._read(path, _in_zip(path, archive), bar, checksum(path))

    def _read(self, path: Path, files: _Files, bar: tqdm, sha256: str | None = None) -> Contents:
        train, classes = self._training(path, files)
        test = _test(path, files, classes)
        for part, pairs in (("train", train), ("test", test)):
            if len(pairs) != self.images.get(part, len(pairs)):
                raise ValueError(f"{path} must have {self.images[part]} {part} images; got {len(pairs)}")
        folder = Path(files.address("")) if self.side is None else None
        return Contents(classes, self._split(files, train, bar), self._split(files, test, bar), sha256, folder)

    def _training(self, path: Path, files: _Files) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
        """Names and labels of the training images; names of the classes."""
        below = [name.split("/") for name in files.names if name.startswith("train/")]
        classes = tuple(sorted({parts[1] for parts in below if len(parts) > 2}))
        listed = files.text(CLASS_LIST).split() if CLASS_LIST in files.names else []
        if missing := set(listed) - set(classes):
            raise ValueError(f"{files.address(f'train/{min(missing)}')} is missing; fetch the source again")
        if len(classes) != (self.classes or max(len(classes), 2)):
            raise ValueError(
                f"{path} must have {self.classes or '2 or more'} class folders in train; got {len(classes)}"
            )
        index = {name: label for label, name in enumerate(classes)}
        images = [("/".join(parts), index[parts[1]]) for parts in below if len(parts) > 2 and _is_image(parts[-1])]
        if empty := set(range(len(classes))) - {label for _, label in images}:
            raise ValueError(f"{files.address(f'train/{classes[min(empty)]}')} has no images; fetch the source again")
        return images, classes

    def _split(self, files: _Files, pairs: list[tuple[str, int]], bar: tqdm) -> Split:
        names = [name for name, _ in pairs]
        labels = np.array([label for _, label in pairs], np.int64)
        encoded = (files.image(name) for name in names)
        if self.side is None:
            for name in names:
                with naming(
                    files.address(name).encode(errors="replace").decode(), "must be a name in UTF-8", "Rename it"
                ):
                    name.encode()
            check_all(encoded, len(names), bar)
            return Split(names, labels)
        return Split(decode_all(encoded, len(names), self.side, bar, self.resize), labels)


def _test(path: Path, files: _Files, classes: tuple[str, ...]) -> list[tuple[str, int]]:
    """Names and labels of the test images, ordered by name."""
    images = [name for name in files.names if name.startswith("val/") and _is_image(name)]
    if all(name.count("/") == 1 or name.startswith("val/images/") for name in images):
        named = _annotated(path, files, images)
    else:
        named = {name: name.split("/")[1] for name in images}
        if missing := set(classes) - set(named.values()):
            raise ValueError(f"{files.address(f'val/{min(missing)}')} must have images: train has that class")
    index = {name: label for label, name in enumerate(classes)}
    for name, label in named.items():
        if label not in index:
            raise ValueError(f"{files.address(name)} has the class {label}, which train lacks")
    return [(name, index[label]) for name, label in sorted(named.items())]


def _annotated(path: Path, files: _Files, images: list[str]) -> dict[str, str]:
    """The class of every image of a flat validation folder."""
    present = [name for name in ANNOTATIONS if name in files.names]
    if not present:
        raise ValueError(f"{path} must have folders val/CLASS, or the classes in {' or '.join(ANNOTATIONS)}")
    where, by_name, named = files.address(present[0]), {name.split("/")[-1]: name for name in images}, {}
    for number, line in enumerate(files.text(present[0]).splitlines(), start=1):
        if not line.strip():
            continue
        image, *label = line.split()[:2]
        if image not in by_name or not label:
            raise ValueError(f"{where}, line {number}, must name an image in val and its class; got {line!r:.80}")
        if by_name[image] in named:
            raise ValueError(f"{where}, line {number}, must not name an image again; got {image}")
        named[by_name[image]] = label[0]
    if missing := set(images) - named.keys():
        raise ValueError(f"{where} must name the class of every image in val; {min(missing)} isn't there")
    return named


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.split("/")[-1].startswith(".")


@dataclass(frozen=True)
class _Files:
    """Files below a folder or in a zip file.

    Attributes:
        place: start of every address in messages, and of every path below a folder.
        names: names below ``top``, in order; folders end in /.
        archive: the open zip file; None for a folder.
        top: `TOP` where the names in a zip file begin so.
    """

    place: str
    names: dict[str, None]
    archive: zipfile.ZipFile | None = None
    top: str = ""

    def address(self, name: str) -> str:
        return f"{self.place}{self.top}{name}"

    def image(self, name: str) -> Encoded:
        return Encoded(self.address(name), self._member(name) if self.archive else None)

    def text(self, name: str) -> str:
        if self.archive:
            return text_in(self.address(name), self._member(name, MOST_TEXT_BYTES))
        return text_file(Path(self.address(name)))

    def _member(self, name: str, most: int = MOST_IMAGE_BYTES) -> bytes:
        assert self.archive
        check_size(self.address(name), self.archive.getinfo(self.top + name).file_size, most)
        with naming(self.address(name), "is damaged", "Fetch the zip file again"):
            return self.archive.read(self.top + name)


def _in_folder(path: Path) -> _Files:
    path = path / TOP if (path / TOP).is_dir() else path
    names, seen = [], dict[tuple[int, int], str]()
    for folder, folders, files in os.walk(path, onerror=_unreadable, followlinks=True):
        status = os.stat(folder)
        first = seen.setdefault((status.st_dev, status.st_ino), folder)
        if first != folder:
            raise ValueError(f"{folder} must not be a link to {first}, whose images would count twice; remove the link")
        start = f"{Path(folder).relative_to(path).as_posix()}/".removeprefix("./")
        names += [f"{start}{name}/" for name in folders] + [f"{start}{name}" for name in files]
    return _Files(f"{path}/", dict.fromkeys(sorted(names)))


def _unreadable(error: OSError) -> None:
    raise error


def _in_zip(path: Path, archive: zipfile.ZipFile) -> _Files:
    names = sorted(archive.namelist())
    top = TOP if any(name.startswith(TOP) for name in names) else ""
    for name, following in pairwise(names):
        if name == following:
            raise ValueError(f"{path} must hold every file once; {name} is there twice")
    if beside := [name for name in names if top and name.startswith(("train/", "val/"))]:
        raise ValueError(f"{path} must hold the images in {TOP} or beside it, not in both; got {beside[0]}, too")
    below = dict.fromkeys(name.removeprefix(top) for name in names if name.startswith(top))
    return _Files(f"{path}: ", below, archive, top)
