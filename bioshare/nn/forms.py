"""The form of a locally connected product on a GPU: the fastest, or one by choice.

The fastest form depends on the layer and the card, so a product tries all forms on its own arguments at the first call
with such shapes, and remembers the fastest.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bioshare.nn import batched
from bioshare.nn.plan import ProductPlan

Form = Literal["auto", "batched", "fused", "plain"]

REPEATS = 5
"""Number of timed calls, after a first call that compiles."""

Product = Callable[[], Tensor]

_preferred: Form = "auto"
_fastest: dict[tuple[Any, ...], str] = {}


@contextmanager
def prefer(form: Form) -> Iterator[None]:
    """Compute locally connected layers in one form, in the whole process, until the end of the block.

    A CPU has only "batched" and "plain". CUDA graphs keep the form of their capture.

    Args:
        form: "batched" matrix products; "fused" kernels, on a GPU; "plain" operations of PyTorch, slow but open to all
            PyTorch tools; or the fastest by "auto", the default elsewhere.

    Raises:
        ValueError: the form is unknown, or the fused kernels can't run on this machine.
    """
    global _preferred
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(map(repr, get_args(Form)))}; got {form!r}")
    if form == "fused" and not fused_available():
        raise ValueError(
            'form="fused" needs Triton (pip install triton) and a GPU of compute capability 8.0 or more; take "auto"'
        )
    before, _preferred = _preferred, form
    try:
        yield
    finally:
        _preferred = before


def preferred() -> Form:
    """Return the form of `prefer` at this moment."""
    return _preferred


@cache
def fused_available() -> bool:
    """Return whether the fused kernels can run: they need Triton, and a GPU with the right matrix units."""
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def chosen(name: str) -> Callable[..., Tensor]:
    """Return a product of `bioshare.nn.batched` by its name, in the form that suits its arguments."""

    def product(first: Tensor, second: Tensor, plan: list[int], *dtype: torch.dtype) -> Tensor:
        products = candidates(name, first, second, ProductPlan(*plan), *dtype)
        key = (_preferred, name, _layout(first), _layout(second), *plan, *dtype)
        if key not in _fastest:
            if torch.cuda.is_current_stream_capturing():  # no clock in a capture: the last, a fused form if possible
                return list(products.values())[-1]()
            _fastest[key] = next(iter(products)) if len(products) == 1 else fastest(products, seconds)
        return products[_fastest[key]]()

    return product


def candidates(name: str, *arguments: Any) -> dict[str, Product]:
    """Return the allowed forms of a product, by name; complex products are never fused."""
    products: dict[str, Product] = {}
    if _preferred != "fused" or arguments[0].is_complex():
        products["batched"] = partial(getattr(batched, name), *arguments)
    if _preferred != "batched" and not arguments[0].is_complex() and fused_available():
        from bioshare.nn import fused

        function = getattr(fused, name)
        products |= {f"fused {t.m} x {t.n} x {t.k}": partial(function, *arguments, tiles=t) for t in fused.TILES}
    return products


def fastest(products: dict[str, Product], clock: Callable[[Product], float]) -> str:
    """Return the name of the fastest form; a form that fails is left out, with a warning.

    Raises:
        RuntimeError: all forms fail.
    """
    times: dict[str, float] = {}
    for name, product in products.items():
        try:
            times[name] = clock(product)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler may raise anything
            warnings.warn(f"a locally connected product can't run in the form {name!r}: {error}", stacklevel=2)
    if not times:
        raise RuntimeError(f"a locally connected product can run in none of its forms: {', '.join(products)}")
    return min(times, key=lambda name: times[name])


def seconds(product: Product) -> float:
    """Return the time of a product on the current GPU, without the time to compile."""
    product()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPEATS):
        product()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / REPEATS


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Return the properties of a tensor that decide how fast a product is."""
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device
