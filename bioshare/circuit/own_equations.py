"""Checks of equations and statements of one's own: a typing error is a sentence with the equation and the name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import brian2 as b2
import numpy as np
from brian2.core.namespace import DEFAULT_CONSTANTS, DEFAULT_FUNCTIONS, DEFAULT_UNITS
from brian2.equations.equations import EquationError
from brian2.utils.stringtools import get_identifiers

from bioshare.circuit import equations

BUILT_IN = {*DEFAULT_CONSTANTS, *DEFAULT_FUNCTIONS, *DEFAULT_UNITS, "t", "dt", "t_in_timesteps", "i", "N"}
"""Names with a meaning in every equation of Brian2."""

RANDOM = {"rand", "randn", "poisson"}
"""Functions whose numbers would not come from the seed."""


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
            if argument == "plasticity":
                remedy += ". A new variable is the neuron's, defined in neurons=, and has _post behind its name here"
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
    used = {line: get_identifiers(line) for line in statements if line}
    _check_random("plasticity", used)
    check_names("plasticity", used, known, offered)


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
    if "r" in parsed.subexpr_names and "r_inh" in _behind("r", parsed):
        raise ValueError(
            f'{name} must have an equation "dr/dt = ..." where r depends on r_inh, the rate of another neuron, or let '
            f"r follow from a variable with an equation; got {given!r}"
        )
    _check_random(name, used)
    check_names(name, used, BUILT_IN | set(parsed.names), [*parsed.names, "t", "dt"])


def _behind(variable: str, parsed: b2.Equations) -> set[str]:
    """All names that a subexpression depends on, through other subexpressions, too."""
    names = set(parsed[variable].identifiers)
    return names.union(*(_behind(name, parsed) for name in names & parsed.subexpr_names))


def check_values(values: Mapping[str, Any], neurons: str | None, inhibition: str | None) -> None:
    """Raise for a value of no new variable or that is no number, and for a new parameter without a value.

    Brian2 would take 0, or evaluate a text.
    """
    for name, value in values.items():
        number = isinstance(value, int | float | np.number | b2.Quantity) and np.ndim(value) == 0
        if not isinstance(name, str) or not number or not np.isfinite(np.asarray(value)):
            raise TypeError(f"values must be finite numbers by name, perhaps with a unit; got {name!r}: {value!r}")
    new: set[str] = set()
    parameters: set[str] = set()
    for given, declared in ((neurons, equations.NEURON), (inhibition, equations.INHIBITORY)):
        parsed = b2.Equations(given or "")
        new |= parsed.diff_eq_names | parsed.parameter_names
        parameters |= parsed.parameter_names - set(b2.Equations(declared).names)
    if unknown := sorted(set(values) - new):
        names = f"variables of neurons or inhibition, {', '.join(sorted(new))}" if new else "of new variables"
        raise ValueError(f"values must be {names}; got {', '.join(unknown)}")
    if missing := sorted(parameters - set(values)):
        raise ValueError(f"values must set the parameter {missing[0]}, as in values={{'{missing[0]}': 1.0}}")


def _check_random(name: str, used: Mapping[str, Iterable[str]]) -> None:
    for text, names in used.items():
        if drawn := RANDOM & set(names):
            raise ValueError(
                f"{name} must draw no random numbers, which no seed reaches: noise is the stimulus's, stimuli.noise; "
                f'got {drawn.pop()} in "{text}"'
            )


def first_cause(error: BaseException) -> str:
    """The message of the first error in a chain, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return " ".join(str(error.args[0] if error.args else error).split())
