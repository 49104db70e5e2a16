"""A table that is printed row by row while it is measured, and kept as records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """One column: the key of its values, its head, their format and the width of both.

    Text is aligned to the left, all else to the right.
    """

    key: str
    head: str
    form: str = "s"
    width: int = 10

    def aligned(self, text: str) -> str:
        """A head or a cell in its place."""
        return text.ljust(self.width) if self.form == "s" else text.rjust(self.width)

    def cell(self, value: Any) -> str:
        """A value in its format; "-" for None."""
        return self.aligned("-" if value is None else format(value, self.form))


class Table:
    """Prints its head at once, and every row as soon as it is there.

    Attributes:
        records: the rows so far; numbers as they are, whatever the table shows of them.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns, self.records = columns, list[dict[str, Any]]()
        print("".join(column.aligned(column.head) for column in columns).rstrip(), flush=True)

    def add(self, **values: Any) -> None:
        """Print a row and keep it; what has no column is kept only."""
        self.records.append(values)
        print("".join(column.cell(values[column.key]) for column in self.columns).rstrip(), flush=True)
