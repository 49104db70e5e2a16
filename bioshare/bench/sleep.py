"""One sleep of Fig. 4B in every engine: ``python -m bioshare bench sleep``."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from bioshare.bench.harness import timed
from bioshare.checks import Array
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.exact import Exact
from bioshare.circuit.loop import Loop, literal_steps
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import Outcome, Problem
from bioshare.circuit.rules import Hebbian, InverseSqrtDecay
from bioshare.cli import positive
from bioshare.progress import shows_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench sleep``."""
    parser.add_argument("--presentations", type=positive, default=300, help="(default: %(default)s)")
    parser.add_argument("--runs", type=positive, default=10, help="groups in the batch (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="standard deviation of every neuron's own noise (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=positive, default=9, help="runs of the exact engine (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the name of every row before a sleep, and the seconds afterwards.

    In a terminal, the loop and Brian2 show their progress below the name, and the row is printed anew.
    """
    problem = fig4b_problem(arguments.presentations, arguments.runs, arguments.seed, arguments.noise)
    groups, neurons, inputs = problem.weights.shape
    print(
        f"one sleep as in Fig. 4B: {groups} runs x {neurons} neurons x {inputs} inputs, "
        f"{problem.presentations} presentations of {problem.rates.shape[1]} steps, noise {problem.noise:g}\n"
    )
    print(f"{'':50s}{'seconds':>9s}{'of bare':>10s}{'of recording':>14s}{'max |dw|':>10s}")
    records: list[dict[str, Any]] = []
    bare_weights = None
    for name, sleep in timed_sleeps(problem, arguments.repeats):
        print(f"{name:50s}", end="", flush=True)
        seconds, weights = sleep()
        if shows_bar():
            print(f"\r{name:50s}", end="")
        bare_weights = weights if bare_weights is None else bare_weights
        error = float(np.abs(weights - bare_weights).max())
        records.append({"name": name, "seconds": seconds, "error": error})
        # the first two rows are the bare loop and the recording loop
        ratios = [f"{record['seconds'] / seconds:.1f}x" for record in records[:2]]
        print(f"{seconds:9.3f}{ratios[0]:>10s}{''.join(ratios[1:]):>14s}{error:10.0e}", flush=True)
    return records


def fig4b_problem(presentations: int, runs: int, seed: int, noise: float = 0.0) -> Problem:
    """The sleep of Fig. 4B: k = 9, N = 100, gamma = 0.01, recorded at the end."""
    rng = np.random.default_rng(seed)
    weights, stimuli = rng.normal(1, 1, (runs, 100, 81)), rng.standard_normal((runs, presentations, 81))
    rule = Hebbian(gamma=0.01, momentum=0.95, learning_rate=InverseSqrtDecay(3e-4, 2, 50))
    own_noise = {"noise": noise, "seed": seed} if noise else {}
    return prepare_sleep(weights, stimuli, RateCircuit(), rule, record_every=presentations, **own_noise)


def timed_sleeps(problem: Problem, repeats: int) -> Iterator[tuple[str, Callable[[], tuple[float, Array]]]]:
    """Name and sleep of every row; a sleep returns seconds and weights."""
    from bioshare.circuit.brian import Brian2  # the other benches run without Brian2

    progress = shows_bar()
    yield "loop, bare", lambda: seconds_of(Loop().run(problem, progress), "run")
    yield "loop, recording the SNR at every step", partial(timed, partial(record_every_step, problem))
    for threads in (1, 2):
        sleep = cache(partial(Brian2(threads=threads).run, problem, progress))
        for part in ("compile", "run"):
            name = f"brian2 standalone, {threads} thread{'s' * (threads > 1)}: {part}"
            yield name, lambda sleep=sleep, part=part: seconds_of(sleep(), part)
    every = replace(problem, record_every=1)
    for name, recorded in (("exact, bare", problem), ("exact, recording at every presentation", every)):
        for threads in (1, 2):
            sleep = partial(Exact(threads=threads).run, recorded, progress=False)
            yield f"{name}, {threads} thread{'s' * (threads > 1)}", partial(median_of_runs, sleep, repeats)


def seconds_of(outcome: Outcome, part: str) -> tuple[float, Array]:
    """Seconds of compiling or running, and the weights after sleep."""
    return outcome.seconds[part], outcome.weights


def median_of_runs(sleep: Callable[[], Outcome], repeats: int) -> tuple[float, Array]:
    """Median seconds after a first run, and the weights after sleep."""
    weights = sleep().weights
    return statistics.median(timed(sleep)[0] for _ in range(repeats)), weights


def record_every_step(problem: Problem) -> Array:
    """The weights after the literal loop, with -log SNR after every update in the fewest calls of NumPy."""
    weights, records = problem.weights, []
    for weights, _, _ in literal_steps(problem):
        records.append(np.log((weights.var(1) / weights.mean(1) ** 2).mean(-1)))
    return weights
