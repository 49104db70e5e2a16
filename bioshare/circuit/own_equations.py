"""Names in equations and statements of one's own: a typing error is a sentence with the equation and the name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def check_names(argument: str, used: Mapping[str, Iterable[str]], known: set[str], offered: Iterable[str]) -> None:
    """Raise ValueError at the first unknown name.

    Args:
        argument: the argument's name in the message.
        used: the names in each equation or statement, by text.
        known: all names with a meaning.
        offered: the names to list in the message.
    """
    for text, names in used.items():
        for name in sorted(set(names) - known):
            offered = sorted(offered)
            close = difflib.get_close_matches(name, offered, 1)
            remedy = f"did you mean {close[0]}?" if close else f"the names are {', '.join(offered)}"
            raise ValueError(f'{argument} has the unknown name {name} in "{text}"; {remedy}')


def first_cause(error: BaseException) -> str:
    """The message of the first error in a chain, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return " ".join(str(error.args[0] if error.args else error).split())
