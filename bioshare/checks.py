"""Argument checks of the whole package: an error names the argument, the expected value and the given value."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Scalar = float | Array


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
        ValueError: an element is NaN, infinite or out of bounds.
    """
    value = without_unit(name, value, expected, milliseconds=milliseconds)
    if np.asarray(value).dtype.kind == "b":
        raise TypeError(f"{name} must be {expected}; got {value!r}")
    numbers = np.asarray(real_array(name, value, expected) + 0.0)  # a copy, in which -0 is 0
    if numbers.ndim and not array:
        raise TypeError(f"{name} must be one number, {expected}; got an array of shape {numbers.shape}")
    fine = (numbers > above) & (numbers >= at_least) & (numbers < below)
    fine |= np.isposinf(numbers) if infinite else False
    fine &= np.isfinite(numbers) | (np.isposinf(numbers) & infinite)
    if not fine.all():
        raise ValueError(f"{name} must be {expected}; got {numbers[~fine].flat[0]:g}")
    if numbers.ndim == 0:
        return float(numbers)
    numbers.setflags(write=False)
    return numbers


def without_unit(name: str, value: Any, expected: str, *, milliseconds: bool = False) -> Any:
    """Return ``value`` if no number has a unit or is masked; a list or tuple is searched.

    With ``milliseconds``, times of Brian2, datetime, NumPy, pint, astropy, unyt and quantities become numbers.

    Raises:
        TypeError: a number has another unit, or any unit without ``milliseconds``.
        ValueError: elements of a masked array are masked.
    """
    if isinstance(value, list | tuple):
        return [without_unit(name, one, expected, milliseconds=milliseconds) for one in value]
    if np.ma.is_masked(value):
        raise ValueError(f"{name} must have no masked elements; set them first, as in {name}.filled(0)")
    if not _has_unit(value):
        return value
    times = _in_milliseconds(value) if milliseconds else None
    if times is None:
        remedy = "a plain number or a time with a unit" if milliseconds else "a plain number: divide by the unit"
        raise TypeError(f"{name} must be {expected}, {remedy}; got {value!r:.80}")
    # 15 digits: 0.3 * ms, 0.0003 s, is 0.3 and not 0.30000000000000004
    return np.vectorize(lambda time: float(f"{time:.15g}"), otypes=[float])(times)[()]


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


def real_array(name: str, value: ArrayLike, expected: str) -> Array:
    """Return ``value``, perhaps a torch tensor, as a float64 array; a unit or a masked element is an error."""
    value = without_unit(name, value, expected)
    if hasattr(value, "detach"):  # a tensor, which may require gradients or be of a type that NumPy lacks
        value = value.detach().cpu().double().numpy()  # type: ignore[union-attr]
    try:
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "fiub":
            raise TypeError
        return np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {expected}; got {value!r:.80}") from None


def whole(name: str, value: Any, expected: str, *, at_least: int) -> int:
    """Return ``value`` as an int of at least ``at_least``, or raise an error."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be {expected}; got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be {expected}, at least {at_least}; got {value}")
    return int(value)


def finite_array(name: str, value: ArrayLike, axes: str) -> Array:
    """Return ``value`` as a float64 array with at least the two ``axes``, all finite."""
    numbers = real_array(name, value, f"an array of real numbers, {axes}")
    if numbers.ndim < 2 or 0 in numbers.shape:
        raise ValueError(f"{name} must have the axes {axes}, none of them empty; got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
        raise ValueError(f"{name} must be finite; {name}[{', '.join(map(str, where))}] is {numbers[where]}")
    return numbers


def choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Check that ``value`` is one of ``choices``, of the same type."""
    if not any(type(value) is type(one) and value == one for one in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
