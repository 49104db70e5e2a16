"""The circuits from a group's drives to the responses. Parameters only: no simulator lives here.

Both answer an input x, the same for the N neurons of a group, whose drives are z_i = w_i . x:

* `SteadyState`: the response at the fixed point, with a weight update at every presentation.
* `RateCircuit`: the response integrated in time with an inhibitory neuron, with a weight update at every time step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bioshare.checks import Parameters, Scalar, flag, real, steps_of
from bioshare.circuit import theory


@dataclass(frozen=True, eq=False)
class SteadyState(Parameters):
    """The lateral circuit at the fixed point: r_i - b = z_i - alpha / (1 + alpha) mean_j z_j.

    ``alpha = inf`` is the ideal circuit of Eq. 4 and 7; a finite alpha is Eq. 9 and 21. The weights are updated
    once per presentation.

    Args:
        alpha: strength of the inhibition, at least 0; a number, or an array over the leading axes of the weights.

    Example:
        >>> SteadyState()
        SteadyState(alpha=inf)
    """

    alpha: Scalar = math.inf

    def __post_init__(self) -> None:
        self._set("alpha", real("alpha", self.alpha, "a strength of inhibition >= 0", at_least=0, infinite=True))

    @property
    def resting_inhibition(self) -> Scalar:
        """The response of the inhibitory neuron without input, and of all neurons at the start of a sleep: 0."""
        return 0.0

    @property
    def updates_per_presentation(self) -> int:
        """Number of weight updates during a presentation: 1."""
        return 1

    @property
    def dt_over_tau(self) -> Scalar:
        """Fraction of the way to the fixed point at every update: all of the way."""
        return 1.0


@dataclass(frozen=True, eq=False)
class RateCircuit(Parameters):
    """N excitatory rate neurons and an inhibitory neuron, integrated in time (Eq. 8a, 8b).

    tau dr_i/dt   = -r_i   + z_i - alpha r_inh + b
    tau dr_inh/dt = -r_inh + mean_j r_j - b

    by forward Euler; the weights are updated at every time step with the new r_i. A sleep starts at r = 0,
    r_inh = 0, and learns the way of r to the bias, too, unless the learning rate waits.

    In Eq. 8 as printed r_inh settles at mean_j z_j / (1 + alpha) whatever the bias, below 0 for a negative mean drive.
    With ``inhibitory_bias`` the inhibitory neuron has the bias, too,

    tau dr_i/dt   = -r_i   + z_i - alpha (r_inh - b) + b
    tau dr_inh/dt = -r_inh + mean_j r_j,

    and starts at the fixed point without input, r = r_inh = b. Then the weights are the weights at b = 0, whatever the
    bias; the rates are larger by b, and all non-negative at a large enough bias (`bioshare.theory.min_bias`). The
    printed form is the default, as in the paper's figures.

    Args:
        alpha: strength of the inhibition, at least 0.
        tau: membrane time constant, milliseconds.
        bias: b, the rate without input.
        dt: Euler step, milliseconds; stable below 2 tau / (1 + alpha). The weights learn at every step, and rules count
            steps: at half the step, the same sleep has half the learning rate, twice the numbers of updates of its
            schedule (such as ``period`` and ``start``), and the same momentum.
        duration: time of a presentation, milliseconds; a multiple of ``dt``.
        inhibitory_bias: True for a bias of the inhibitory neuron, False for Eq. 8 as printed.

    ``alpha``, ``tau`` and ``bias`` may be arrays over the leading axes of the weights. A time may have a unit, such as
    Brian2's ``30 * ms``, and becomes a number of milliseconds.

    Raises:
        TypeError: a parameter is not a number, or has a unit other than a time's.
        ValueError: a parameter makes no sense, ``dt`` does not divide ``duration``, or ``dt`` is unstable.

    Example:
        >>> RateCircuit(alpha=10.0).updates_per_presentation
        150
    """

    alpha: Scalar = 10.0
    tau: Scalar = 30.0
    bias: Scalar = 1.0
    dt: float = 1.0
    duration: float = 150.0
    inhibitory_bias: bool = False

    def __post_init__(self) -> None:
        self._set("alpha", real("alpha", self.alpha, "a finite strength of inhibition >= 0", at_least=0))
        self._set("tau", real("tau", self.tau, "a positive time constant in milliseconds", above=0, milliseconds=True))
        self._set("bias", real("bias", self.bias, "a finite rate"))
        for name, expected in {"dt": "a positive time step", "duration": "a positive time"}.items():
            expected += " in milliseconds"
            self._set(name, real(name, getattr(self, name), expected, above=0, array=False, milliseconds=True))
        flag("inhibitory_bias", self.inhibitory_bias)
        steps_of("duration", self.duration, self.dt)
        largest = theory.max_dt(self.alpha, self.tau)
        if np.any(self.dt >= largest):
            alpha = np.min(theory.max_alpha(self.dt, self.tau))
            raise ValueError(
                f"dt={self.dt:g} ms is unstable: forward Euler needs dt < 2 tau / (1 + alpha) = "
                f"{np.min(largest):g} ms here. Take a dt below {np.min(largest):g} ms that divides the duration, and "
                f"a learning rate smaller by the same factor{f', or alpha below {alpha:g}' if alpha > 0 else ''}"
            )

    @property
    def resting_inhibition(self) -> Scalar:
        """The rate of the inhibitory neuron without input: b or, in Eq. 8 as printed, 0.

        All neurons have this rate at the start of a sleep.
        """
        return self.bias if self.inhibitory_bias else 0.0

    @property
    def updates_per_presentation(self) -> int:
        """Number of weight updates during a presentation, one per time step."""
        return round(self.duration / self.dt)

    @property
    def dt_over_tau(self) -> Scalar:
        """Fraction of the way to the fixed point at every update, h."""
        return self.dt / self.tau


Circuit = SteadyState | RateCircuit
