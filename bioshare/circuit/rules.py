"""Plasticity: the Hebbian rule of Eq. 4 and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bioshare.checks import Parameters, Scalar, check_memory, real, real_array, takes, whole

Schedule = Callable[[NDArray[np.int64]], ArrayLike]


@dataclass(frozen=True)
class InverseDecay(Parameters):
    """eta_k = scale / (offset + k): the schedule of Figs. 4A and 5A (appendix A.5).

    Example:
        >>> InverseDecay(0.5, 1000)(np.array([0, 1000]))
        array([0.0005 , 0.00025])
    """

    scale: float = 0.5
    offset: float = 1000.0

    def __post_init__(self) -> None:
        self._set("scale", real("scale", self.scale, "a rate >= 0", at_least=0, array=False))
        self._set("offset", real("offset", self.offset, "a positive number of updates", above=0, array=False))

    def __call__(self, k: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.scale / (self.offset + np.asarray(k, np.float64))


@dataclass(frozen=True)
class InverseSqrtDecay(Parameters):
    """eta_k = scale / sqrt(1 + k / period) from update ``start`` on, 0 before: Figs. 4B and 5B (appendix A.5).

    k counts weight updates, or milliseconds at dt = 1 ms, not presentations.

    Example:
        >>> InverseSqrtDecay(3e-4, 2, 50)(np.array([49, 96]))
        array([0.00000000e+00, 4.28571429e-05])
    """

    scale: float = 3e-4
    period: float = 2.0
    start: int = 50

    def __post_init__(self) -> None:
        self._set("scale", real("scale", self.scale, "a rate >= 0", at_least=0, array=False))
        self._set("period", real("period", self.period, "a positive number of updates", above=0, array=False))
        self._set("start", whole("start", self.start, "a number of updates", at_least=0))

    def __call__(self, k: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(k >= self.start, self.scale / np.sqrt(1 + k / self.period), 0.0)


@dataclass(frozen=True)
class Gated(Parameters):
    """Learning waits for the rate circuit: a constant rate after the circuit has settled.

    A sleep starts at r = 0, or r - b = -b, and every new input starts from the response to the last input. Without
    the wait, both end in the weights.

    Args:
        rate: learning rate of an update after the wait.
        wait: updates without learning at the start of every presentation; the first presentation has no learning.
        held: number of updates of a presentation, `RateCircuit.updates_per_presentation`.

    Example:
        >>> Gated(0.1, wait=1, held=3)(np.arange(7))
        array([0. , 0. , 0. , 0. , 0.1, 0.1, 0. ])
    """

    rate: float
    wait: int = 50
    held: int = 150

    def __post_init__(self) -> None:
        self._set("rate", real("rate", self.rate, "a rate >= 0", at_least=0, array=False))
        self._set("wait", whole("wait", self.wait, "a number of updates", at_least=0))
        self._set("held", whole("held", self.held, "a number of updates", at_least=self.wait + 1))

    def __call__(self, k: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where((k >= self.held) & (k % self.held >= self.wait), self.rate, 0.0)


@dataclass(frozen=True, eq=False)
class Tabulated(Parameters):
    """eta_k = rates[k]: the learning rates of an array, such as those of a stored sleep.

    Example:
        >>> Tabulated([0.1, 0.2])(np.array([1, 0]))
        array([0.2, 0.1])
    """

    table: ArrayLike

    def __post_init__(self) -> None:
        table = np.atleast_1d(real("table", self.table, "an array of rates >= 0", at_least=0))
        if table.ndim > 1:
            raise ValueError(f"table must have one axis, the update; got shape {table.shape}")
        table.setflags(write=False)
        self._set("table", table)

    def __call__(self, k: NDArray[np.int64]) -> NDArray[np.float64]:
        table = np.asarray(self.table)
        if np.size(k) and np.max(k) >= len(table):
            raise ValueError(f"learning_rate has {len(table)} rates, too few for update {np.max(k)}")
        return table[k]


@dataclass(frozen=True, eq=False)
class Hebbian(Parameters):
    """Anti-Hebbian plasticity with a pull to the weights before sleep and momentum (Eq. 4).

    dw_i = eta_k ( -(r_i - b) x - gamma (w_i - w_i^init) );   m <- momentum m + dw;   w <- w + m

    w^init is the weight when this sleep began; m starts at 0. k counts weight updates from 0: a
    presentation of `SteadyState`, a time step of `RateCircuit`.

    Args:
        gamma: strength of the pull to w^init, at least 0.
        momentum: in [0, 1).
        learning_rate: a number, or any callable from an array of update indices k to the rates eta_k >= 0 in an
            array of the same shape.

    ``gamma`` and ``momentum`` may be arrays over the leading axes of the weights.
    """

    gamma: Scalar = 1e-2
    momentum: Scalar = 0.95
    _: KW_ONLY
    learning_rate: Schedule | float

    def __post_init__(self) -> None:
        self._set("gamma", real("gamma", self.gamma, "a finite number >= 0", at_least=0))
        self._set("momentum", real("momentum", self.momentum, "in [0, 1)", at_least=0, below=1))
        if not takes(self.learning_rate, 0):
            expected = "a rate >= 0 or a callable, such as rules.Tabulated(rates)"
            rate = real("learning_rate", self.learning_rate, expected, at_least=0, array=False)  # type: ignore[arg-type]
            self._set("learning_rate", rate)

    def rates(self, updates: int) -> NDArray[np.float64]:
        """The learning rates of the first ``updates`` weight updates, shape (updates,).

        Raises:
            ValueError: the schedule returned another shape, a negative rate, NaN or infinity.
        """
        updates = whole("updates", updates, "a number of weight updates", at_least=1)
        check_memory("updates", updates, "the learning rates")
        if not callable(self.learning_rate):
            return np.full(updates, self.learning_rate)
        try:
            returned = self.learning_rate(np.arange(updates))
        except Exception as error:
            error.add_note(
                "learning_rate is called with an array of update indices k, and returns as many rates, as in "
                "lambda k: np.where(k > 2, 1e-3, 0.0)"
            )
            raise
        rates = real_array("learning_rate", returned, "a callable that returns an array of rates")
        if rates.shape != (updates,):
            raise ValueError(
                f"learning_rate must return one rate per update: got shape {rates.shape} for {updates} update "
                "indices. A constant is given as a number, not as a callable"
            )
        wrong = ~np.isfinite(rates) | (rates < 0)
        if wrong.any():
            k = int(np.argmax(wrong))
            raise ValueError(f"learning_rate must be finite and >= 0; it is {rates[k]} at update {k}")
        return rates
