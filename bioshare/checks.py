"""Argument checks of the whole package: an error names the argument, the expected value and the given value."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import math
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Scalar = float | Array

LARGEST = 1e100
"""Largest size of a parameter, a weight or an input, so that sums of squares and small products are finite.

The inverse is the smallest positive number where 0 is refused.
"""

MOST_STEPS = 1e9
"""Largest number of time steps in a presentation, beyond which rounding hides whether they fill the presentation."""


class Parameters:
    """Base of the frozen parameter dataclasses: equality also holds for array-valued fields."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(np.array_equal(mine, getattr(other, name)) for name, mine in self.fields().items())

    def __hash__(self) -> int:
        values = self.fields().values()
        return hash((type(self), *(v.tobytes() if isinstance(v, np.ndarray) else v for v in values)))

    def fields(self) -> dict[str, Any]:
        """The parameters by name, in the order of the constructor."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def real(
    name: str,
    value: ArrayLike,
    expected: str,
    *,
    above: float = -np.inf,
    at_least: float = -np.inf,
    below: float = np.inf,
    infinite: bool = False,
    array: bool = True,
    milliseconds: bool = False,
) -> Scalar:
    """Return ``value`` as a float or a read-only float64 array, or raise an error.

    Args:
        name: the argument's name in the message.
        value: a number, or an array of numbers where ``array`` allows it.
        expected: the condition in words, e.g. ``"a positive time in milliseconds"``.
        above, at_least, below: the bounds of every element.
        infinite: True to allow plus infinity.
        array: True to allow an array.
        milliseconds: True for a time: a quantity with a unit of time is converted to milliseconds.

    Raises:
        TypeError: ``value`` is not a real number or an array of real numbers, or has a unit.
        ValueError: an element is NaN, infinite or out of bounds, or there is no element.
    """
    numbers = np.asarray(real_array(name, value, expected, milliseconds=milliseconds) + 0.0)  # a copy, in which -0 is 0
    if numbers.ndim and not array:
        raise TypeError(f"{name} must be one number, {expected}; got an array of shape {numbers.shape}")
    finite, fine = np.isfinite(numbers), (numbers > above) & (numbers >= at_least) & (numbers < below)
    fine = np.where(finite, fine, np.isposinf(numbers) & infinite)
    if not fine.all():
        raise ValueError(f"{name} must be {expected}; got {numbers[~fine].flat[0]:g}")
    sizes, least = np.abs(numbers[finite]), 1 / LARGEST if above == 0 else 0.0
    if (extreme := sizes[(sizes > LARGEST) | (sizes < least)]).size:
        raise ValueError(f"{name} must be {expected}, with a size from {least:g} to {LARGEST:g}; got {extreme[0]:g}")
    if numbers.ndim == 0:
        return float(numbers)
    numbers.setflags(write=False)
    return numbers


def _plain(name: str, value: Any, expected: str, milliseconds: bool) -> Any:
    """Return ``value`` without a unit and without tensors; a list or tuple is searched.

    With ``milliseconds``, times of Brian2, datetime, NumPy, pint, astropy, unyt and quantities become numbers.

    Raises:
        TypeError: a number has another unit, or any unit without ``milliseconds``; or a tensor has no values to read.
        ValueError: elements of a masked array are masked.
    """
    if isinstance(value, list | tuple):
        return [_plain(name, one, expected, milliseconds) for one in value]
    if isinstance(value, bytearray):  # NumPy would read numbers in it, unlike in bytes
        raise TypeError(f"{name} must be {expected}; got {shown(value)}")
    if np.ma.is_masked(value):
        raise ValueError(
            f"{name} must have no masked elements; set them first, as in {name}.filled(0). {name} is {expected}"
        )
    if hasattr(value, "requires_grad"):
        return _tensor_values(name, value, expected)
    attributes = getattr(value, "attrs", None)  # of xarray
    units = attributes.get("units", "") if isinstance(attributes, Mapping) else ""
    if milliseconds and units not in ("", "1", "ms", "millisecond", "milliseconds"):
        raise TypeError(f"{name} must be {expected}, with the units ms; got {shown(units)}")
    if not _has_unit(value):
        return value
    times = _in_milliseconds(value) if milliseconds else None
    if times is None:
        remedy = "a plain number or a time with a unit" if milliseconds else "a plain number without a unit"
        raise TypeError(f"{name} must be {expected}, {remedy}; got {shown(value)}")
    # 15 digits: 0.3 * ms, 0.0003 s, is 0.3 and not 0.30000000000000004
    return np.vectorize(lambda time: float(f"{time:.15g}"), otypes=[float])(times)[()]


def _tensor_values(name: str, value: Any, expected: str) -> Any:
    """The values of a torch tensor, which may require gradients or be of a floating-point type that NumPy lacks."""
    try:
        values = value.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    except (RuntimeError, TypeError):  # a tensor without values (meta), sparse, quantised, or of torch.func
        raise TypeError(f"{name} must be {expected}, a dense tensor with values; got {shown(value)}") from None


def _has_unit(value: Any) -> bool:
    """True for a quantity with a dimension: NumPy's and datetime's times, Brian2's dimensions, others' units."""
    if _is_duration(value):
        return True
    if isinstance(value, np.ndarray) and hasattr(value, "dimensions") and not hasattr(value, "units"):
        return str(getattr(value, "dimensions")) != "1"  # noqa: B009
    if not (hasattr(value, "magnitude") or hasattr(value, "value")):
        return False
    unit = getattr(value, "units", getattr(value, "unit", ""))
    return str(unit).removeprefix("1 ") not in ("", "1", "1.0", "dimensionless")


def _is_duration(value: Any) -> bool:
    """True for times of datetime, NumPy and pandas."""
    return isinstance(value, datetime.timedelta) or getattr(getattr(value, "dtype", None), "kind", "") == "m"


def _in_milliseconds(value: Any) -> Any:
    """The milliseconds of a quantity with a unit; None for any quantity but a time."""
    if _is_duration(value):
        return value / np.timedelta64(1, "ms")
    if hasattr(value, "dimensions") and not hasattr(value, "units"):  # Brian2: seconds
        return np.asarray(value) / 1e-3 if str(value.dimensions) == "s" else None
    convert = getattr(value, "to", None) or value.rescale
    try:
        times = convert("ms")
    except Exception:  # each package has an error of its own for units that do not convert
        return None
    return getattr(times, "magnitude", None) if hasattr(times, "magnitude") else times.value


def real_array(name: str, value: ArrayLike, expected: str, *, milliseconds: bool = False) -> Array:
    """Return ``value``, perhaps a torch tensor, as a float64 array.

    Raises:
        TypeError: ``value`` is no array of real numbers, or has a unit (of time, without ``milliseconds``).
        ValueError: elements are masked, too large for float64, or there are none.
    """
    value = _plain(name, value, expected, milliseconds)
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError, RuntimeError):  # ragged lists, and objects with an array conversion of their own
        raise TypeError(f"{name} must be {expected}; got {shown(value)}") from None
    with np.errstate(over="ignore"):
        numbers = np.asarray(given, dtype=np.float64)
    if (np.isinf(numbers) & np.isfinite(given)).any():
        raise ValueError(f"{name} must be {expected}, within the range of float64; got {shown(value)}")
    if not numbers.size:
        raise ValueError(f"{name} must be {expected}; got shape {numbers.shape}")
    return numbers


def shown(value: object) -> str:
    """Return the text of a value for a message, cut after 80 characters."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a whole number of thousands of digits"


