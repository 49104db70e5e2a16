"""Published archives of data sets, read whole and checked for `bioshare.train.data.prepare`."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from einops import rearrange
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from tqdm import tqdm

from bioshare.train.data.datasets import check_classes, check_labels
from bioshare.train.data.images import Encoded, decode_all
from bioshare.train.data.reading import naming, text_in

MOST_HEADER_BYTES = 2000
"""Longest header of a NumPy array of one axis, far longer than NumPy's own 128."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (n, channels, rows, columns) uint8, or names of image files, and labels (n,) int64."""

    images: np.ndarray | list[str]
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Contents:
    """The contents of a source.

    Attributes:
        classes: names of the classes, in the order of the labels.
        train, test: the images.
        sha256: checksum of a source in one file.
        folder: folder of images that are not decoded.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    sha256: str | None = None
    folder: Path | None = None


@runtime_checkable
class Source(Protocol):
    """A published form of a data set.

    Attributes:
        form: the source in words.
        images: number of images in "train" and "test".
    """

    @property
    def form(self) -> str: ...
    @property
    def images(self) -> dict[str, int]: ...
    def read(self, path: Path, bar: tqdm) -> Contents:
        """Read the source, with a bar over the images.

        Raises:
            FileNotFoundError: nothing is there.
            ValueError: the source is damaged or of another form; names the file.
        """
        ...


@dataclass(frozen=True)
class CifarArchive:
    """CIFAR's official archive of binary files, ``cifar-NN-binary.tar.gz``.

    A record is ``label_bytes`` bytes, the last byte the label, and 3072 bytes of pixels: red, green and blue planes of
    32 rows of 32.
    """

    form: str
    sha256: str | None
    folder: str
    files: dict[str, tuple[str, ...]]
    names: str
    classes: int
    label_bytes: int
    images: dict[str, int] = field(default_factory=lambda: {"train": 50_000, "test": 10_000})

    def read(self, path: Path, bar: tqdm) -> Contents:
        digest = checksum(path)
        if self.sha256 not in (None, digest):
            raise ValueError(
                f"{path} must have the SHA-256 checksum {self.sha256} of {self.form}; got {digest}. It is another "
                "file, or was not fetched to its end: fetch it again from https://www.cs.toronto.edu/~kriz/cifar.html"
            )
        members = self._members(path)
        classes = tuple(text_in(f"{path}: {self.names}", members[self.names]).split())
        if len(classes) != self.classes:
            raise ValueError(f"{path}: {self.names} must name {self.classes} classes; got {len(classes)}")
        check_classes(f"{path}: {self.names}", classes)
        splits = [self._split(path, part, members, bar) for part in ("train", "test")]
        return Contents(classes, *splits, sha256=digest)

    @property
    def _size(self) -> int:
        """Bytes of a record."""
        return self.label_bytes + 3072

    def _members(self, path: Path) -> dict[str, bytes]:
        """The needed files of the archive, by name, without extraction to disk."""
        wanted, members = {self.names, *self.files["train"], *self.files["test"]}, {}
        most = sum(self.images.values()) * self._size
        with (
            naming(path, "is not a whole .tar.gz archive"),
            gzip.open(path) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                name = member.name.removeprefix("./").removeprefix(f"{self.folder}/")
                content = archive.extractfile(member) if name in wanted else None
                if content:
                    members[name] = content.read(most + 1)  # more would be refused
            while stream.read(2**20):  # to the end, where gzip has a checksum
                pass
        if missing := wanted - members.keys():
            raise ValueError(f"{path} lacks {self.folder}/{min(missing)}; it must be {self.form}, to its end")
        return members

    def _split(self, path: Path, part: str, members: dict[str, bytes], bar: tqdm) -> Split:
        records, size = self.images[part] // len(self.files[part]), self._size
        images, labels = [], []
        for name in self.files[part]:
            if len(members[name]) != records * size:
                raise ValueError(
                    f"{path}: {name} must have {records} records of {size} bytes = {records * size}; "
                    f"got {len(members[name])} bytes"
                )
            table = np.frombuffer(members[name], np.uint8).reshape(records, size)
            labels.append(table[:, self.label_bytes - 1].astype(np.int64))
            check_labels(f"{path}: {name}", labels[-1], self.classes)
            images.append(table[:, self.label_bytes :].reshape(records, 3, 32, 32))
            bar.update(records)
        return Split(np.concatenate(images), np.concatenate(labels))


@dataclass(frozen=True)
class JpegArrays:
    """A NumPy ``.npz`` file with every image as JPEG; no pickled objects.

    The arrays, for "train" and "test": ``train_jpeg`` (bytes,) uint8, all JPEG files one after the next; ``train_end``
    (n,), the end of each file; ``train_label`` (n,), class indices; and ``classes``, the class names.
    """

    form: str
    classes: int
    side: int
    images: dict[str, int]

    def read(self, path: Path, bar: tqdm) -> Contents:
        digest = checksum(path)
        most = {"classes": 2**20}  # bytes
        for part, count in self.images.items():
            most[f"{part}_end"] = most[f"{part}_label"] = 2**20 + 8 * count
            most[f"{part}_jpeg"] = 2**20 + count * (3 * self.side**2 + 2**14)  # JPEG files with long headers
        with naming(path, f"is not a whole .npz file, which must be {self.form}"), zipfile.ZipFile(path) as archive:
            arrays = {name: _array(archive, name, most[name]) for name in most}
        if arrays["classes"].dtype.kind != "U":
            raise ValueError(f"{path}: classes must be text; got the type {arrays['classes'].dtype}")
        classes = tuple(map(str, arrays["classes"]))
        if len(classes) != self.classes:
            raise ValueError(f"{path} must name {self.classes} classes; got {len(classes)}")
        check_classes(f"{path}: classes", classes)
        return Contents(classes, *(self._split(path, part, arrays, bar) for part in ("train", "test")), sha256=digest)

    def _split(self, path: Path, part: str, arrays: dict[str, np.ndarray], bar: tqdm) -> Split:
        jpeg, ends, labels = (arrays[f"{part}_{kind}"] for kind in ("jpeg", "end", "label"))
        count = self.images[part]
        if not len(ends) == len(labels) == count:
            raise ValueError(
                f"{path}: {part}_end and {part}_label must have {count} elements; got {len(ends)} and {len(labels)}"
            )
        if ends.dtype.kind not in "iu" or jpeg.dtype != np.uint8:
            raise ValueError(
                f"{path}: {part}_end must be whole numbers, {part}_jpeg uint8; got {ends.dtype}, {jpeg.dtype}"
            )
        bounds = np.concatenate([[0], ends.astype(np.int64)])
        if (np.diff(bounds) <= 0).any() or bounds[-1] != len(jpeg):
            raise ValueError(f"{path}: {part}_end must rise to {len(jpeg)}, the number of bytes in {part}_jpeg")
        check_labels(f"{path}: {part}_label", labels, self.classes)

        def images() -> Iterator[Encoded]:
            for index in range(count):
                yield Encoded(f"{path}: {part} image {index}", jpeg[bounds[index] : bounds[index + 1]].tobytes())

        return Split(decode_all(images(), count, self.side, bar), labels.astype(np.int64))


def _array(archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    """An array of one axis; the header is compared with the number of bytes before more is read."""
    with archive.open(f"{name}.npy") as file:
        start = io.BytesIO(file.read(MOST_HEADER_BYTES))  # NumPy would read a header of any length
        read_header = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}[read_magic(start)]
        shape, _, dtype = read_header(start)
        file.seek(start.tell())
        size = archive.getinfo(f"{name}.npy").file_size - file.tell()
        if len(shape) != 1 or dtype.hasobject or not shape[0] * dtype.itemsize == size <= most:
            raise ValueError(
                f"{name} must have one axis, no Python objects and at most {most} bytes; "
                f"got the shape {shape} of {dtype} in {size} bytes"
            )
        return np.frombuffer(file.read(), dtype)


@dataclass(frozen=True)
class IdxFiles:
    """MNIST's four files in the format IDX, in a folder, as they are or with the ending ``.gz``.

    ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same for ``t10k``, the test images: after 4 bytes
    for the type and the number of axes, 4 bytes for every length, the first byte the largest; then the elements.
    """

    form: str
    classes: int
    side: int
    images: dict[str, int]

    def read(self, path: Path, bar: tqdm) -> Contents:
        if not path.is_dir():
            raise ValueError(f"{path} must be {self.form}; it is a file")
        splits = []
        for part, stem in (("train", "train"), ("test", "t10k")):
            count = self.images[part]
            pixels = self._elements(path, f"{stem}-images-idx3-ubyte", (count, self.side, self.side))
            labels = self._elements(path, f"{stem}-labels-idx1-ubyte", (count,)).astype(np.int64)
            check_labels(f"{path / stem}-labels-idx1-ubyte", labels, self.classes)
            splits.append(Split(pixels[:, None], labels))
            bar.update(count)
        return Contents(tuple(map(str, range(self.classes))), *splits)

    def _elements(self, folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The elements of a file, which must have a shape."""
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            raise ValueError(f"{folder} lacks {name}.gz; it must be {self.form}")
        path, expected = found[0], struct.pack(f">I{len(shape)}I", 0x0800 + len(shape), *shape)
        size = len(expected) + math.prod(shape)
        with naming(path, "is no whole file of MNIST"), (gzip.open if path.suffix else open)(path, "rb") as file:
            content = file.read(size + 1)  # to the end, where gzip has a checksum
        if content[: len(expected)] != expected or len(content) != size:
            raise ValueError(
                f"{path} must begin with {expected.hex()} for the shape {shape}, and have {size} bytes; "
                f"got {content[: len(expected)].hex()} and {'more' if len(content) > size else len(content)} bytes"
            )
        return np.frombuffer(content, np.uint8, offset=len(expected)).reshape(shape).copy()  # may be written to


@dataclass(frozen=True)
class Averaged:
    """A source whose images are made smaller by the mean over squares of ``factor`` x ``factor`` pixels.

    Means are rounded to whole grey levels, halves to even numbers.
    """

    source: Source
    factor: int

    @property
    def form(self) -> str:
        return self.source.form

    @property
    def images(self) -> dict[str, int]:
        return self.source.images

    def read(self, path: Path, bar: tqdm) -> Contents:
        whole = self.source.read(path, bar)
        return replace(whole, train=self._averaged(whole.train), test=self._averaged(whole.test))

    def _averaged(self, split: Split) -> Split:
        assert isinstance(split.images, np.ndarray)
        squares = rearrange(split.images, "n c (h i) (w j) -> n c h w (i j)", i=self.factor, j=self.factor)
        return Split(np.rint(squares.mean(-1)).astype(np.uint8), split.labels)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    if path.is_dir():
        raise ValueError(f"{path} must be the file that was fetched; it is a folder")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
