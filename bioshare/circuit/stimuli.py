"""Streams of presentations for a sleeping group: seeded generators, the same bytes for the same seed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, Parameters, check_memory, finite_array, flag, real, real_array, shown, takes, whole

ESTIMATED = 4096
"""Number of presentations from which the covariance of a function's inputs is estimated."""


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
        self._set("noise", real("noise", self.noise, "a standard deviation, std, >= 0", at_least=0, array=False))

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
        inputs = _checked(inputs)
        if not isinstance(batch, tuple):
            raise TypeError(f"batch must be a tuple of whole numbers; got {shown(batch)}")
        batch = tuple(whole("batch", length, "a tuple of whole numbers", at_least=1) for length in batch)
        check_memory("presentations", math.prod((*batch, presentations, inputs)), "the inputs")
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
        return self.std**2 * np.eye(_checked(inputs)) + self.mean**2

    def power(self, inputs: int) -> float:
        return _checked(inputs) * (self.std**2 + self.mean**2)


@dataclass(frozen=True, eq=False)
class Grid(Stimulus):
    """A single active input at a time. See `grid`."""

    shuffle: bool = False
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("shuffle", self.shuffle)
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
        return self.amplitude**2 / _checked(inputs) * np.eye(inputs)

    def power(self, inputs: int) -> float:
        _checked(inputs)
        return self.amplitude**2


@dataclass(frozen=True, eq=False)
class Drawn(Stimulus):
    """Inputs from a function of one's own. See `drawn`."""

    function: Callable[[int, int, np.random.Generator], ArrayLike]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_function("function", self.function)

    def _patterns(self, rng: np.random.Generator, batch: tuple[int, ...], presentations: int, inputs: int) -> Array:
        patterns = np.empty((*batch, presentations, inputs))
        for entry in np.ndindex(batch):
            returned = self.function(presentations, inputs, rng)
            x = real_array("stimuli", returned, "a function that returns an array of real numbers")
            if x.shape != (presentations, inputs):
                raise ValueError(
                    f"stimuli must return an array of shape (presentations, inputs) = {(presentations, inputs)}; "
                    f"got shape {x.shape}"
                )
            patterns[entry] = finite_array("stimuli", x, "(presentations, inputs)")
        return patterns

    def covariance(self, inputs: int) -> Array:
        x = self.draw(ESTIMATED, inputs, seed=0)
        return x.T @ x / len(x)


@dataclass(frozen=True, eq=False)
class Patterns(Stimulus):
    """The rows of an array, one after another. See `patterns`."""

    array: ArrayLike

    def __post_init__(self) -> None:
        super().__post_init__()
        array = _rows("array", self.array).copy()
        array.setflags(write=False)
        self._set("array", array)

    @property
    def varies(self) -> bool:
        return False

    def _with_inputs(self, inputs: int) -> Array:
        array = np.asarray(self.array)
        if array.shape[1] != _checked(inputs):
            raise ValueError(
                f"stimuli must have {inputs} inputs, as the neurons; got patterns with {array.shape[1]}. A function of "
                "(presentations, inputs, rng) serves neurons with any number of inputs"
            )
        return array

    def _patterns(self, rng: np.random.Generator, batch: tuple[int, ...], presentations: int, inputs: int) -> Array:
        rows = self._with_inputs(inputs)
        return np.broadcast_to(rows[np.arange(presentations) % len(rows)], (*batch, presentations, inputs)).copy()

    def covariance(self, inputs: int) -> Array:
        rows = self._with_inputs(inputs)
        return rows.T @ rows / len(rows)


def _checked(inputs: int) -> int:
    """The number of weights per neuron, K, after a check."""
    return whole("inputs", inputs, "a number of weights per neuron", at_least=1)


def _check_function(name: str, function: Any) -> None:
    """Raise TypeError if a function cannot be called with three arguments."""
    if not takes(function, 1, 1, None):
        raise TypeError(
            f"{name} must be an array, a Stimulus, such as stimuli.gaussian(), or a function of "
            f"(presentations, inputs, rng); got {shown(function)}"
        )


def _rows(name: str, array: ArrayLike) -> Array:
    """Patterns (M, K) after a check."""
    rows = finite_array(name, array, "(M, K), patterns by inputs")
    if rows.ndim != 2:
        raise ValueError(f"{name} must have the axes (M, K), patterns by inputs; got shape {rows.shape}")
    return rows


def as_stimulus(value: Stimulus | Callable[..., ArrayLike] | ArrayLike, name: str = "value") -> Stimulus:
    """The stimulus of a Stimulus, of a function (`drawn`) or of an array (`patterns`), called ``name`` in errors."""
    if isinstance(value, Stimulus):
        return value
    if callable(value):
        _check_function(name, value)
        return drawn(value)
    return patterns(_rows(name, value))


def drawn(function: Callable[[int, int, np.random.Generator], ArrayLike]) -> Stimulus:
    """Inputs from a function of (presentations, inputs, rng) to an array (presentations, inputs).

    The function is called once for every leading entry of the weights, and draws from the generator ``rng`` alone: the
    same seed gives the same inputs. The covariance of the inputs is estimated from 4,096 presentations.

    Raises:
        TypeError, ValueError: the function does not take three arguments, or returns no finite array of that shape.

    Example:
        >>> drawn(lambda presentations, inputs, rng: rng.random((presentations, inputs))).draw(5, 3, seed=0).shape
        (5, 3)
    """
    return Drawn(function=function)


def patterns(array: ArrayLike) -> Stimulus:
    """The M inputs of an array (M, K) one after another, from the first again after the last.

    Example:
        >>> patterns([[1.0, 0.0], [0.0, 2.0]]).draw(presentations=3, inputs=2, seed=0)
        array([[1., 0.],
               [0., 2.],
               [1., 0.]])
    """
    return Patterns(array=array)


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


def noise(stimulus: Stimulus | Callable[..., ArrayLike] | ArrayLike, std: float) -> Stimulus:
    """The same stimulus with independent noise of standard deviation ``std`` for every neuron (appendix A.3).

    The stimulus may be a function or an array, as in `as_stimulus`.

    Example:
        >>> noise(grid(), std=0.1)
        Grid(noise=0.1, shuffle=False, amplitude=1.0)
    """
    return replace(as_stimulus(stimulus, "stimulus"), noise=std)


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
