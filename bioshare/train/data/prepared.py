"""The file of a prepared data set, ``NAME.safetensors``.

The file holds ``train_images`` (n, channels, rows, columns) uint8, ``train_labels`` (n,) int64, ``test_images`` and
``test_labels``; and as JSON, in the metadata field "bioshare": ``name``, ``classes``, ``source``, the ``sha256`` of a
source in one file, the ``version`` of bioshare, and ``mean`` and ``std`` of the training pixels per channel, from 0
to 1. The metadata field "checksum" is the CRC-32 of the tensors, continued over the JSON text.

ImageNet's images differ in size and would fill 300 GB. The images stay in ``folder`` of the metadata; the place of
``train_images`` is taken by ``train_names`` (bytes,) uint8, the file names in UTF-8 one after the next, and
``train_ends`` (n,) int64, the end of each name.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bioshare.files import FolderInUseError, expanded, locked, os_error, replacing
from bioshare.progress import say
from bioshare.train.data.datasets import IMAGENET_STATISTICS, PARTS, USAGES, Dataset


def prepared_file(name: str, folder: Path | str | None = None) -> Path:
    """Path of a prepared data set, in ``folder``; None for $BIOSHARE_DATA, or ``data``."""
    if folder is None:
        place = expanded(os.environ.get("BIOSHARE_DATA") or "data", "BIOSHARE_DATA")
    else:
        place = expanded(folder, "folder")
    return place / f"{name}.safetensors"


def write_prepared(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a prepared file, atomically, and delete what killed processes have left of the file.

    Raises:
        ValueError: the tensors or the facts are no data set; nothing was written.
    """
    text = json.dumps(facts)
    checksum = _checksum(_dataset(tensors, json.loads(text)), text)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path.parent, path.name))
        except FolderInUseError:
            say(f"another process uses {path.parent}; {path.name} is written when that process leaves the folder")
            stack.enter_context(locked(path.parent, path.name, seconds=math.inf))
        temporary = stack.enter_context(replacing(path))
        try:
            save_file(dict(tensors), temporary, {"bioshare": text, "checksum": checksum})
        except SafetensorError as error:
            raise os_error(error) from error


def read_prepared(path: Path, name: str) -> Dataset:
    """The data set in a prepared file; the checksum is compared, unless the file is older than checksums.

    Raises:
        FileNotFoundError: the file, or the folder of ImageNet's images, is not there; gives the command.
        ValueError: the file is damaged or of another form; gives the command.
    """
    command = f"python -m bioshare prepare {name} --from PATH --to {path.parent}"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; make it by: {command}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        facts = json.loads(metadata["bioshare"])
        if facts["name"] != name:
            raise ValueError(f"it holds {facts['name']}")
        dataset = _dataset(tensors, facts)
        if metadata.get("checksum", checksum := _checksum(dataset, metadata["bioshare"])) != checksum:
            raise ValueError("its checksum is not that of its contents")
    except KeyError as error:
        raise ValueError(
            f"{path} is not a whole prepared file: it lacks {error}. Make it again by: {command}"
        ) from error
    except (SafetensorError, TypeError, ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole prepared file: {error}. Make it again by: {command}") from error
    if dataset.shape is None and not Path(facts["folder"]).is_dir():
        raise FileNotFoundError(
            f"{path} leads to images in {facts['folder']}, which isn't there; make it by: {command}"
        )
    return dataset


def has_checksum(path: Path, images: object) -> bool:
    """Compare the checksum of a data set, `Dataset.checksum`, with a prepared file's metadata alone.

    False also for a damaged file and a file older than checksums, for which `read_prepared` says more.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        # the file's checksum is the checksum of the images, continued over the text
        return f"{zlib.crc32(metadata['bioshare'].encode(), int(str(images), 16)):08x}" == metadata["checksum"]
    except (SafetensorError, KeyError, ValueError, OSError):
        return False


def _dataset(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Dataset:
    """The data set of the tensors and the facts in a file, which checks itself."""
    name = facts["name"]
    parts: dict[str, Any] = {f"{part}_labels": tensors[f"{part}_labels"] for part in PARTS}
    for part in PARTS:
        if name in USAGES and USAGES[name].stored is None:
            from bioshare.train.data.streams import ImageFiles  # not for small images

            names, ends = (tensors[f"{part}_{kind}"].numpy() for kind in ("names", "ends"))
            parts[f"{part}_images"] = ImageFiles.of(facts["folder"], names, ends)
        else:
            parts[f"{part}_images"] = tensors[f"{part}_images"]
    if not isinstance(facts["classes"], list):
        raise ValueError(f"classes must be a list of names; got {facts['classes']!r:.80}")
    fixed = name in USAGES and USAGES[name].imagenet_statistics
    mean, std = IMAGENET_STATISTICS if fixed else (facts["mean"], facts["std"])
    return Dataset(name, tuple(facts["classes"]), mean=tuple(mean), std=tuple(std), **parts)


def _checksum(dataset: Dataset, text: str) -> str:
    return f"{zlib.crc32(text.encode(), int(dataset.checksum, 16)):08x}"
