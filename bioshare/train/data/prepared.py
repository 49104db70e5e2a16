"""Reading the file that `bioshare.train.data.prepare` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bioshare.train.data.images import Encoded


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files in a folder, by their place in it; two arrays for all of them, since there may be a million.

    Attributes:
        folder: where they are.
        names: their names in UTF-8, one after the other, (bytes,) uint8.
        starts, ends: where each of them starts and ends, (n,).
    """

    folder: str
    names: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, chosen: np.ndarray) -> ImageFiles:
        """Some of the files."""
        return ImageFiles(self.folder, self.names, self.starts[chosen], self.ends[chosen])

    def file(self, index: int) -> Encoded:
        """One of the files."""
        name = self.names[self.starts[index] : self.ends[index]].tobytes().decode()
        return Encoded(str(Path(self.folder, name)))


Part = tuple[Tensor | ImageFiles, Tensor]
"""Images and labels."""


def read_prepared(path: Path, name: str) -> tuple[Part, Part, dict[str, Any]]:
    """Images and labels for training, those for testing, and the metadata.

    Raises:
        FileNotFoundError: the file isn't there, or the folder of its images; gives the command.
        ValueError: it isn't a whole prepared file of that name.
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
