"""Engine "exact": a sleep without approximation, many presentations at once. The mathematics: presentations.py."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bioshare.checks import Array, finite_array, whole
from bioshare.circuit.circuits import Circuit
from bioshare.circuit.groups import Groups, NoisyGroups, SharedGroups, refuse_divergence
from bioshare.circuit.prepare import check_progress, prepare_sleep
from bioshare.circuit.presentations import Constants, Vectors, blocks
from bioshare.circuit.problem import Outcome, Problem, Progress, reported
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import Stimulus

MAPS = 4096
"""Presentation maps that are stepped together: enough to hide Python, few enough to stay in cache."""

MAP_BLOCK = 64
"""Presentations per block of a sleep map: its K x K weights are moved once a block, which is what takes time."""

NOISE = 2**20
"""Numbers of noise that are held at once."""

UPDATES = 2**25
"""Updates of neurons and of their weights that are computed at once with noise: some hundredths of a second."""

LARGE = 2**18
"""Weights from which on torch may share one operation among threads."""

RECORDED = ("neg_log_snr", "mean_norm", "mean_drift")


@dataclass(frozen=True)
class Exact:
    """Settings of the engine "exact".

    Args:
        dtype: ``"float64"`` or ``"float32"``.
        device: a torch device, ``"cpu"`` or ``"cuda"``.
        threads: of torch, on the CPU, and of the groups that sleep with noise. None for one, or for torch's own
            number where a presentation moves very many weights: its operations are short, and where another program
            keeps a core busy, sharing them is a hundred times slower. On a machine that has nothing else to do, two
            threads are 1.2 to 1.5 times faster. torch's setting is put back after the sleep.

    With noise, the CPU runs code that Numba compiles at the first such sleep, in some seconds, and keeps on disk.
    """

    dtype: str = "float64"
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float64", "float32"):
            raise ValueError(f'dtype must be "float64" or "float32"; got {self.dtype!r}')
        if self.threads is not None:
            whole("threads", self.threads, "a number of threads", at_least=1)
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f'device must be one that torch can use here, like "cpu"; got {self.device!r}') from error

    @torch.no_grad()
    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Propagate a checked sleep."""
        start = time.perf_counter()
        with self.torch_threads(problem.weights.size):
            outcome = _propagate(problem, self, progress)
        outcome.seconds["run"] = time.perf_counter() - start
        return outcome

    def tensor(self, array: ArrayLike) -> Tensor:
        """A copy of an array on this engine's device, in its precision."""
        return torch.from_numpy(np.array(array, dtype=self.dtype, order="C")).to(self.device)

    @contextlib.contextmanager
    def torch_threads(self, moved: int) -> Iterator[None]:
        """Set torch's threads for presentations that move so many weights, and put them back."""
        with _THREADS.restored() as before:
            torch.set_num_threads(self.threads or (before if moved >= LARGE else 1))
            yield


