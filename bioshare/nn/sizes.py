"""Sizes of a conversion: parameters and memory of a model's convolutions, now and as locally connected layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

COPIES = {"weights": 1, "weights and gradients": 2, "weights, gradients and AdamW's two moments": 4}
"""Tensors in the size of the parameters, from evaluation to training."""


@dataclass(frozen=True)
class ConvertedLayer:
    """Size of a convolution, and of the locally connected layer in the same place.

    Attributes:
        name: name of the layer in the model, empty for a model that is itself a layer.
        shape: (H_out, W_out, out, in / groups, kh, kw), shape of the locally connected weights.
        before, after: number of parameters, biases included, of the convolution and of the locally connected layer.
        bytes: memory of the parameters after the conversion.
    """

    name: str
    shape: tuple[int, ...]
    before: int
    after: int
    bytes: int

    @property
    def factor(self) -> float:
        """Number of parameters after the conversion over the number before, which is the number of positions."""
        return self.after / self.before


@dataclass(frozen=True, repr=False)
class ConversionTable:
    """Parameters and memory of a model before and after a conversion, printed as a table with a row for every layer.

    ``pandas.DataFrame(table.layers)`` has the rows as data.

    Attributes:
        layers: rows of the layers to convert, in the order of ``model.modules()``.
        others: number of all other parameters, which stay.
        others_bytes: memory of these parameters.
    """

    layers: tuple[ConvertedLayer, ...]
    others: int
    others_bytes: int

    @classmethod
    def of(cls, model: nn.Module, convs: Mapping[str, nn.Module], layers: Mapping[str, Any]) -> ConversionTable:
        """Count the parameters of a model's convolutions, of the layers in the same places, and of the rest."""
        count = lambda parameters: sum(p.numel() for p in parameters)
        memory = lambda parameters: sum(p.numel() * p.element_size() for p in parameters)
        rows = [
            ConvertedLayer(
                label.removeprefix("model").lstrip("."),
                tuple(new.weight.shape),
                count(convs[label].parameters()),
                count(new.parameters()),
                memory(new.parameters()),
            )
            for label, new in layers.items()
        ]
        converted = {id(p) for conv in convs.values() for p in conv.parameters()}
        others = [p for p in model.parameters() if id(p) not in converted]
        return cls(tuple(rows), count(others), memory(others))

    @property
    def before(self) -> int:
        """Number of parameters of the model now."""
        return sum(row.before for row in self.layers) + self.others

    @property
    def after(self) -> int:
        """Number of parameters of the locally connected copy."""
        return sum(row.after for row in self.layers) + self.others

    @property
    def layers_bytes(self) -> int:
        """Memory of the locally connected layers' parameters."""
        return sum(row.bytes for row in self.layers)

    @property
    def bytes(self) -> int:
        """Memory of all parameters of the locally connected copy."""
        return self.layers_bytes + self.others_bytes

    def __repr__(self) -> str:
        heads = "layer", "positions", "parameters now", "after", "factor", "MB"
        rows = [
            (row.name or "(model)", " x ".join(map(str, row.shape[:2])), *_cells(row.before, row.after, row.bytes))
            for row in self.layers
        ]
        if self.others:
            rows.append(("all others", "", *_cells(self.others, self.others, self.others_bytes)))
        rows.append(("the model", "", *_cells(self.before, self.after, self.bytes)))
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (heads, *rows)]
        notes = [f"{name}: {readable(n * self.bytes)}" for name, n in COPIES.items()]
        return "\n".join([*lines, *notes, "(without activations)"])

    def too_large(self, limit: str) -> str:
        """Describe locally connected weights that do not fit into memory, by the largest layer."""
        largest = max(self.layers, key=lambda row: row.bytes)
        return (
            f"the {len(self.layers)} locally connected layers need {readable(self.layers_bytes)} for their weights, "
            f"more than {limit}; the largest, {'.'.join(filter(None, ('model', largest.name)))}, needs "
            f"{readable(largest.bytes)} for the shape {largest.shape}. Every position has a kernel: take a smaller "
            "input_size, more keep_first, fewer channels, or model.half(). Gradients and the moments of an optimiser "
            "need as much again, each; bioshare.nn.conversion_table(model, input_size) shows all layers"
        )


def readable(count: int) -> str:
    """Return a number of bytes in MB, or in GB from 1 GB on."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _cells(before: int, after: int, size: int) -> Sequence[str]:
    return f"{before:,}", f"{after:,}", f"{after / before:,.1f}", f"{size / 1e6:,.2f}"
