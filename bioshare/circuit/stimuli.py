"""Streams of presentations for a sleeping group: seeded generators, the same bytes for the same seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from bioshare.checks import Array, Parameters, real, whole


@dataclass(frozen=True, eq=False)
class Stimulus(Parameters, ABC):
    """A stream of inputs x, one per presentation, shared by the neurons of a group.

    Args:
        noise: standard deviation sigma of the zero-mean Gaussian noise of every neuron on top of the shared input:
            x_i = x + xi_i (appendix A.3). With 0 all neurons see the same x.
    """

    _: KW_ONLY
    noise: float = 0.0

    def __post_init__(self) -> None:
        self._set("noise", real("noise", self.noise, "a standard deviation >= 0", at_least=0, array=False))

    @abstractmethod
    def _patterns(self, rng: np.random.Generator, batch: tuple[int, ...], presentations: int, inputs: int) -> Array:
        """Shared inputs of shape (*batch, presentations, inputs)."""

    @property
    def varies(self) -> bool:
        """True if the inputs depend on the seed."""
        return True

    @abstractmethod
    def covariance(self, inputs: int) -> Array:
        """C = E[x x^T] of the shared input, without noise, shape (inputs, inputs)."""

    def power(self, inputs: int) -> float:
        """The mean of |x|^2 of the shared input, without noise: the trace of C."""
        return float(np.trace(self.covariance(inputs)))

    def draw(self, presentations: int, inputs: int, *, seed: int, batch: tuple[int, ...] = ()) -> Array:
        """Draw the shared inputs of a sleep, independently for every batch entry, without the noise.

        Args:
            presentations: P, number of inputs.
            inputs: K, weights per neuron.
            seed: any non-negative integer.
            batch: leading axes.

        Returns:
            Inputs of shape (*batch, P, K).
        """
        presentations = whole("presentations", presentations, "a number of presentations", at_least=1)
        inputs = whole("inputs", inputs, "a number of weights per neuron", at_least=1)
        rng, _ = generators(seed)
        return self._patterns(rng, batch, presentations, inputs)


@dataclass(frozen=True, eq=False)
class Gaussian(Stimulus):
    """Independent Gaussian inputs: x_j ~ N(mean, std^2). See `gaussian`."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("mean", real("mean", self.mean, "a finite number", array=False))
        self._set("std", real("std", self.std, "a standard deviation >= 0", at_least=0, array=False))

    def _patterns(self, rng: np.random.Generator, batch: tuple[int, ...], presentations: int, inputs: int) -> Array:
        return rng.normal(self.mean, self.std, (*batch, presentations, inputs))

    def covariance(self, inputs: int) -> Array:
        return self.std**2 * np.eye(inputs) + self.mean**2

    def power(self, inputs: int) -> float:
        return inputs * (self.std**2 + self.mean**2)


@dataclass(frozen=True, eq=False)
class Grid(Stimulus):
    """A single active input at a time. See `grid`."""

    shuffle: bool = False
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.shuffle, bool):
            raise TypeError(f"shuffle must be True or False; got {self.shuffle!r}")
        self._set("amplitude", real("amplitude", self.amplitude, "a positive number", above=0, array=False))

    @property
    def varies(self) -> bool:
        return self.shuffle

    def _patterns(self, rng: np.random.Generator, batch: tuple[int, ...], presentations: int, inputs: int) -> Array:
        cycles = -(-presentations // inputs)
        active = np.broadcast_to(np.arange(inputs), (*batch, cycles, inputs))
        if self.shuffle:
            active = rng.permuted(active, axis=-1)
        active = active.reshape(*batch, cycles * inputs)[..., :presentations]
        return self.amplitude * np.eye(inputs)[active]

    def covariance(self, inputs: int) -> Array:
        return self.amplitude**2 / inputs * np.eye(inputs)

    def power(self, inputs: int) -> float:
        return self.amplitude**2


def gaussian(mean: float = 0.0, std: float = 1.0) -> Stimulus:
    """Inputs with independent Gaussian components, x_j ~ N(mean, std^2), new at every presentation.

    Example:
        >>> gaussian().draw(presentations=2000, inputs=9, seed=0).shape
        (2000, 9)
    """
    return Gaussian(mean=mean, std=std)


def grid(shuffle: bool = False, amplitude: float = 1.0) -> Stimulus:
    """One-hot inputs: a single input grid is active at a time (Sec. 4.1), K presentations visit every weight once.

    Args:
        shuffle: visit the K inputs in a new random order in every cycle, instead of in order.
        amplitude: the value of the active input.

    Example:
        >>> grid().draw(presentations=3, inputs=2, seed=0)
        array([[1., 0.],
               [0., 1.],
               [1., 0.]])
    """
    return Grid(shuffle=shuffle, amplitude=amplitude)


def noise(stimulus: Stimulus, std: float) -> Stimulus:
    """The same stimulus with independent noise of standard deviation ``std`` for every neuron (appendix A.3).

    Example:
        >>> noise(grid(), std=0.1)
        Grid(noise=0.1, shuffle=False, amplitude=1.0)
    """
    return replace(stimulus, noise=std)


def generators(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Two independent generators from a seed: for the shared inputs and for the noise."""
    seed = whole("seed", seed, "a non-negative integer", at_least=0)
    shared, private = np.random.SeedSequence(seed).spawn(2)
    return np.random.default_rng(shared), np.random.default_rng(private)


def derived(*entropy: int) -> int:
    """A seed made of non-negative integers; two tuples get the same seed with a chance of 2^-64.

    Tuples with the same words of 32 bits share a seed, such as (2^32 + 1,) and (1, 1); so do tuples of at most four
    words with different numbers of zeros at the end, such as (5, 18) and (5, 18, 0).
    """
    for number in entropy:
        whole("seed", number, "a non-negative integer", at_least=0)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
