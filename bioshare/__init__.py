"""Simulated sleep for locally connected networks, after Pogodin, Mehta, Lillicrap and Latham (2021).

A sleep is a linear circuit that pulls the weights of a sharing group to their mean: simulate it exactly, and hand
the result to a network in training. Importing this package imports neither brian2 nor torch; they are imported
when a name that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bioshare import bridge as bridge
    from bioshare import circuit as circuit
    from bioshare import explorer as explorer
    from bioshare import nn as nn
    from bioshare import train as train
    from bioshare.bridge import HebbianSharing as HebbianSharing
    from bioshare.bridge import InstantSharing as InstantSharing
    from bioshare.bridge import KolenPollack as KolenPollack
    from bioshare.bridge import Mirror as Mirror
    from bioshare.bridge import SignSymmetry as SignSymmetry
    from bioshare.bridge import Sleep as Sleep
    from bioshare.bridge import neg_log_snr as neg_log_snr
    from bioshare.circuit import rules as rules
    from bioshare.circuit import stimuli as stimuli
    from bioshare.circuit import theory as theory
    from bioshare.circuit.brian import Brian2 as Brian2
    from bioshare.circuit.circuits import RateCircuit as RateCircuit
    from bioshare.circuit.circuits import SteadyState as SteadyState
    from bioshare.circuit.exact import Exact as Exact
    from bioshare.circuit.exact import SleepMap as SleepMap
    from bioshare.circuit.exact import sleep_map as sleep_map
    from bioshare.circuit.loop import Loop as Loop
    from bioshare.circuit.mirror.circuit import MirrorCircuit as MirrorCircuit
    from bioshare.circuit.mirror.exact import MirrorMap as MirrorMap
    from bioshare.circuit.mirror.exact import mirror_map as mirror_map
    from bioshare.circuit.mirror.simulate import MirrorRun as MirrorRun
    from bioshare.circuit.mirror.simulate import simulate_mirror as simulate_mirror
    from bioshare.circuit.problem import DivergenceError as DivergenceError
    from bioshare.circuit.rules import Hebbian as Hebbian
    from bioshare.circuit.run import SleepRun as SleepRun
    from bioshare.circuit.simulate import simulate as simulate
    from bioshare.explorer import explore as explore

__version__ = "0.1.0"

_HOMES = {
    "bioshare": ("bridge", "circuit", "explorer", "nn", "train"),
    "bioshare.circuit": ("rules", "stimuli", "theory"),
    "bioshare.bridge": (
        "HebbianSharing",
        "InstantSharing",
        "KolenPollack",
        "Mirror",
        "SignSymmetry",
        "Sleep",
        "neg_log_snr",
    ),
    "bioshare.circuit.brian": ("Brian2",),
    "bioshare.circuit.circuits": ("RateCircuit", "SteadyState"),
    "bioshare.circuit.exact": ("Exact", "SleepMap", "sleep_map"),
    "bioshare.circuit.loop": ("Loop",),
    "bioshare.circuit.mirror.circuit": ("MirrorCircuit",),
    "bioshare.circuit.mirror.exact": ("MirrorMap", "mirror_map"),
    "bioshare.circuit.mirror.simulate": ("MirrorRun", "simulate_mirror"),
    "bioshare.circuit.problem": ("DivergenceError",),
    "bioshare.circuit.rules": ("Hebbian",),
    "bioshare.circuit.run": ("SleepRun",),
    "bioshare.circuit.simulate": ("simulate",),
    "bioshare.explorer": ("explore",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = {*_HOMES["bioshare"], "rules", "stimuli", "theory"}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bioshare' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"{_HOME[name]}.{name}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