class _Threads:
    """What torch's number of threads was before the first of the sleeps that run now set it.

    A new thread begins with the number that was set last anywhere, which may be that of another thread's sleep.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before = 1
        self._sleeps: Counter[int] = Counter()  # that run now, by thread

    @contextlib.contextmanager
    def restored(self) -> Iterator[int]:
        """Yield the number before all sleeps, and leave this thread with it, or with that of the sleep around this."""
        thread = threading.get_ident()
        with self._lock:
            mine = torch.get_num_threads()
            if not self._sleeps:
                self._before = mine
            before = self._before
            restored = mine if thread in self._sleeps else before
            self._sleeps[thread] += 1
        try:
            yield before
        finally:
            with self._lock:
                torch.set_num_threads(restored)
                self._sleeps -= Counter([thread])


_THREADS = _Threads()


class SleepMap(NamedTuple):
    """A whole sleep as a linear map: w_i = mu' + A (w_i^init - mu), mu' = B mu + c, with mu = mean_i w_i^init.

    It holds for any number of neurons and any weights that see the same stimuli.

    Attributes:
        A, B: (..., K, K).
        c: (..., K).
    """

    A: Array
    B: Array
    c: Array

    def __call__(self, weights: ArrayLike) -> Array:
        """The weights after this sleep, (..., N, K), from those before it."""
        weights = finite_array("weights", weights, "(..., N, K)")
        if weights.shape[-1] != self.c.shape[-1]:
            raise ValueError(f"weights must have {self.c.shape[-1]} inputs as this map; got shape {weights.shape}")
        mean = weights.mean(-2, keepdims=True)
        return mean @ self.B.mT + self.c[..., None, :] + (weights - mean) @ self.A.mT


@torch.no_grad()
def sleep_map(
    stimuli: ArrayLike | Stimulus,
    circuit: Circuit,
    rule: Hebbian,
    *,
    inputs: int | None = None,
    presentations: int | None = None,
    seed: int | None = None,
    engine: str | Exact = "exact",
    progress: Progress = True,
) -> SleepMap:
    """Simulate a sleep once for every possible weight: K virtual neurons instead of N real ones.

    With a shared stimulus all deviations from the mean obey the same linear map and the mean an affine one, so
    the sleep of any number of groups is a matrix product.

    Args:
        stimuli: (..., P, K), the same for all neurons, or a noiseless Stimulus.
        circuit, rule: as in `bioshare.simulate`.
        inputs: K, needed with a Stimulus.
        presentations, seed: needed with a Stimulus.
        engine: precision and device.
        progress: as in `bioshare.simulate`; KeyboardInterrupt in it is passed on.

    Returns:
        A, B (..., K, K) and c (..., K).

    Raises:
        ValueError: the stimulus differs between neurons, so that no such map exists.
        DivergenceError: the sleep diverges.
    """
    engine = Exact() if engine == "exact" else engine
    if not isinstance(engine, Exact):
        raise TypeError(f'engine must be "exact" or an Exact(); got {engine!r}')
    check_progress(progress)
    if isinstance(stimuli, Stimulus):
        if inputs is None:
            raise TypeError("inputs, the number K of weights per neuron, is needed with a Stimulus")
        shape: tuple[int, ...] = (1, whole("inputs", inputs, "a number of weights per neuron", at_least=1))
    else:
        stimuli = finite_array("stimuli", stimuli, "(..., P, K)")
        shape = (*stimuli.shape[:-2], 1, stimuli.shape[-1])
        if inputs not in (None, shape[-1]):
            raise ValueError(f"inputs must be left out, or the stimuli's {shape[-1]}; got {inputs}")
    problem = prepare_sleep(np.zeros(shape), stimuli, circuit, rule, presentations=presentations, seed=seed)
    if problem.per_neuron:
        raise ValueError("stimuli must be the same for all neurons; with noise, simulate the sleep of the weights")
    with engine.torch_threads(2 * problem.weights.size * shape[-1]):
        return _mapped(problem, engine, progress)


def _mapped(problem: Problem, engine: Exact, progress: Progress) -> SleepMap:
    """The sleep of the identity's columns: as deviations, and as means."""
    constants, rates = Constants.of(problem, engine.tensor), engine.tensor(problem.rates)
    identity = engine.tensor(np.eye(problem.weights.shape[-1])).repeat(len(constants.alpha), 1, 1)
    deviation = Vectors.at_rest(identity)
    mean = Vectors.at_rest(torch.nn.functional.pad(identity, (0, 1)))
    mean.state[:, 0, -1] = -constants.bias[:, 0]  # the last virtual neuron has no weights: it carries c
    with reported(progress, problem.presentations) as tell:
        for start, x in _chunks(problem, engine):
            parts = blocks(constants, x, rates[start : start + x.shape[1]], MAP_BLOCK)
            for number, block in enumerate(parts):
                traces = deviation.solve(block, block.maps.deviation), mean.solve(block, block.maps.mean)
                refuse_divergence(problem, block.moves(*traces) < problem.bound, start + number * MAP_BLOCK)
                deviation, mean = deviation.after(block, traces[0]), mean.after(block, traces[1])
            tell(start + x.shape[1])
    found = identity + deviation.v, identity + mean.v[..., :-1], mean.v[..., -1]
    return SleepMap(*(part.cpu().numpy().reshape(problem.batch + part.shape[1:]) for part in found))


def _chunks(problem: Problem, engine: Exact) -> Iterator[tuple[int, Tensor]]:
    """The inputs of many presentations at a time, with the number of the first.

    Their leading axis is that of the groups, and with noise that of the stimuli that are drawn.
    """
    draw, together = problem.blocks, MAP_BLOCK * max(1, MAPS // (MAP_BLOCK * len(problem.weights)))
    if problem.per_neuron:
        draw, together = problem.drawn, noise_together(problem)
    for start, x in draw(together):
        yield start, engine.tensor(x)


def noise_together(problem: Problem) -> int:
    """How many presentations with noise are computed at once."""
    groups, neurons, inputs = problem.weights.shape
    numbers = math.prod(problem.stimulus_batch) * neurons * inputs
    updates = groups * neurons * (problem.rates.shape[1] + inputs)
    return max(1, min(NOISE // numbers, UPDATES // updates))


def groups_of(problem: Problem, engine: Exact) -> Groups[Any]:
    """The groups of a problem, in the form that is fastest on the engine's device."""
    if not problem.per_neuron:
        return SharedGroups(problem, engine.tensor)
    if torch.device(engine.device).type != "cpu":
        return NoisyGroups(problem, engine.tensor)
    from bioshare.circuit.noisy import CompiledGroups  # here, so that the GPU needs no Numba

    return CompiledGroups(problem, engine.tensor)


def _propagate(problem: Problem, engine: Exact, progress: Progress) -> Outcome:
    """Live through the sleep chunk by chunk."""
    groups = groups_of(problem, engine)
    state, done = groups.at_rest(), 0
    records = [groups.before()]
    try:
        with reported(progress, problem.presentations) as tell:
            for start, x in _chunks(problem, engine):
                after, recorded = groups.live(state, x, start)
                records += recorded
                state, done = after, start + x.shape[1]
                tell(done)
    except KeyboardInterrupt:
        if not done:
            raise
    values = torch.cat(records, -1)[..., : 1 + done // problem.record_every].cpu().numpy()
    weights, r, r_inh = (tensor.cpu().numpy() for tensor in groups.end(state))
    return Outcome(weights, r, r_inh, dict(zip(RECORDED, values, strict=True)), done)
