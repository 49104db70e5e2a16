"""`simulate`: check a sleep, call an engine, return a SleepRun."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence

from numpy.typing import ArrayLike

from bioshare.checks import shown
from bioshare.circuit.circuits import Circuit
from bioshare.circuit.prepare import check_progress, prepare_sleep
from bioshare.circuit.problem import Engine, Progress
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.run import SleepRun
from bioshare.circuit.stimuli import Stimulus

ENGINES = {
    "exact": "bioshare.circuit.exact:Exact",
    "brian2": "bioshare.circuit.brian:Brian2",
    "loop": "bioshare.circuit.loop:Loop",
}


def simulate(
    weights: ArrayLike,
    stimuli: ArrayLike | Stimulus | Callable[..., ArrayLike],
    circuit: Circuit,
    rule: Hebbian,
    engine: str | Engine = "exact",
    record_every: int = 1,
    *,
    presentations: int | None = None,
    seed: int | None = None,
    progress: Progress = True,
    record: str | Sequence[str] = (),
    sample_every: int | None = None,
) -> SleepRun:
    """Let groups of neurons sleep: a lateral circuit and Hebbian plasticity pull the weights together.

    Args:
        weights: before sleep, (..., N, K): N neurons with K inputs; leading axes are runs and grid points.
        stimuli: inputs (..., P, K), shared by all neurons of a group, or (..., P, N, K), for every neuron, with exactly
            one axis more than the weights; or a Stimulus, drawn anew for every leading entry of the weights, or a
            function of (presentations, inputs, rng) to an array (presentations, inputs) in place of a Stimulus.
            Leading axes of stimuli, weights and parameters broadcast.
        circuit: `SteadyState` or `RateCircuit`.
        rule: `Hebbian`.
        engine: "exact", "brian2", "loop" (every step in NumPy), or an engine with settings, such as
            ``Exact(device="cuda")`` or ``Brian2(threads=2)``.
        record_every: presentations between two records of the SNR; the end is a record, too.
        presentations: P, with a Stimulus or a function.
        seed: seed of the Stimulus or the function; the same seed gives the same bytes.
        progress: True shows a bar when the sleep takes longer than two seconds, False shows nothing. A function
            is called with the number of complete presentations, up to P: by "exact" after every chunk, some
            hundredths of a second long with noise; by "loop" after every presentation; by "brian2" at the end.
            An error in the function stops the sleep and is passed on, but KeyboardInterrupt is as Ctrl-C.
        record: quantities to record in time, "r", "r_inh" and "weights": `SleepRun.recorded`. Every sample holds N, 1
            and N K numbers of 8 bytes for every leading entry, all in memory until the end.
        sample_every: weight updates between two samples: time steps of a RateCircuit, presentations of a SteadyState.
            None for a sample every ``record_every`` presentations.

    Returns:
        The weights after sleep and the records. After Ctrl-C the run holds the complete presentations, with a
        warning (not with "brian2": all or nothing).

    Raises:
        TypeError, ValueError: an argument makes no sense, or the learning rate is above the stability limit for a
            held input (`theory.max_learning_rate`) in any presentation of a SteadyState, in most of a RateCircuit;
            nothing was simulated.
        DivergenceError: the weights grew without bound.

    Example:
        >>> import numpy as np, bioshare as bs
        >>> run = bs.simulate(
        ...     np.random.default_rng(0).normal(1, 1, (100, 9)),
        ...     bs.stimuli.gaussian(), presentations=500, seed=0,
        ...     circuit=bs.SteadyState(),
        ...     rule=bs.Hebbian(gamma=0.01, momentum=0.95, learning_rate=lambda k: 0.5 / (1000 + k)),
        ... )
        >>> run.neg_log_snr[-1] < run.neg_log_snr[0] - 5
        np.True_
    """
    engine = find_engine(engine)
    check_progress(progress)
    problem = prepare_sleep(
        weights, stimuli, circuit, rule, record_every=record_every, presentations=presentations, seed=seed,
        record=record, sample_every=sample_every,
    )  # fmt: skip
    run = SleepRun.of(problem, engine.run(problem, progress), engine)
    if run.interrupted:
        warnings.warn(
            f"interrupted after {run.presentations} of {problem.presentations} presentations; "
            "the run holds what was computed until then",
            RuntimeWarning,
            stacklevel=2,
        )
    return run


def find_engine(engine: str | Engine) -> Engine:
    """The engine of a name, or the given engine."""
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}; got {shown(engine)}")
        module, name = ENGINES[engine].split(":")
        return getattr(importlib.import_module(module), name)()
    if isinstance(engine, type) or not callable(getattr(engine, "run", None)):
        raise TypeError(f"engine must be a name or an engine such as Exact() or Brian2(); got {shown(engine)}")
    return engine
