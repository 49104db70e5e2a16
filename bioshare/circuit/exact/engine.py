"""The engine "exact": settings, the way through a sleep chunk by chunk, and whole sleeps as linear maps."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bioshare.checks import Array, choice, finite_array, leading_axes, shown, whole
from bioshare.circuit.circuits import Circuit
from bioshare.circuit.exact.chunks import pieces, pieces_per_presentation
from bioshare.circuit.prepare import check_progress, prepare_sleep
from bioshare.circuit.problem import DIVERGED, Outcome, Problem, Progress, divergence, reported
from bioshare.circuit.recording import Recording
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import Stimulus, as_stimulus

TOGETHER = 4096
"""Number of presentations, counted in every group, between two calls of ``progress``."""

NOISE = 2**20
"""Numbers of noise in memory at once."""

UPDATES = 2**25
"""Updates of neurons and weights between two calls of ``progress`` with noise: some hundredths of a second."""

LARGE = 2**18
"""Number of weights from which on torch may share one operation among threads."""

CACHED = 2**15
"""Number of weights of a group up to which the compiled engine keeps three arrays of a group in the cache."""

RECORDED = ("neg_log_snr", "mean_norm", "mean_drift")


@dataclass(frozen=True)
class Exact:
    """Settings of the engine "exact".

    Args:
        dtype: ``"float64"`` or ``"float32"``.
        device: a torch device, ``"cpu"`` or ``"cuda"``.
        threads: number of threads on the CPU, of torch and of the groups. None for 1, or for torch's own number
            where a presentation moves very many weights: the operations are short, and where another program keeps
            a core busy, sharing an operation is a hundred times slower. torch's setting is put back after the sleep.

    On the CPU, Numba compiles the engine at the first sleep, in some seconds, and keeps the code on disk.
    """

    dtype: str = "float64"
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        choice("dtype", self.dtype, ("float64", "float32"))
        if self.threads is not None:
            whole("threads", self.threads, "a number of threads", at_least=1)
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
            got = shown(self.device)
            raise ValueError(f'device must be one that torch can use here, like "cpu"; got {got}') from error

    @torch.no_grad()
    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Simulate a checked sleep chunk by chunk."""
        if torch.device(self.device).type == "meta":
            raise ValueError('device must be one that computes, like "cpu"; got "meta", which has no values')
        start = time.perf_counter()
        if problem.bound > (largest := float(np.finfo(self.dtype).max) ** 0.5):
            raise ValueError(
                f"weights must be at most {largest / DIVERGED:.1g} in size for dtype={self.dtype!r}, so that squares "
                f'are finite; got {np.abs(problem.weights).max():.3g}. Take dtype="float64"'
            )
        recording, split = Recording(problem), pieces_per_presentation(problem)
        with self.torch_threads(problem.weights.size):
            groups = groups_for(replace(problem, rates=problem.rates.reshape(split * problem.presentations, -1)), self)
            state, done, whole = groups.at_rest(), 0, None
            mean_init, deviation = self.tensor(problem.mean_init).mT, self.tensor(problem.weights - problem.mean_init)
            own = partial(torch.as_tensor, device=self.device)  # of NumPy's arrays, too, whatever the default device
            measure = lambda mean, spread: _measure(own(mean), own(spread), mean_init, problem)
            ended = lambda state: _with_rest(problem, *(own(part).cpu().numpy() for part in groups.end(state)))
            first_record = measure(mean_init, torch.linalg.vector_norm(deviation, dim=1)[..., None])
            records, taken = first_record.new_empty(*first_record.shape[:2], problem.records), 1
            records[..., :1] = first_record
            try:
                with reported(progress, problem.presentations) as report:
                    for first, x in pieces(problem, split, chunk_length(problem)):
                        length, every = x.shape[1], problem.record_every * split
                        recorded = list(range(every - 1 - first % every, length, every))
                        after, within, mean, spread = groups.advance(state, x, first, recorded)
                        check_divergence(problem, within, first, split)
                        records[..., taken : taken + len(recorded)] = measure(mean, spread)
                        taken += len(recorded)
                        complete = (first + length) % split == 0
                        if recording.due((first + length) * problem.rates.shape[1] // split):
                            recording.add(*ended(after))
                        if split > 1 and complete:
                            whole = ended(after)
                        state, done = after, (first + length) // split
                        if complete:
                            report(done)
            except KeyboardInterrupt:
                if not done:
                    raise
            values = records[..., : 1 + done // problem.record_every].cpu().numpy()
            end = whole or ended(state)
        seconds = {"run": time.perf_counter() - start}
        recorded = recording.until(done * problem.rates.shape[1])
        return Outcome(*end, dict(zip(RECORDED, values, strict=True)), done, seconds, recorded)

    def tensor(self, array: ArrayLike) -> Tensor:
        """A copy of an array on the engine's device, in the engine's precision."""
        return torch.from_numpy(np.array(array, dtype=self.dtype, order="C")).to(self.device)

    @contextlib.contextmanager
    def torch_threads(self, moved: int) -> Iterator[None]:
        """Set torch's threads for presentations of ``moved`` weights, and put the number back; autocast is off."""
        with _THREADS.restored() as before, torch.autocast(torch.device(self.device).type, enabled=False):
            torch.set_num_threads(self.threads or (before if moved >= LARGE else 1))
            yield


class _Threads:
    """Torch's number of threads before the first of the running sleeps set another.

    A new thread begins with the number last set anywhere, perhaps by the sleep of another thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before = 1
        self._sleeps: Counter[int] = Counter()  # running sleeps by thread

    @contextlib.contextmanager
    def restored(self) -> Iterator[int]:
        """Yield the number before all sleeps; leave the thread with the number before, or of an enclosing sleep."""
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


def chunk_length(problem: Problem) -> int:
    """Number of presentations to compute between two calls of ``progress``."""
    groups, neurons, inputs = problem.weights.shape
    if not problem.per_neuron:
        return 64 * max(1, TOGETHER // (64 * groups))  # whole blocks
    numbers = math.prod(problem.stimulus_batch) * neurons * inputs
    updates = groups * neurons * (problem.rates.shape[1] + inputs)
    return max(1, min(NOISE // numbers, UPDATES // updates))


def groups_for(problem: Problem, engine: Exact) -> Any:
    """The groups of a problem in the fastest form on the engine's device.

    Every form has three methods. ``at_rest()`` returns the state before sleep. ``advance(state, x, start, recorded)``
    presents the inputs x (S, T, [N,] K) from presentation ``start`` on and leaves ``state`` intact until the next
    call; the results are the new state, a flag (B, T) for weights within the bound, and for the ``recorded``
    presentations the mean weights (B, K, G) and the norm over the neurons of the deviations (B, K, G). ``end(state)``
    returns the weights (B, N, K), r (B, N) and r_inh (B,).
    """
    # Each form is imported on use: numba takes half a second to load.
    on_cpu = torch.device(engine.device).type == "cpu"
    if problem.per_neuron:
        from bioshare.circuit.exact import noise

        return noise.CompiledNoise(problem, engine.dtype) if on_cpu else noise.NoisyGroups(problem, engine.tensor)
    neurons, inputs = problem.weights.shape[1:]
    if on_cpu and inputs * min(neurons, inputs) <= CACHED:
        from bioshare.circuit.exact.compiled import CompiledGroups

        return CompiledGroups(problem, engine.dtype)
    from bioshare.circuit.exact.blocks import SharedGroups

    return SharedGroups(problem, engine.tensor)


def _with_rest(problem: Problem, weights: Array, r: Array, r_inh: Array) -> tuple[Array, Array, Array]:
    """An engine's state with r_inh in place of the distance from r_inh without input."""
    return weights, r, (r_inh + problem.flat(problem.circuit.resting_inhibition)).astype(r_inh.dtype)


def check_divergence(problem: Problem, within: Any, start: int, split: int = 1) -> None:
    """Raise at the first piece of a presentation, from ``start`` on, with weights beyond the bound.

    The flags ``within`` are (B, T), and presentations have ``split`` pieces.
    """
    if not within.all():
        piece, group = (~torch.as_tensor(within, device="cpu")).T.nonzero()[0].tolist()
        raise divergence(problem, (start + piece) // split, group)


def _measure(mean: Tensor, spread: Tensor, mean_init: Tensor, problem: Problem) -> Tensor:
    """The records (3, B, G) from the means and the norms of the deviations, both (B, K, G)."""
    # log mean_j(var_j / mean_j^2) with var_j = spread_j^2 / N; an input without variance adds 0
    ratio = torch.where(spread == 0, 0.0, spread / mean)
    inverse_snr = ratio.square().mean(1) / problem.weights.shape[1]
    norms = torch.linalg.vector_norm(mean, dim=1), torch.linalg.vector_norm(mean - mean_init, dim=1)
    return torch.stack([inverse_snr.log(), *norms])


class SleepMap(NamedTuple):
    """A whole sleep as a linear map: w_i = mu' + A (w_i^init - mu), mu' = B mu + c, with mu = mean_i w_i^init.

    The map holds for any number of neurons and any weights with the same stimuli.

    Attributes:
        A, B: (..., K, K).
        c: (..., K).
    """

    A: Array
    B: Array
    c: Array

    def __call__(self, weights: ArrayLike) -> Array:
        """The weights (..., N, K) after sleep from the weights before sleep."""
        weights = finite_array("weights", weights, "(..., N, K)")
        if weights.shape[-1] != self.c.shape[-1]:
            raise ValueError(f"weights must have {self.c.shape[-1]} inputs as this map; got shape {weights.shape}")
        leading_axes({"weights": weights.shape[:-2], "the map": self.c.shape[:-1]})
        mean = weights.mean(-2, keepdims=True)
        return mean @ self.B.mT + self.c[..., None, :] + (weights - mean) @ self.A.mT


@torch.no_grad()
def sleep_map(
    stimuli: ArrayLike | Stimulus | Callable[..., ArrayLike],
    circuit: Circuit,
    rule: Hebbian,
    *,
    inputs: int | None = None,
    presentations: int | None = None,
    seed: int | None = None,
    engine: str | Exact = "exact",
    progress: Progress = True,
) -> SleepMap:
    """Simulate a sleep once for every possible weight: K virtual neurons instead of N real neurons.

    With a shared stimulus all deviations from the mean obey the same linear map and the mean an affine map, so
    the sleep of any number of groups is a matrix product.

    Args:
        stimuli: (..., P, K), the same for all neurons, or a noiseless Stimulus or function.
        circuit, rule: as in `bioshare.simulate`.
        inputs: K, needed with a Stimulus.
        presentations, seed: needed with a Stimulus.
        engine: precision and device.
        progress: as in `bioshare.simulate`; KeyboardInterrupt in the function is passed on.

    Returns:
        A, B (..., K, K) and c (..., K).

    Raises:
        ValueError: the stimulus differs between neurons, and no such map exists.
        DivergenceError: the sleep diverges.
    """
    engine = Exact() if isinstance(engine, str) and engine == "exact" else engine
    if not isinstance(engine, Exact):
        raise TypeError(f'engine must be "exact" or an Exact(); got {shown(engine)}')
    stimuli = as_stimulus(stimuli, "stimuli") if callable(stimuli) else stimuli
    if isinstance(stimuli, Stimulus):
        if inputs is None:
            raise TypeError("inputs, the number K of weights per neuron, is needed with a Stimulus")
        shape: tuple[int, ...] = (1, whole("inputs", inputs, "a number of weights per neuron", at_least=1))
    else:
        stimuli = finite_array("stimuli", stimuli, "(..., P, K)")
        shape = (*stimuli.shape[:-2], 1, stimuli.shape[-1])
        if inputs is not None and whole("inputs", inputs, "the stimuli's number", at_least=1) != shape[-1]:
            raise ValueError(f"inputs must be left out, or the stimuli's {shape[-1]}; got {inputs}")
    check_progress(progress)
    problem = prepare_sleep(np.zeros(shape), stimuli, circuit, rule, presentations=presentations, seed=seed)
    if problem.per_neuron:
        raise ValueError("stimuli must be the same for all neurons; with noise, simulate the sleep of the weights")
    from bioshare.circuit.exact.blocks import IdentityGroups

    threads = engine.torch_threads(2 * problem.weights.size * shape[-1])
    with threads, reported(progress, problem.presentations) as report:
        groups = IdentityGroups(problem, engine.tensor)
        state = groups.at_rest()
        for first, x in problem.drawn(chunk_length(problem)):
            state, within, *_ = groups.advance(state, x, first, [])
            check_divergence(problem, within, first)
            report(first + x.shape[1])
        ends = (end.cpu().numpy() for end in groups.end(state))
        return SleepMap(*(end.reshape(problem.batch + end.shape[1:]) for end in ends))
