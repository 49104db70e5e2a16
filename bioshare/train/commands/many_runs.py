"""Options and endings of the commands that train many runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from bioshare.checks import whole
from bioshare.nn.functional import prefer
from bioshare.progress import say
from bioshare.train.commands.options import TIME_UP, Computing
from bioshare.train.data import load
from bioshare.train.fitting import CHECKPOINT
from bioshare.train.relax_measures import relaxation, relaxed, stored_relaxation
from bioshare.train.results import RESULT, complete
from bioshare.train.runs import Job, Outcomes, run_all
from bioshare.train.saving import check_prepared_images
from bioshare.train.stored import UnreadableRunError, config_of


@dataclass(frozen=True, kw_only=True)
class ManyRuns(Computing):
    """Many runs: finished runs stay, begun runs are resumed.

    Attributes:
        seeds: number of runs of everything, from seed 0.
        to: folder under which the runs live, and their results in one file.
        show: train nothing; show all finished runs, in whatever setting.
        scheduler: address of a Dask scheduler to train on, tls://host:8786 with credentials from Dask's configuration
            or tcp://host:8786 without; its workers need one thread each, and must see the same folders. None for this
            machine.
        workers: number of runs at a time; None for all workers of the scheduler, or without a scheduler
            one per GPU, or one.
        discard_checkpoints: delete the checkpoint of every finished run (of LC ResNet-20 0.5 GB), of earlier commands
            too. The result stays, and weights kept on the way; those of the end do not. Not with show.
        fitting: options of `bioshare.train.fit`.
    """

    seeds: int = 5
    to: Path = Path("runs")
    show: bool = False
    scheduler: str | None = None
    workers: int | None = None
    discard_checkpoints: bool = False
    fitting: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("seeds", self.seeds, "a number of seeds", at_least=1)
        if self.workers is not None:
            whole("workers", self.workers, "a number of runs", at_least=1)

    def outcomes(self, jobs: Sequence[Job], run: Callable[..., xr.Dataset]) -> Outcomes:
        """Train the jobs, or read the results of the finished ones.

        A damaged file, a result of images that differ from the prepared ones, or a finished run that cannot be
        measured, is the failure of one job.

        Raises:
            ValueError: a folder holds a run of another configuration, or the form of the products doesn't exist here;
                nothing was trained. Or results of one data set are of different images.
            FileNotFoundError: a data set is missing. Nothing was trained.
        """
        unmeasured: dict[str, str] = {}
        outcomes = self._train(jobs, run, lambda job: self._finish(job, unmeasured))
        outcomes.failures.update(unmeasured)
        _check_same_images(jobs, outcomes)
        return outcomes

    def _train(self, jobs: Sequence[Job], run: Callable[..., xr.Dataset], finish: Callable[[Job], None]) -> Outcomes:
        outcomes = Outcomes()
        for job in jobs:
            ending = self._before(job)
            outcomes.add(job.name, ending)
            if isinstance(ending, str) and self.fitting.get("progress", True):
                say(f"{job.name}: {ending}")
        if self.show:
            return outcomes
        missing = [job for job in jobs if job.name not in outcomes.results | outcomes.failures]
        for job in jobs:
            if job.name in outcomes.results:
                finish(job)
        if not missing:
            return outcomes
        fitting = dict(self.fitting)
        if data := fitting.get("data"):
            fitting["data"] = data.absolute()
        if self.scheduler is None:
            with prefer(fitting.get("form", "auto")):
                for name in {job.config.dataset_name for job in missing}:
                    load(name, data)
        how = {"scheduler": self.scheduler, "workers": self.workers, "threads": self.threads, "done": finish}
        seconds = self.minutes and 60 * self.minutes
        for waits in (False, True):  # first the runs from which others start
            stage = [job for job in missing if (job.config.start_from is not None) == waits]
            if stage and not outcomes.time_up:
                begun = time.monotonic()
                trained = run_all(stage, run, seconds=seconds, **how, **fitting)
                seconds = seconds and max(0.0, seconds - (time.monotonic() - begun))
                outcomes = Outcomes(
                    outcomes.results | trained.results, outcomes.failures | trained.failures, trained.time_up
                )
        return outcomes

    def _before(self, job: Job) -> xr.Dataset | str | None:
        """The result of a finished run, or the fault of a file in words."""
        try:
            result = complete(job.folder, None if self.show else job.config)
        except UnreadableRunError as error:
            return str(error)
        if result is not None and not self.show:
            try:
                check_prepared_images(job.config, job.folder, result, self.fitting.get("data"))
            except ValueError as error:
                return str(error)
        return result

    def _finish(self, job: Job, unmeasured: dict[str, str]) -> None:
        """Measure a finished run in a larger space, or note the fault; then delete the checkpoint, if asked for."""
        checkpoint = job.folder / CHECKPOINT
        if relaxed(job.config) and stored_relaxation(job.folder) is None:
            try:
                if not checkpoint.exists():
                    raise ValueError("there is no checkpoint. Train the run anew, in another folder")
                relaxation(job.folder, self.fitting.get("data"))
            except (OSError, RuntimeError, ValueError, MemoryError) as error:
                stays = ", and the checkpoint stays" if checkpoint.exists() else ""
                unmeasured[job.name] = f"trained, but not measured{stays}: {error}"
                say(f"{job.name}: {unmeasured[job.name]}")
                return
        if self.discard_checkpoints:
            checkpoint.unlink(missing_ok=True)

    def report_endings(self, jobs: Sequence[Job], outcomes: Outcomes) -> None:
        """Name the runs that failed, and count the others if the time is up; both have an exit status.

        Raises:
            SystemExit: 75 if the time is up; otherwise 1 if a run failed.
        """
        if outcomes.failures:
            shown = self.fitting.get("progress", True)
            failures = [name if shown else f"{name} ({text})" for name, text in outcomes.failures.items()]
            print(f"failed{', as shown above' * shown}: {', '.join(failures)}", file=sys.stderr)
        if outcomes.time_up:
            rest = [job for job in jobs if job.name not in outcomes.results and job.name not in outcomes.failures]
            begun = sum((job.folder / CHECKPOINT).exists() for job in rest)
            failed = f"{len(outcomes.failures)} failed, " * bool(outcomes.failures)
            counts = f"{len(outcomes.results)} runs finished, {failed}{begun} begun, {len(rest) - begun} missing"
            goes_on = "the same command goes on" + ", and tries again what failed" * bool(outcomes.failures)
            print(f"the time is up after {self.minutes:g} min: {counts}; {goes_on}", file=sys.stderr)
            raise SystemExit(TIME_UP)
        if outcomes.failures:
            raise SystemExit(1)


def _check_same_images(jobs: Sequence[Job], outcomes: Outcomes) -> None:
    """Check that all results of one data set are of the same images; raises ValueError with two folders."""
    first: dict[str, tuple[Path, object]] = {}
    for job in jobs:
        if job.name in outcomes.results:
            facts = outcomes.results[job.name].attrs
            dataset = config_of(facts.get("config"), job.folder / RESULT).dataset_name
            folder, images = first.setdefault(dataset, (job.folder, facts.get("images")))
            if facts.get("images") != images:
                raise ValueError(
                    f"the images of {dataset} must be the same in all runs: their checksum is {images} in {folder} "
                    f"and {facts.get('images')} in {job.folder}. Move the runs of other images away"
                )
