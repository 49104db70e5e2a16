"""Engine "exact": a sleep without approximation, many presentations at once. The mathematics: presentations.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from bioshare.circuit.checks import finite_array
from bioshare.circuit.circuits import Circuit
from bioshare.circuit.presentations import PHI, Block, Coefficients, Maps, Response, Vectors, hold, reach
from bioshare.circuit.problem import Array, Outcome, Problem, divergence, measure, prepare
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.stimuli import Stimulus

BLOCK = 16
"""Presentations per triangular system."""

MAPS = 4096
"""Presentation maps that are stepped together: enough to hide Python, few enough to stay in cache."""


@dataclass(frozen=True)
class Exact:
    """Settings of the engine "exact".

    Args:
        dtype: ``"float64"`` or ``"float32"``.
        device: a torch device, ``"cpu"`` or ``"cuda"``.
    """

    dtype: str = "float64"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.dtype not in ("float64", "float32"):
            raise ValueError(f'dtype must be "float64" or "float32"; got {self.dtype!r}')
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f'device must be one that torch can use here, such as "cpu"; got {self.device!r}'
            ) from error

    @torch.no_grad()
    def run(self, problem: Problem, progress: bool = True) -> Outcome:
        """Propagate a checked sleep."""
        start = time.perf_counter()
        sleep = _NoisySleep if problem.per_neuron else _SharedSleep
        outcome = sleep(problem, self).run(progress)
        outcome.seconds["run"] = time.perf_counter() - start
        return outcome

    def tensor(self, array: ArrayLike) -> Tensor:
        """A copy of an array on this engine's device, in its precision."""
        array = np.array(array, dtype=self.dtype)
        return torch.from_numpy(array).to(self.device)


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
        weights = np.asarray(weights, float)
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
    engine: Exact | None = None,
    progress: bool = True,
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
        progress: show a bar when it takes longer than two seconds.

    Returns:
        A, B (..., K, K) and c (..., K).

    Raises:
        ValueError: the stimulus differs between neurons, so that no such map exists.
        DivergenceError: the sleep diverges.
    """
    engine = engine or Exact()
    if isinstance(stimuli, Stimulus):
        if inputs is None:
            raise TypeError("inputs, the number K of weights per neuron, is needed with a Stimulus")
        shape: tuple[int, ...] = (1, inputs)
    else:
        stimuli = finite_array("stimuli", stimuli, "(..., P, K)")
        shape = (*stimuli.shape[:-2], 1, stimuli.shape[-1])
    problem = prepare(np.zeros(shape), stimuli, circuit, rule, presentations=presentations, seed=seed)
    if problem.per_neuron:
        raise ValueError("stimuli must be the same for all neurons; with noise, simulate the sleep of the weights")
    c = Coefficients.of(problem, engine.tensor)
    identity = torch.eye(problem.weights.shape[-1], dtype=c.alpha.dtype, device=c.alpha.device).repeat(
        len(c.alpha), 1, 1
    )
    deviation = Vectors.at_rest(identity)
    mean = Vectors.at_rest(torch.nn.functional.pad(identity, (0, 1)))
    mean.state[:, 0, -1] = -c.bias[:, 0]  # the last virtual neuron has no weights: it carries c
    for block in _blocks(problem, engine, c, progress):
        left = deviation.coefficients(block, block.maps.deviation), mean.coefficients(block, block.maps.mean)
        deviation, mean = deviation.after(block, left[0]), mean.after(block, left[1])
    parts = identity + deviation.v, identity + mean.v[..., :-1], mean.v[..., -1]
    return SleepMap(*(part.cpu().numpy().reshape(*problem.batch, *part.shape[1:]) for part in parts))


def _blocks(problem: Problem, engine: Exact, c: Coefficients, progress: bool) -> Iterator[Block]:
    """The sleep in blocks of presentations with their maps, behind a progress bar."""
    rates = engine.tensor(problem.rates)
    together = BLOCK * max(1, MAPS // (BLOCK * len(c.alpha)))
    with tqdm(total=problem.presentations, delay=2, disable=not progress, unit="presentation") as bar:
        for start, inputs in problem.blocks(together):
            x = engine.tensor(inputs)
            maps = Maps.of(c, _norm(x).square(), rates[start : start + x.shape[1]])
            whole = x.shape[1] // BLOCK * BLOCK
            reaches = list(reach(maps.pull[:, :whole].unflatten(1, (-1, BLOCK))).unbind(1)) if whole else []
            if whole < x.shape[1]:
                reaches.append(reach(maps.pull[:, whole:]))
            for t, product in zip(range(0, x.shape[1], BLOCK), reaches, strict=True):
                yield Block(x[:, t : t + BLOCK], maps.part(slice(t, t + BLOCK)), product)
                bar.update(min(BLOCK, x.shape[1] - t))


def _norm(vectors: Tensor, order: float = 2, dim: int = -1) -> Tensor:
    return torch.linalg.vector_norm(vectors, order, dim=dim)


class _SharedSleep:
    """All neurons of a group see the same input: a group is its mean and its deviations.

    The variances depend on the deviations (K, N) only through their Gram matrix. With more neurons than inputs,
    K virtual neurons that have the same Gram matrix take their place, and are rotated back after sleep.
    """

    def __init__(self, problem: Problem, engine: Exact) -> None:
        self.problem, self.engine = problem, engine
        self.c = Coefficients.of(problem, engine.tensor)
        self.weights = engine.tensor(problem.weights).mT.contiguous()
        inputs, self.neurons = self.weights.shape[1:]
        first = self.weights[..., :1]
        self.mean_init = first + (self.weights - first).mean(-1, keepdim=True)  # equal weights deviate by exactly 0
        self.bound = 1e8 * (1 + self.weights.abs().amax())
        self.deviation_init, self.rotation = self.weights - self.mean_init, None
        if self.neurons > inputs:
            self.rotation, virtual = torch.linalg.qr(self.deviation_init.mT)
            self.deviation_init = virtual.mT.contiguous()

    def run(self, progress: bool) -> Outcome:
        kept = Vectors.at_rest(self.deviation_init), Vectors.at_rest(self.mean_init, -self.c.bias), 0
        records = [self._measure(_norm(self.deviation_init[:, :, None]), self.mean_init[:, :, None])]
        try:
            for block in _blocks(self.problem, self.engine, self.c, progress):
                deviation, mean, done = kept
                left = deviation.coefficients(block, block.maps.deviation), mean.coefficients(block, block.maps.mean)
                self._refuse_divergence(block, left, done)
                every, length = self.problem.record_every, block.x.shape[1]
                if recorded := list(range(every - 1 - done % every, length, every)):
                    spread = [_norm(d) for d in deviation.trajectory(block, left[0], recorded)]
                    means = [m.clone() for m in mean.trajectory(block, left[1], recorded)]
                    records.append(self._measure(torch.cat(spread, -1), torch.cat(means, 2)))
                kept = deviation.after(block, left[0]), mean.after(block, left[1]), done + length
        except KeyboardInterrupt:
            if not kept[-1]:
                raise
        return self._outcome(*kept, torch.cat(records, -1))

    def _measure(self, spread: Tensor, mean: Tensor) -> Tensor:
        """-log SNR, norm of the mean and its drift, (3, B, G).

        Args:
            spread: norms of the deviations over the neurons, (B, K, G).
            mean: (B, K, G, 1).
        """
        mean = mean[..., 0]
        inverse_snr = (spread / mean).square().mean(1) / self.neurons
        drift = mean - self.mean_init
        return torch.stack([inverse_snr.log(), _norm(mean, dim=1), _norm(drift, dim=1)])

    def _refuse_divergence(self, block: Block, left: tuple[Tensor, Tensor], done: int) -> None:
        """Stop where a presentation moves the weights by 1e8 times their size."""
        largest = torch.stack([_norm(part[:, :, PHI], torch.inf) for part in left])
        fine = (largest * _norm(block.x) < self.bound).all(0)
        if not fine.all():
            presentation, entry = (~fine).T.nonzero()[0].tolist()
            raise divergence(self.problem, done + presentation, entry)

    def _outcome(self, deviation: Vectors, mean: Vectors, done: int, records: Tensor) -> Outcome:
        added, response = deviation.v, deviation.state[:, :1]
        if self.rotation is not None:
            added, response = added @ self.rotation.mT, response @ self.rotation.mT
        values = records[..., : 1 + done // self.problem.record_every].cpu().numpy()
        return Outcome(
            weights=(self.weights + added + mean.v).mT.cpu().numpy(),
            r=(response[:, 0] + mean.state[:, 0] + self.c.bias).cpu().numpy(),
            r_inh=mean.state[:, 1, 0].cpu().numpy(),
            records=dict(zip(("neg_log_snr", "mean_norm", "mean_drift"), values, strict=True)),
            presentations=done,
        )


class _NoisySleep:
    """Every neuron sees its own input: (phi, psi) are stepped for every neuron, its K weights are not."""

    def __init__(self, problem: Problem, engine: Exact) -> None:
        self.problem, self.engine = problem, engine
        self.c = Coefficients.of(problem, engine.tensor)
        self.w_init = engine.tensor(problem.weights)
        self.mean_init = problem.weights.mean(-2)

    def run(self, progress: bool) -> Outcome:
        problem, c = self.problem, self.c
        v, m = torch.zeros_like(self.w_init), torch.zeros_like(self.w_init)
        r, r_inh = (-c.bias).expand(v.shape[:2]).clone(), torch.zeros_like(c.bias)
        kept = v, r, r_inh, 0
        records = [measure(problem.weights, self.mean_init)]
        rates = self.engine.tensor(problem.rates)
        try:
            for x in self._inputs(progress):
                done = kept[-1]
                response = Response(c, c.alpha, r.clone(), r_inh.clone())
                u, q, received = ((vectors * x).sum(-1) for vectors in (v, m, self.w_init))
                drive = lambda pull: received + pull[0] * u + pull[1] * q  # noqa: B023, E731
                phi, psi, pull = hold(c, response, drive, x.square().sum(-1), rates[done])
                pull = pull[..., None]
                v, m = (pull[i, 0] * v + pull[i, 1] * m + push[..., None] * x for i, push in enumerate((phi, psi)))
                r, r_inh = response.r, response.r_inh
                self._refuse_divergence(v, done)
                kept = v, r, r_inh, done + 1
                if (done + 1) % problem.record_every == 0:
                    records.append(measure((self.w_init + v).cpu().numpy(), self.mean_init))
        except KeyboardInterrupt:
            if not kept[-1]:
                raise
        v, r, r_inh, done = kept
        stacked = {name: np.stack([record[name] for record in records], -1) for name in records[0]}
        return Outcome(
            (self.w_init + v).cpu().numpy(), (r + c.bias).cpu().numpy(), r_inh[:, 0].cpu().numpy(), stacked, done
        )

    def _inputs(self, progress: bool) -> Iterator[Tensor]:
        """One presentation after the other, (B, N, K), behind a progress bar."""
        together = max(1, 2**20 // self.w_init.numel())
        with tqdm(total=self.problem.presentations, delay=2, disable=not progress, unit="presentation") as bar:
            for _, inputs in self.problem.blocks(together):
                for x in self.engine.tensor(inputs).unbind(1):
                    yield x
                    bar.update()

    def _refuse_divergence(self, v: Tensor, presentation: int) -> None:
        largest = v.abs().amax((1, 2))
        fine = largest < 1e8 * (1 + self.w_init.abs().amax())
        if not fine.all():
            raise divergence(self.problem, presentation, int((~fine).nonzero()[0]))
