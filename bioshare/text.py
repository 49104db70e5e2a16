"""Numbers and tables as text, for every command and report that prints a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns: the first column flush left, all further columns flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def number(value: float | None, form: str = ".1f") -> str:
    """A number in the format ``form``; a dash for None and NaN, and no minus before a zero."""
    if value is None or value != value:
        return "-"
    text = format(value, form)
    return text.removeprefix("-") if float(text) == 0 else text


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean +- sample standard deviation; the mean alone of a single value, a dash of none."""
    if len(values) == 0:
        return "-"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean)
    return f"{number(mean)} +- {(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5:.1f}"


def paired_difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Mean of a - b +- standard error, signed, over pairs such as equal seeds; without the error for a single pair.

    The standard error is the sample standard deviation of the differences over the root of the number of pairs. Without
    a pair the text is empty. Values of the longer sequence without a partner are left out.
    """
    differences = [mine - yours for mine, yours in zip(a, b, strict=False)]
    count = len(differences)
    if count == 0:
        return ""
    mean = number(statistics.fmean(differences), "+.1f")
    return mean if count == 1 else f"{mean} +- {statistics.stdev(differences) / count**0.5:.1f}"
