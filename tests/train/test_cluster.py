"""Runs on Dask workers that die, fail or succeed. The functions that stand for `fit` are imported by the workers."""

import os
import signal
from pathlib import Path

import pytest
import xarray as xr
from distributed import LocalCluster

from bioshare.train import cluster
from bioshare.train.cluster import Job, run_all
from bioshare.train.config import TrainConfig


def result(config, folder, device, **options):
    return xr.Dataset({"top1": ("epoch", [10.0 * config.seed])}, attrs={"device": device, **options})


def calm(config, folder, *, resume, progress, device, **options):
    assert resume
    assert not progress
    return result(config, folder, device, **options)


def fatal_once(config, folder, *, resume, progress, device):
    """Kills its worker the first time."""
    count(folder)
    if attempts(folder) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return result(config, folder, device)


def fatal_for_seed_0(config, folder, *, resume, progress, device):
    count(folder)
    if config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result(config, folder, device)


def wrong_for_seed_1(config, folder, *, resume, progress, device):
    count(folder)
    if config.seed == 1:
        raise ArithmeticError("loss is NaN at step 7")
    return result(config, folder, device)


def count(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "attempts").open("a") as file:
        file.write("x")


def attempts(folder):
    return len((folder / "attempts").read_text())


def jobs(folder, seeds=3):
    return [Job(f"run{seed}", TrainConfig(seed=seed), folder / str(seed)) for seed in range(seeds)]


def top1(outcomes):
    return {name: found["top1"].item() for name, found in outcomes.results.items()}


ALL = {"run0": 0.0, "run1": 10.0, "run2": 20.0}


@pytest.fixture(scope="module")
def scheduler():
    """Address of two workers, each of one thread."""
    with (
        cluster.dask.config.set({"distributed.scheduler.allowed-failures": cluster.RETRIES}),
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address="localhost:0") as running,
    ):
        yield running.scheduler_address


def test_runs_give_what_they_give_one_after_the_other(scheduler, tmp_path):
    outcomes = run_all(jobs(tmp_path), calm, scheduler=scheduler, progress=False, data="here", device="cpu")
    assert top1(outcomes) == ALL
    for job in jobs(tmp_path):
        serial = calm(job.config, job.folder, resume=True, progress=False, device="cpu", data="here")
        xr.testing.assert_identical(outcomes.results[job.name], serial)
    backwards = run_all(jobs(tmp_path)[::-1], calm, scheduler=scheduler, workers=1, progress=False)
    assert top1(backwards) == ALL


def test_a_run_whose_worker_dies_is_started_again(scheduler, tmp_path):
    outcomes = run_all(jobs(tmp_path), fatal_once, scheduler=scheduler, progress=False)
    assert top1(outcomes) == ALL
    assert outcomes.failures == {}
    assert all(
        attempts(job.folder) >= 2 for job in jobs(tmp_path)
    )  # more where a result was lost with another's worker


@pytest.mark.slow
def test_a_run_that_kills_every_worker_leaves_the_others(scheduler, tmp_path):
    outcomes = run_all(jobs(tmp_path), fatal_for_seed_0, scheduler=scheduler, workers=1, progress=False)
    assert top1(outcomes) == {name: value for name, value in ALL.items() if name != "run0"}
    assert outcomes.failures.keys() == {"run0"}
    assert outcomes.failures["run0"].startswith("KilledWorker: ")
    assert [attempts(job.folder) for job in jobs(tmp_path)] == [1 + cluster.RETRIES, 1, 1]


def test_a_run_that_fails_is_reported_and_not_repeated(scheduler, tmp_path, capfd):
    outcomes = run_all(jobs(tmp_path), wrong_for_seed_1, scheduler=scheduler)
    assert top1(outcomes) == {"run0": 0.0, "run2": 20.0}
    assert outcomes.failures == {"run1": "ArithmeticError: loss is NaN at step 7"}
    assert [attempts(job.folder) for job in jobs(tmp_path)] == [1, 1, 1]
    shown = capfd.readouterr().err
    assert "run0: done" in shown
    assert "run1: ArithmeticError: loss is NaN at step 7" in shown


@pytest.mark.slow
def test_processes_of_this_machine(tmp_path):
    outcomes = run_all(jobs(tmp_path, seeds=2), fatal_once, workers=2, device="cpu", progress=False)
    assert top1(outcomes) == {"run0": 0.0, "run1": 10.0}
    assert {found.attrs["device"] for found in outcomes.results.values()} == {"cpu"}


def test_workers_of_several_threads_are_refused(tmp_path):
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="localhost:0") as running,
        pytest.raises(ValueError, match="must have one thread each"),
    ):
        run_all(jobs(tmp_path), calm, scheduler=running.scheduler_address, progress=False)


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 0.2)
    with pytest.raises(ValueError, match=r"scheduler must be the address .* got 'tcp://127.0.0.1:9'"):
        run_all(jobs(tmp_path), calm, scheduler="tcp://127.0.0.1:9", progress=False)


def test_jobs_that_collide_are_refused():
    job = Job("a", TrainConfig(), Path("here"))
    for other in (Job("a", TrainConfig(), Path("there")), Job("b", TrainConfig(), Path("here"))):
        with pytest.raises(ValueError, match=r"got twice: (a|here)"):
            run_all([job, other], calm)
    with pytest.raises(ValueError, match="must not be empty"):
        run_all([], calm)


def test_every_local_worker_has_a_gpu_of_its_own(monkeypatch):
    class Worker:
        name: object = 3

    monkeypatch.setattr(cluster, "get_worker", Worker)
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: 2)
    assert cluster._own_device("auto") == "cuda:1"
    assert cluster._own_device("cpu") == "cpu"
    assert (cluster._default_workers("auto"), cluster._default_workers("cpu")) == (2, 1)
    Worker.name = "tcp://elsewhere"
    assert cluster._own_device("auto") == "auto"
