"""`Snapshot`: weights of a run after one of its epochs, from which another run starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bioshare.checks import shown, whole


@dataclass(frozen=True)
class Snapshot:
    """Weights of another run as the first weights of a run (the relax time of d'Ascoli et al. 2019).

    The other run keeps weights for it with `TrainConfig.snapshots`, and must be finished.

    Attributes:
        run: folder of the other run, relative to the folder of this run, such as "../../conv/seed{seed}", where {seed}
            is the seed of this run.
        epoch: number of epochs that the other run had been trained.
    """

    run: str
    epoch: int

    def __post_init__(self) -> None:
        if not isinstance(self.run, str) or not self.run:
            raise TypeError(f'run must be a folder as text, such as "../../conv/seed{{seed}}"; got {shown(self.run)}')
        whole("epoch", self.epoch, "a number of epochs", at_least=0)

    def file(self, folder: Path, seed: int) -> Path:
        """The file of the weights, for the run in a folder.

        Raises:
            ValueError: the other run has no such snapshot.
        """
        home = Path(os.path.normpath(folder / self.run.replace("{seed}", str(seed))))  # folder may not exist yet
        if self.epoch not in (known := snapshots_in(home)):
            kept = f"weights of the epochs {', '.join(map(str, known))}" if known else "no weights"
            raise ValueError(
                f"start_from must be a snapshot of a run; {home} keeps {kept}, and not of epoch {self.epoch}. Train "
                f"that run first, for at least {self.epoch} epochs, with snapshots=(..., {self.epoch})"
            )
        return home / snapshot_name(self.epoch)


def snapshots_in(folder: Path) -> list[int]:
    """The epochs after which a run has kept its weights."""
    return sorted(int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*.safetensors"))


def snapshot_name(epoch: int) -> str:
    """Name of the file of the weights after so many epochs in the folder of a run."""
    return f"epoch-{epoch}.safetensors"
