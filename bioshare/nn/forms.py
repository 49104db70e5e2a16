"""Which form a product takes on a GPU: the fastest that there is, or one that was asked for.

Nobody can say beforehand which is the fastest for some layer on some card, so a product tries its forms on its own
arguments at the first call with such shapes, and remembers.
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

Form = Literal["auto", "batched", "fused"]

REPEATS = 5
"""Calls that are timed, after one that compiles."""

Work = Callable[[], Tensor]

_preferred: Form = "auto"
_fastest: dict[tuple[Any, ...], str] = {}


@contextmanager
def prefer(form: Form) -> Iterator[None]:
    """Compute locally connected layers on GPUs in one form, in the whole process, until the end of the block.

    On a CPU there is only "batched". CUDA graphs keep the form in which they were captured.

    Args:
        form: "batched" matrix products, "fused" kernels, or the fastest of all by "auto", as without this.

    Raises:
        ValueError: there is no such form, or the fused kernels can't run here.
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


@cache
def fused_available() -> bool:
    """Whether the fused kernels can run: Triton is there, and a GPU with the matrix units that they need."""
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def chosen(product: str) -> Callable[..., Tensor]:
    """A product by its name in `bioshare.nn.batched`, in the form that suits its arguments."""
    return lambda *arguments: _choose(product, arguments)


def _choose(product: str, arguments: tuple[Any, ...]) -> Tensor:
    works = candidates(product, *arguments)
    key = (_preferred, product, *map(_described, arguments))
    if key not in _fastest:
        if torch.cuda.is_current_stream_capturing():  # no time can be taken: the last, a fused one if there is any
            return list(works.values())[-1]()
        _fastest[key] = next(iter(works)) if len(works) == 1 else fastest(works, seconds)
    return works[_fastest[key]]()


def candidates(product: str, *arguments: Any) -> dict[str, Work]:
    """The forms of a product that are wanted, by name."""
    works: dict[str, Work] = {}
    if _preferred != "fused":
        works["batched"] = partial(getattr(batched, product), *arguments)
    if _preferred != "batched" and fused_available():
        from bioshare.nn import fused

        function = getattr(fused, product)
        works |= {f"fused {t.m} x {t.n} x {t.k}": partial(function, *arguments, tiles=t) for t in fused.TILES}
    return works


def fastest(works: dict[str, Work], clock: Callable[[Work], float]) -> str:
    """The name of the fastest; those that fail are left out, with a warning.

    Raises:
        RuntimeError: all of them fail.
    """
    times: dict[str, float] = {}
    for name, work in works.items():
        try:
            times[name] = clock(work)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may say
            warnings.warn(f"a locally connected product can't run in the form {name!r}: {error}", stacklevel=2)
    if not times:
        raise RuntimeError(f"a locally connected product can run in none of its forms: {', '.join(works)}")
    return min(times, key=lambda name: times[name])


def seconds(work: Work) -> float:
    """Time that a product takes on the current GPU, without what it takes to compile it."""
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPEATS):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / REPEATS


def _described(argument: Any) -> Any:
    """What of an argument decides how fast a product is."""
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.stride(), argument.dtype, argument.device
    return tuple(argument) if isinstance(argument, list) else argument