def flag(name: str, value: object) -> None:
    """Check that ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {shown(value)}")


def takes(function: Any, *arguments: Any, **options: Any) -> bool:
    """Return True for a function, but no class, that can be called with the arguments."""
    if not callable(function) or isinstance(function, type):
        return False
    try:
        inspect.signature(function).bind(*arguments, **options)
    except TypeError:
        return False
    except ValueError:  # compiled functions without a signature
        pass
    return True


def whole(name: str, value: Any, expected: str, *, at_least: int) -> int:
    """Return ``value`` as an int of at least ``at_least`` and below 2^64, or raise an error."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be {expected}; got {shown(value)}")
    if value < at_least:
        raise ValueError(f"{name} must be {expected}, at least {at_least}; got {shown(value)}")
    if value >= 2**64:
        raise ValueError(f"{name} must be {expected}, below 2^64; got {shown(value)}")
    return int(value)


def steps_of(name: str, time: float, dt: float) -> int:
    """Return the number of time steps in a time in milliseconds, which must be a multiple of ``dt``."""
    steps = time / dt
    if steps > MOST_STEPS:
        raise ValueError(f"dt must be at least {name} / {MOST_STEPS:g}; got {dt:g} ms")
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-9 * steps:
        nearest = max(1, math.floor(steps)) * dt
        raise ValueError(
            f"{name} must be a multiple of dt; got {name}={time:g} ms, dt={dt:g} ms. "
            f"Try {name}={nearest:.12g}, or dt={time / math.ceil(steps):.12g}"
        )
    return round(steps)


def machine_memory() -> float:
    """Return the bytes of this machine's memory, infinite where the system does not tell."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else math.inf


def check_memory(name: str, numbers: float, purpose: str) -> None:
    """Raise ValueError if so many float64 numbers need more than a quarter of the memory: a sleep makes some copies."""
    needed, available = 8 * numbers / 1e9, machine_memory() / 1e9
    if needed > available / 4:
        raise ValueError(
            f"{name} must be smaller: {purpose} need {needed:.3g} GB, more than a quarter of this machine's "
            f"{available:.3g} GB"
        )


def finite_array(name: str, value: ArrayLike, axes: str, *, ndim: int = 2) -> Array:
    """Return ``value`` as a float64 array with at least ``ndim`` axes, all finite and at most `LARGEST` in size."""
    numbers = real_array(name, value, f"an array of real numbers, {axes}, none of them empty")
    if numbers.ndim < ndim:
        raise ValueError(f"{name} must have the axes {axes}; got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
        raise ValueError(f"{name} must be finite; {name}[{', '.join(map(str, where))}] is {numbers[where]}")
    if (largest := np.abs(numbers).max()) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:g} in size, so that squares are finite; got {largest:g}")
    return numbers


def leading_axes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the broadcast of leading axes by the name of the argument; the error names every shape."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise ValueError(
            f"the leading axes must broadcast against each other; got {given}. Add axes of length 1 where a "
            "parameter does not vary"
        ) from None


def choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Check that ``value`` is one of ``choices``, of the same type."""
    if not any(type(value) is type(one) and value == one for one in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {shown(value)}")
