"""Which positions of a layer share their weights, and which part of the sleeping pattern each of them sees.

The lateral connections of a k x k layer tie every k-th position in each direction. Positions with the same
(row mod kh, column mod kw) are a *module*; each output channel of a module is one sharing group of N neurons with
K = in / groups * kh * kw weights and its own inhibitory neuron. The sleeping input repeats with the period (kh, kw),
so that all neurons of a module see the same patch, and other modules see it cyclically shifted (Sec. 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bioshare.nn import LocallyConnected2d
from bioshare.nn.functional import physical

Border = Literal["share", "keep"]
"""Positions whose patch reaches into the padding take part, as if the pattern went on there, or keep their weights."""


class Geometry(NamedTuple):
    """All that a layer's modules depend on; pairs of rows and columns, and the padding at the top and on the left."""

    channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    border: Border

    @classmethod
    def of(cls, layer: LocallyConnected2d, border: Border) -> Geometry:
        """That of a layer."""
        left, _, top, _ = layer.pad
        names = "kernel_size", "stride", "dilation", "input_size", "output_size"
        pairs = {name: tuple(getattr(layer, name)) for name in names}
        return cls(layer.weight.shape[3], padding=(top, left), border=border, **pairs)


@dataclass(frozen=True)
class SharingModule:
    """The positions of a layer that lateral connections tie together.

    Attributes:
        rows, columns: its positions.
        neurons: N, how many positions that are.
        seen: which input of the pattern every tap of a neuron sees, (K,) indices into in / groups x kh x kw; the
            taps in their order in memory.
    """

    rows: slice
    columns: slice
    neurons: int
    seen: Tensor
    placed: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def taps(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`seen` and the permutation back, on a device; kept there, so that no later sleep waits for a copy."""
        if device not in self.placed:
            self.placed[device] = self.seen.to(device), self.seen.argsort().to(device)
        return self.placed[device]

    def groups(self, weight: Tensor) -> Tensor:
        """Its sharing groups from a layer's weight: (out, N, K), the taps in their order in memory."""
        return physical(weight)[self.rows, self.columns].flatten(0, 1).flatten(2).transpose(0, 1)

    def write(self, weight: Tensor, groups: Tensor) -> None:
        """Put its sharing groups (out, N, K) back into a layer's weight."""
        target = physical(weight)[self.rows, self.columns]
        target.copy_(groups.transpose(0, 1).reshape(target.shape))


def modules(layer: LocallyConnected2d, border: Border = "share") -> tuple[SharingModule, ...]:
    """The modules of a layer that hold at least two neurons; with border "keep", of those inside the border."""
    return sharing_modules(Geometry.of(layer, border))


def lattices(layer: LocallyConnected2d, border: Border = "share") -> tuple[SharingModule, ...]:
    """All modules of a layer, kh x kw of them; small layers have some without neurons."""
    return all_modules(Geometry.of(layer, border))


@cache  # for good: CUDA graphs hold the addresses of what its modules have put on a device
def sharing_modules(geometry: Geometry) -> tuple[SharingModule, ...]:
    """Its modules that hold at least two neurons."""
    return tuple(module for module in all_modules(geometry) if module.neurons > 1)


@cache
def all_modules(geometry: Geometry) -> tuple[SharingModule, ...]:
    """All its modules."""
    kh, kw = geometry.kernel_size
    taps = torch.arange(geometry.channels * kh * kw, device="cpu").view(-1, kh, kw)  # whatever the default device
    found = []
    for row, row_phases in _along(geometry, 0):
        for column, column_phases in _along(geometry, 1):
            height, width = (len(range(size)[s]) for size, s in zip(geometry.output_size, (row, column), strict=True))
            seen = taps[:, row_phases][:, :, column_phases].permute(2, 1, 0).flatten()  # in the order of `physical`
            found.append(SharingModule(row, column, height * width, seen))
    return tuple(found)


def _along(geometry: Geometry, axis: int) -> list[tuple[slice, list[int]]]:
    """Along one axis: every k-th position, and the phase of the pattern that each of its taps sees."""
    names = "output_size", "input_size", "kernel_size", "stride", "dilation", "padding"
    outputs, size, kernel, stride, dilation, padding = (getattr(geometry, name)[axis] for name in names)
    first, stop = 0, outputs
    if geometry.border == "keep":
        first, stop = -(-padding // stride), (size - 1 - (kernel - 1) * dilation + padding) // stride + 1
    phases = lambda start: [(start * stride - padding + i * dilation) % kernel for i in range(kernel)]
    return [(slice(start, max(start, stop), kernel), phases(start)) for start in range(first, first + kernel)]


def inputs_of(layer: LocallyConnected2d) -> int:
    """K, the inputs of a neuron: in / groups * kh * kw."""
    return math.prod(layer.weight.shape[3:])


Kind = tuple[int, torch.device, torch.dtype]
"""What a map of weights is made for: K, where they lie, and their precision."""


def kind_of(layer: LocallyConnected2d) -> Kind:
    """That of a layer."""
    return inputs_of(layer), layer.weight.device, layer.weight.dtype


Layers = Sequence[tuple[str, LocallyConnected2d]]
"""Locally connected layers by name, from input to output."""


def layers_of(model: nn.Module) -> Layers:
    """The locally connected layers by name, in the order of ``model.modules()``."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LocallyConnected2d)]


def sharing_layers(model: nn.Module) -> Layers:
    """The locally connected layers by name, all of them fit to be shared.

    Raises:
        TypeError, ValueError: ``model`` is none, has no such layer, one with weights that aren't finite or no Parameter
            of its own, or two with the same Parameter.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    found = layers_of(model)
    if not found:
        raise ValueError("model must have a LocallyConnected2d layer; bioshare.nn.to_locally_connected makes one")
    owners: dict[int, str] = {}
    for name, layer in found:
        _refuse_weight(name, layer, owners)
    for (name, _), finite in zip(found, _finite(layer.weight.detach() for _, layer in found), strict=True):
        if not finite:
            raise ValueError(f"layer {name!r} must have finite weights; one NaN would reach its whole sharing group")
    return found


def _finite(weights: Iterable[Tensor]) -> list[bool]:
    """Whether each of the weights is finite; waits for a GPU once, not for each of them."""
    flags = [torch.stack(physical(weight).aminmax()).isfinite().all() for weight in weights]
    return torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()


def _refuse_weight(name: str, layer: LocallyConnected2d, owners: dict[int, str]) -> None:
    """Refuse a layer whose weight is no Parameter of its own; add it to the owners, names by the identity of theirs."""
    if "weight" not in dict(layer.named_parameters(recurse=False)):
        raise TypeError(
            f"layer {name!r} must have a weight that is a Parameter; got one that is computed from others, in which "
            "shared weights have no place. Take the parametrization or weight_norm off "
            "(torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.remove_weight_norm)"
        )
    other = owners.setdefault(id(layer.weight), name)
    if other != name:
        raise ValueError(
            f"layers {other!r} and {name!r} must have a weight each; both hold the same Parameter, which would sleep "
            "twice. Use one of the layers in both places, or give each a Parameter of its own"
        )


def refuse_border(border: str) -> None:
    """Refuse what is no `Border`."""
    if border not in ("share", "keep"):
        raise ValueError(f'border must be "share" or "keep"; got {border!r}')


def refuse_dilation(name: str, layer: LocallyConnected2d) -> None:
    """Refuse a layer whose patches do not see all of the pattern."""
    for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True):
        if math.gcd(kernel, dilation) > 1:
            raise ValueError(
                f"layer {name!r} has kernel_size={layer.kernel_size} and dilation={layer.dilation}: they share a "
                "factor, so its taps see the same part of the sleeping pattern twice and never the rest, and "
                "sleep cannot tell them apart. Use a dilation coprime to the kernel, or InstantSharing"
            )
