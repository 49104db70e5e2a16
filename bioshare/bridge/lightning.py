"""`PhaseCallback`: a phase after every n-th step of a Lightning trainer; needs the extra ``bioshare[lightning]``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer  # pyright: ignore[reportMissingImports]

from bioshare.bridge.phase import Phase
from bioshare.checks import whole


class PhaseCallback(Callback):
    """A callback that applies a phase to the trained module after every n-th step of the optimiser.

    ``Trainer(callbacks=[PhaseCallback(bs.Sleep.rate_circuit(pool=8), every=10)])``. The seed of the phase is the
    trainer's number of steps, so that every sleep differs, all processes agree, and a resumed training goes on. Batches
    whose gradients are only accumulated do not count.

    Args:
        phase: a sleep, or any other phase, checked against the module before training.
        every: number of steps from one application to the next.
    """

    def __init__(self, phase: Phase, every: int = 1) -> None:
        self.phase, self.every, self.last = phase, whole("every", every, "a number of steps", at_least=1), 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the phase can change the module."""
        self.phase.check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count at the step of the checkpoint, if any."""
        self.last = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Apply the phase if a step has ended and the phase is due."""
        step = trainer.global_step
        if step != self.last and step % self.every == 0:
            self.phase.change(pl_module, seed=step, optimizer=trainer.optimizers[0])
        self.last = step
