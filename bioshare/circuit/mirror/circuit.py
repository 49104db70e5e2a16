"""The circuit of a weight mirror. Parameters only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bioshare.checks import Parameters, Scalar, real, steps_of

TIMES = {"tau": True, "tau_crosstalk": True, "dt": False, "duration": False}
"""Times of the circuit, and True for times that may be arrays."""


@dataclass(frozen=True, eq=False)
class MirrorCircuit(Parameters):
    """A layer in mirror mode, integrated in time (Akrout et al. 2019, Sec. 5 and 8.2).

    K noisy cells fire at beta + x during a presentation, N forward neurons y respond, crosstalk carries both rates to
    the feedback cells, and the feedback synapses B (N, K) from the cells above to the cells below learn by Hebb's rule:

    tau dy/dt               = -y + W x + beta       (Akrout's Eq. 13, linear)
    tau_crosstalk dbelow/dt = -below + x + beta     (Akrout's Eq. 6)
    tau_crosstalk dabove/dt = -above + y
    dB/dt = rate ((above - beta)(below - beta)^T - decay B)        (Akrout's Eq. 15)

    by forward Euler along the path of the signal: y and below, then above from the new y, then B from the new rates.
    All rates start at beta. B does not depend on beta, but rates are positive only above
    `bioshare.theory.mirror_baseline`.

    Args:
        tau: membrane time constant of the forward neurons, milliseconds.
        tau_crosstalk: time constant of the feedback cells, milliseconds; with ``dt`` these cells follow at once.
        baseline: beta, the rate without input.
        rate: learning rate, per millisecond.
        decay: decay of B inside the rate, without unit. Independent inputs of variance 1 lead to gain / decay times W,
            with the sum of `bioshare.theory.mirror_gain` over equal ages as gain.
        dt: Euler step, milliseconds, at most ``tau`` and ``tau_crosstalk``.
        duration: time of a presentation, milliseconds; a multiple of ``dt``.
        gate: B changes in the last ``gate`` milliseconds of a presentation only; None for all of the time.

    ``tau``, ``tau_crosstalk``, ``baseline``, ``rate`` and ``decay`` may be arrays over the leading axes of the weights.
    A time may have a unit, such as Brian2's ``30 * ms``, and becomes a number of milliseconds.

    Raises:
        TypeError: a parameter is not a number, or has a unit other than a time's.
        ValueError: a parameter makes no sense, or ``dt`` is too long or does not divide the times.

    Example:
        >>> MirrorCircuit(gate=50.0).updates_per_presentation
        50
    """

    tau: Scalar = 30.0
    tau_crosstalk: Scalar = 10.0
    baseline: Scalar = 1.0
    rate: Scalar = 1e-5
    decay: Scalar = 1.0
    dt: float = 1.0
    duration: float = 150.0
    gate: float | None = None

    def __post_init__(self) -> None:
        for name, array in TIMES.items():
            time = real(name, getattr(self, name), "a time in milliseconds", above=0, array=array, milliseconds=True)
            self._set(name, time)
        self._set("baseline", real("baseline", self.baseline, "a finite rate"))
        self._set("rate", real("rate", self.rate, "a positive learning rate per millisecond", above=0))
        self._set("decay", real("decay", self.decay, "a finite decay >= 0", at_least=0))
        steps_of("duration", self.duration, self.dt)
        if self.gate is not None:
            expected = "None or a positive time in milliseconds"
            self._set("gate", real("gate", self.gate, expected, above=0, array=False, milliseconds=True))
            steps_of("gate", self.gate, self.dt)
            if self.gate > self.duration:
                raise ValueError(f"gate must be at most duration={self.duration:g} ms; got {self.gate:g}")
        if self.dt > (shortest := np.minimum(self.tau, self.tau_crosstalk).min()):
            raise ValueError(f"dt must be at most tau and tau_crosstalk, {shortest:g} ms; got {self.dt:g}")
        if np.any(self.decay_per_step > 1):
            largest = np.max(self.decay_per_step)
            raise ValueError(f"rate * decay * dt must be at most 1, the whole of B; got {largest:g}: lower the rate")

    @property
    def steps(self) -> int:
        """Number of time steps in a presentation."""
        return steps_of("duration", self.duration, self.dt)

    @property
    def updates_per_presentation(self) -> int:
        """Number of time steps in a presentation in which B changes."""
        return self.steps if self.gate is None else steps_of("gate", self.gate, self.dt)

    @property
    def decay_per_step(self) -> Scalar:
        """Fraction of B that a time step forgets."""
        return self.rate * self.decay * self.dt

    @property
    def forgetting(self) -> Scalar:
        """Fraction L of B that a presentation forgets."""
        return 1 - (1 - self.decay_per_step) ** self.updates_per_presentation
