"""Checkpoints: one safetensors file with everything that a run needs to go on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bioshare.files import os_error, replacing
from bioshare.train.stored import UnreadableRunError, check_file


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors by name and metadata (in the types of JSON) to one file, atomically."""
    # permuted on their own device, which takes a GPU no time
    ready = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    seen = set[int]()
    for name, tensor in ready.items():  # a layer in two places of a network: safetensors wants memory of its own
        if tensor.numel() and tensor.data_ptr() in seen:
            ready[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    text = json.dumps(metadata)
    with replacing(path) as temporary:
        try:
            save_file(ready, temporary, {"metadata": text, "checksum": _checksum(text, ready)})
        except SafetensorError as error:
            raise os_error(error) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: the tensors, on the CPU, and the metadata.

    Raises:
        UnreadableRunError: the file is damaged, or is no checkpoint.
    """
    check_file(path)
    with naming(path), safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not iterable
        if _checksum(header["metadata"], tensors) != header["checksum"]:
            raise ValueError("its checksum is not that of its contents")
        return tensors, _parsed(header["metadata"])


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata alone, which takes no time; a changed bit may stay unseen.

    Raises:
        UnreadableRunError: the file is damaged, or is no checkpoint.
    """
    check_file(path)
    with naming(path), safe_open(path, "pt") as file:
        return _parsed((file.metadata() or {})["metadata"])


def _parsed(text: str) -> dict[str, Any]:
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError("its metadata must be a JSON object")
    return metadata


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A network's parameters and buffers, and the optimiser's moments, by name."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        known = optimizer.state.get(parameter, {}).items()
        tensors |= {f"optimizer.{name}.{moment}": value for moment, value in known if isinstance(value, Tensor)}
    return tensors


MOMENTS: dict[type, tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: ("exp_avg", "exp_avg_sq", "step"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq", "step"),
}
"""Moments of bioshare's optimisers; those of others are restored as they are."""


@torch.no_grad()
def restore_network(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the parameters and buffers of a `state` back, in place; every tensor keeps its memory layout.

    Args:
        model: a network of the saved configuration.
        tensors: from `state`; further tensors are ignored.

    Raises:
        ValueError: the tensors belong to a different network.
    """
    own = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if _forms(own) != _forms({name: tensor for name, tensor in tensors.items() if name.startswith("model.")}):
        raise ValueError("the checkpoint must hold the tensors of the network that the configuration names")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


@torch.no_grad()
def restore(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the `state` of a run back: `restore_network`, and the moments of an optimiser of ``model.parameters()``.

    Raises:
        ValueError: the tensors belong to a different network, or a parameter lacks a moment.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    names = MOMENTS.get(type(optimizer), ())
    left = {name for name in tensors if name.startswith("optimizer.")}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        saved = {moment: place for moment in names if (place := f"optimizer.{name}.{moment}") in left}
        if type(optimizer) not in MOMENTS:  # of one's own
            start = f"optimizer.{name}."
            found = {place.removeprefix(start): tensors[place] for place in left if place.startswith(start)}
            moments |= {index: {moment: value.to(parameter.device) for moment, value in found.items()}} if found else {}
            left -= {start + moment for moment in found}
        elif saved:  # a parameter without gradients has no moments
            scalar = torch.empty((), dtype=torch.float32)
            own = {moment: scalar if moment == "step" else torch.empty_like(parameter) for moment in names}
            if _forms(own) != _forms({moment: tensors[place] for moment, place in saved.items()}):
                raise ValueError(f"the checkpoint must hold all moments of {name}, in the shape of {name}")
            moments[index] = {moment: own[moment].copy_(tensors[place]) for moment, place in saved.items()}
            left.difference_update(saved.values())
    if left:
        raise ValueError(f"the checkpoint must hold no moments but of the network; it has {min(left)}")
    restore_network(model, tensors)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block in which an error due to the contents of a checkpoint becomes an UnreadableRunError with the path."""
    try:
        yield
    except (SafetensorError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise UnreadableRunError(
            f"{path} is damaged, or no checkpoint of bioshare: {error}. Put a copy in its place, or move it away to "
            "train from the start"
        ) from error


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the metadata and of every name, shape and content: safetensors alone would miss a changed bit."""
    crc = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
