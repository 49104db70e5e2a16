"""The checks of a `bioshare.Sleep` when the sleep is made."""

from __future__ import annotations

from typing import Any

from bioshare.bridge.scaling import check_scalars
from bioshare.checks import choice, flag, real, takes, whole
from bioshare.circuit.circuits import Circuit, RateCircuit, SteadyState
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import ENGINES
from bioshare.circuit.stimuli import Grid, Stimulus


def check_sleep(sleep: Any) -> None:
    """Raise TypeError or ValueError if a field of a sleep makes no sense, or two fields forbid each other."""
    for name, classes in {"circuit": (RateCircuit, SteadyState), "stimulus": (Stimulus,)}.items():
        if not isinstance(getattr(sleep, name), classes):
            expected = " or a ".join(cls.__name__ for cls in classes)
            raise TypeError(f"{name} must be a {expected}; got {getattr(sleep, name)!r}")
    if not takes(sleep.rule, 1) and not isinstance(sleep.rule, Hebbian):
        raise TypeError(f"rule must be a Hebbian or a callable that takes K to one; got {sleep.rule!r}")
    if not takes(sleep.presentations, 1):
        whole("presentations", sleep.presentations, "a number of presentations or a callable", at_least=1)
    for parameters in (sleep.circuit, sleep.rule):
        if isinstance(parameters, Circuit | Hebbian):
            check_scalars(parameters)
    if isinstance(sleep.engine, str) and sleep.engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}; got {sleep.engine!r}")
    choice("patterns", sleep.patterns, ("drawn", "relayed", "simultaneous"))
    whole("pool_seed", sleep.pool_seed, "a non-negative integer", at_least=0)
    real("memory", sleep.memory, "a positive number of bytes", above=0, array=False)
    whole("silence", sleep.silence, "a number of presentations without input", at_least=0)
    real("gain", sleep.gain, "a positive factor", above=0, array=False)
    flag("rescale", sleep.rescale)
    if sleep.rescale and sleep.gain != 1:
        raise ValueError(
            f"gain must be 1 with rescale=True; got {sleep.gain:g}. Set rescale=False, or leave the gain out"
        )
    if sleep.pool is not None:
        whole("pool", sleep.pool, "None or a number of sleeps to keep", at_least=1)
    linear = {"pool": sleep.pool is not None, 'moments="share"': sleep.moments == "share"}
    linear[f'patterns="{sleep.patterns}"'] = sleep.patterns != "drawn"
    for name, set_ in linear.items():
        if set_ and not sleep.collapses:
            raise ValueError(
                f"{name} needs a sleep that is one linear map: no noise, and the exact engine. Leave it out"
            )
    if sleep.patterns != "drawn" and sleep.pool is not None:
        raise ValueError(f"pool must be None for {sleep.patterns} patterns, which depend on the weights")
    if sleep.patterns != "drawn" and isinstance(sleep.stimulus, Grid):
        raise ValueError(
            f"stimulus must bring new patterns all the time for {sleep.patterns} patterns, as stimuli.gaussian() "
            "does: the few that a grid has in the first layer can't span the inputs of the next ones"
        )


def check_free(preset: str, options: dict[str, Any], *own: str) -> None:
    """Raise TypeError if ``options`` contain a field set by the preset."""
    taken = [name for name in own if name in options]
    if taken:
        raise TypeError(
            f"{', '.join(taken)} must be left out: Sleep.{preset} sets {', '.join(own)} itself. "
            f"To change them use dataclasses.replace(Sleep.{preset}(...), {taken[0]}=...)"
        )
