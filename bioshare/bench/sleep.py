"""One sleep of Fig. 4B in every engine: ``python -m bioshare bench sleep``."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bioshare.bench.timing import timed
from bioshare.checks import Array
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.exact import Exact
from bioshare.circuit.loop import Loop, literal_steps
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Problem
from bioshare.circuit.rules import Hebbian, InverseSqrtDecay
from bioshare.cli import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench sleep``."""
    parser.add_argument("--presentations", type=positive, default=300, help="(default: %(default)s)")
    parser.add_argument("--runs", type=positive, default=10, help="groups in the batch (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.0, help="std of every neuron's own (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=9, help="of the exact engine (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table."""
    problem = sleep_problem(arguments.presentations, arguments.runs, arguments.seed, arguments.noise)
    groups, neurons, inputs = problem.weights.shape
    print(
        f"one sleep as in Fig. 4B: {groups} runs x {neurons} neurons x {inputs} inputs, "
        f"{problem.presentations} presentations of {problem.rates.shape[1]} steps, noise {problem.noise:g}\n"
    )
    print(f"{'':50s}{'seconds':>9s}{'of bare':>10s}{'of recording':>14s}{'max |dw|':>10s}")
    bare, recording, records = None, None, []
    for row in sleep_rows(problem, arguments.repeats):
        bare = bare or row.seconds
        recording = recording or (row.seconds if "recording" in row.name else None)
        ratios = f"{bare / row.seconds:9.1f}x" + (f"{recording / row.seconds:13.1f}x" if recording else f"{'':14s}")
        print(f"{row.name:50s}{row.seconds:9.3f}{ratios}{row.error:10.0e}", flush=True)
        records.append(row._asdict())
    return records


class Row(NamedTuple):
    """One line of the table: seconds, and the largest difference of a weight from the bare loop's."""

    name: str
    seconds: float
    error: float


def sleep_problem(presentations: int, runs: int, seed: int, noise: float = 0.0) -> Problem:
    """Fig. 4B's sleep: k = 9, N = 100, gamma = 0.01, recorded at its end; with noise if that is not 0."""
    rng = np.random.default_rng(seed)
    weights, stimuli = rng.normal(1, 1, (runs, 100, 81)), rng.standard_normal((runs, presentations, 81))
    rule = Hebbian(gamma=0.01, momentum=0.95, learning_rate=InverseSqrtDecay(3e-4, 2, 50))
    own = {"noise": noise, "seed": seed} if noise else {}
    return prepare_sleep(weights, stimuli, RateCircuit(), rule, record_every=presentations, **own)


def sleep_rows(problem: Problem, repeats: int) -> Iterator[Row]:
    """Time every engine on one problem; the recording ones record the SNR after every presentation."""
    from bioshare.circuit.brian import Brian2  # the other benches run where Brian2 is not installed

    every = replace(problem, record_every=1)
    bare = Loop().run(problem, progress=False)
    error = lambda weights: float(np.abs(weights - bare.weights).max())
    yield Row("loop, bare", bare.seconds["run"], 0.0)
    seconds, weights = timed(lambda: record_every_step(problem))
    yield Row("loop, recording the SNR at every step", seconds, error(weights))
    for threads in (1, 2):
        outcome = Brian2(threads=threads).run(problem, progress=False)
        for phase in ("compile", "run"):
            name = f"brian2 standalone, {_many(threads)}: {phase}"
            yield Row(name, outcome.seconds[phase], error(outcome.weights))
    for name, posed in (("exact, bare", problem), ("exact, recording at every presentation", every)):
        for threads in (1, 2):
            engine = Exact(threads=threads)
            runs = [timed(lambda e=engine, p=posed: e.run(p, progress=False).weights) for _ in range(repeats + 1)]
            seconds = statistics.median(seconds for seconds, _ in runs[1:])
            yield Row(f"{name}, {_many(threads)}", seconds, error(runs[0][1]))


def _many(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def record_every_step(problem: Problem) -> Array:
    """The literal loop with -log SNR measured after every weight update, in the fewest NumPy calls."""
    weights, records = problem.weights, []
    for weights, _, _ in literal_steps(problem):
        records.append(np.log((weights.var(1) / weights.mean(1) ** 2).mean(-1)))
    return weights
