"""Checks of equations and statements of one's own: a typing error is a sentence with the equation and the name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import brian2 as b2
from brian2.core.namespace import DEFAULT_CONSTANTS, DEFAULT_FUNCTIONS, DEFAULT_UNITS
from brian2.equations.equations import EquationError
from brian2.utils.stringtools import get_identifiers

from bioshare.circuit import equations

BUILT_IN = {*DEFAULT_CONSTANTS, *DEFAULT_FUNCTIONS, *DEFAULT_UNITS, "t", "dt", "t_in_timesteps", "i", "N"}
"""Names with a meaning in every equation of Brian2."""


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


def check_plasticity(given: str, neurons: str) -> None:
    """Raise where a plasticity leaves w as it is, or has a name that no synapse knows."""
    if not re.search(r"\bw\s*[-+*/]?=", given):
        raise ValueError(f'plasticity must change w, as in "w += m"; got {given!r}')
    of_neuron = set(b2.Equations(neurons + equations.NEURON).names)
    of_synapse = set(b2.Equations(equations.SYNAPSES).names) - {"z_post"}
    offered = of_synapse | {"x_pre", "eta", "t", "dt"} | {f"{name}_post" for name in of_neuron}
    statements = [line.split("#")[0].strip() for line in given.splitlines()]
    local = set(re.findall(r"^\s*(\w+)\s*=", given, re.MULTILINE))  # a statement may define a name
    known = BUILT_IN | offered | of_neuron | local | {"i", "j", "N_pre", "N_post", "N_incoming", "N_outgoing"}
    check_names("plasticity", {line: get_identifiers(line) for line in statements if line}, known, offered)


def check_equations(name: str, given: str, variable: str, declared: str) -> None:
    """Raise where equations have an error, or do not define ``variable``."""
    try:
        parsed = b2.Equations(given + declared)
    except (EquationError, SyntaxError) as error:
        raise ValueError(f"{name} must be equations in Brian2's language; got {given!r}: {error}") from error
    if variable not in parsed.diff_eq_names | parsed.subexpr_names:
        raise ValueError(f'{name} must say what {variable} is, as in "d{variable}/dt = ... : 1"; got {given!r}')
    if parsed.is_stochastic:
        raise ValueError(f"{name} must have no xi: noise is the stimulus's, stimuli.noise, from a seed; got {given!r}")
    used = {str(equation): equation.identifiers for equation in parsed.values() if equation.expr is not None}
    check_names(name, used, BUILT_IN | set(parsed.names), [*parsed.names, "t", "dt"])


def first_cause(error: BaseException) -> str:
    """The message of the first error in a chain, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return " ".join(str(error.args[0] if error.args else error).split())
