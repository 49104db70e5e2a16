"""Runs on Dask workers that die, fail or succeed. The functions that stand for `fit` are imported by the workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import xarray as xr
from distributed import LocalCluster
from torch.utils.data import DataLoader

from bioshare.train import cluster
from bioshare.train.cluster import Job, run_all
from bioshare.train.config import TrainConfig
from bioshare.train.interrupt import Interrupted, TimeUpError


def result(config, folder, device, **options):
    return xr.Dataset({"top1": ("epoch", [10.0 * config.seed])}, attrs={"device": device, **options})


def calm(config, folder, *, resume, progress, device, **options):
    assert resume
    assert not progress
    return result(config, folder, device, **options)


def fatal_once(config, folder, *, resume, progress, device, **options):
    """Kills its worker the first time."""
    count(folder)
    if attempts(folder) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return result(config, folder, device)


def fatal_for_seed_0(config, folder, *, resume, progress, device, **options):
    count(folder)
    if config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result(config, folder, device)


def wrong_for_seed_1(config, folder, *, resume, progress, device, **options):
    count(folder)
    if config.seed == 1:
        raise ArithmeticError("loss is NaN at step 7")
    return result(config, folder, device)


def loading(config, folder, *, resume, progress, device, **options):
    """Reads its numbers through another process."""
    loader = DataLoader(torch.arange(10.0), batch_size=5, num_workers=1)  # pyright: ignore[reportArgumentType]
    return xr.Dataset({"top1": ("epoch", [sum(batch.sum().item() for batch in loader)])})


def interrupted_for_seed_1(config, folder, *, resume, progress, device, **options):
    count(folder)
    if config.seed == 1:
        raise Interrupted("stopped after step 7", signal.SIGTERM)
    return result(config, folder, device)


def endless(config, folder, **options):
    folder.mkdir(parents=True)
    (folder / "process").write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)


def wrong_for_seed_1_with_a_bar(config, folder, *, resume, progress, device, **options):
    assert progress
    return wrong_for_seed_1(config, folder, resume=resume, progress=progress, device=device).assign_attrs(
        process=os.getpid()
    )


def threads_used(config, folder, *, resume, progress, device, **options):
    return result(config, folder, device, threads=torch.get_num_threads())


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
        options = {"data": "here", "checkpoint_every": cluster.CHECKPOINT_EVERY}
        serial = calm(job.config, job.folder, resume=True, progress=False, device="cpu", **options)
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


def test_a_single_run_at_a_time_needs_no_other_process(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "LocalCluster", None)
    outcomes = run_all(jobs(tmp_path), wrong_for_seed_1_with_a_bar, device="cpu", threads=1)
    assert top1(outcomes) == {"run0": 0.0, "run2": 20.0}
    assert {found.attrs["process"] for found in outcomes.results.values()} == {os.getpid()}
    assert outcomes.failures == {"run1": "ArithmeticError: loss is NaN at step 7"}
    shown = capfd.readouterr().err
    assert shown.count("loss is NaN") == 1
    assert "run2: done" in shown


def together_but_for_seed_1(runs, *, resume, progress, device, **options):
    """As `fit_together`: a list of results and exceptions."""
    assert resume
    calls = [result(config, folder, device, runs=len(runs), **options) for config, folder in runs]
    return [ValueError("no") if config.seed == 1 else found for (config, _), found in zip(runs, calls, strict=True)]


def test_runs_are_trained_together_in_groups_in_this_process(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "LocalCluster", None)
    monkeypatch.setattr(cluster, "_default_workers", lambda device: 8)
    ended, options = [], {"together": 2, "run_together": together_but_for_seed_1, "device": "cpu"}
    outcomes = run_all(jobs(tmp_path), calm_here, **options, done=lambda job: ended.append(job.name), data="there")
    assert top1(outcomes) == {"run0": 0.0, "run2": 20.0}
    assert outcomes.failures == {"run1": "ValueError: no"}
    assert not outcomes.time_up
    assert ended == ["run0", "run2"]
    found = outcomes.results["run0"].attrs, outcomes.results["run2"].attrs
    assert [(one.get("runs"), one["data"]) for one in found] == [(2, "there"), (None, "there")]
    assert capfd.readouterr().err.splitlines() == [
        "run0, run1:",
        "run0: done",
        "run1: ValueError: no",
        "run2:",
        "run2: done",
    ]


def calm_here(config, folder, *, resume, progress, device, **options):
    return result(config, folder, device, **options)


def all_fail(runs, **options):
    raise MemoryError("too much")


def test_what_ends_a_group_is_the_failure_of_all_in_it(tmp_path):
    outcomes = run_all(jobs(tmp_path), calm_here, together=2, run_together=all_fail, progress=False)
    assert outcomes.failures == dict.fromkeys(("run0", "run1"), "MemoryError: too much")
    assert top1(outcomes) == {"run2": 20.0}


@pytest.mark.parametrize("other", [{"workers": 2}, {"scheduler": "tcp://127.0.0.1:9"}])
def test_workers_train_no_runs_together(tmp_path, other):
    with pytest.raises(ValueError, match=r"together=2 trains runs in a single process.*got (workers=2|scheduler=)"):
        run_all(jobs(tmp_path), calm, together=2, **other)
    with pytest.raises(ValueError, match="together must be a number of runs of at least 1; got 0"):
        run_all(jobs(tmp_path), calm, together=0)


def time_up_for_seed_1(config, folder, *, seconds, **options):
    assert 0 < seconds <= 100
    if config.seed == 1:
        raise TimeUpError("stopped after step 7")
    return xr.Dataset({"top1": ("epoch", [10.0 * config.seed])})


def test_when_the_time_is_up_the_next_runs_do_not_begin(tmp_path):
    outcomes = run_all(jobs(tmp_path), time_up_for_seed_1, seconds=100, workers=1, progress=False)
    assert outcomes.time_up
    assert top1(outcomes) == {"run0": 0.0}
    assert outcomes.failures == {}


def spent(config, folder, *, seconds, **options):
    time.sleep(seconds)
    return xr.Dataset({"top1": ("epoch", [10.0 * config.seed])})


def test_a_run_that_takes_all_the_time_is_the_last(tmp_path):
    outcomes = run_all(jobs(tmp_path), spent, seconds=0.2, workers=1, progress=False)
    assert outcomes.time_up
    assert top1(outcomes) == {"run0": 0.0}


def test_runs_of_a_group_that_finished_before_the_time_was_up_are_results(tmp_path):
    outcomes = run_all(jobs(tmp_path), calm, seconds=10.0, together=3, run_together=stopping(TimeUpError("stopped")))
    assert outcomes.time_up
    assert top1(outcomes) == {"run0": 0.0}
    assert outcomes.failures == {"run1": "OSError: disk"}


def test_what_had_ended_before_an_interruption_is_told(tmp_path, capfd):
    interrupted, ended = Interrupted("stopped", signal.SIGTERM), []
    options = {"together": 3, "run_together": stopping(interrupted), "done": lambda job: ended.append(job.name)}
    with pytest.raises(Interrupted, match="stopped"):
        run_all(jobs(tmp_path), calm, **options)
    assert ended == ["run0"]
    assert capfd.readouterr().err.splitlines()[1:] == ["run0: done", "run1: OSError: disk", "run2: not complete"]


def stopping(error):
    """As `fit_together`: the first of three runs is complete, the second has failed, and all are stopped."""

    def run_together(runs, *, device, **options):
        error.outcomes = [result(*runs[0], device), OSError("disk"), None]
        raise error

    return run_together


def test_workers_stop_when_the_time_is_up(scheduler, tmp_path):
    outcomes = run_all(jobs(tmp_path), time_up_for_seed_1, seconds=100, scheduler=scheduler, progress=False)
    assert outcomes.time_up
    assert top1(outcomes) == {"run0": 0.0, "run2": 20.0}
    late = run_all(jobs(tmp_path, 5), spent, seconds=1.0, scheduler=scheduler, progress=False)
    assert late.time_up
    assert top1(late) == {"run0": 0.0, "run1": 10.0}


def test_threads_are_those_asked_for_during_the_runs_only(tmp_path):
    before = torch.get_num_threads()
    outcomes = run_all(jobs(tmp_path, seeds=1), threads_used, threads=before + 1, device="cpu", progress=False)
    assert outcomes.results["run0"].attrs["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_an_interrupted_run_of_this_process_ends_them_all(tmp_path):
    with pytest.raises(Interrupted, match="stopped after step 7") as stop:
        run_all(jobs(tmp_path), interrupted_for_seed_1, workers=1, progress=False)
    assert stop.value.signal == signal.SIGTERM
    assert not jobs(tmp_path)[2].folder.exists()


@pytest.mark.slow
def test_a_run_on_a_worker_may_start_processes(tmp_path):
    outcomes = run_all(jobs(tmp_path, seeds=2), loading, workers=2, device="cpu", progress=False)
    assert outcomes.failures == {}
    assert top1(outcomes) == {"run0": 45.0, "run1": 45.0}


ENDLESS = """
import sys
from pathlib import Path
from bioshare.__main__ import COMMANDS, main
from bioshare.train import cluster
sys.path.insert(0, {tests!r})
import test_cluster
if __name__ == "__main__":
    COMMANDS["list"] = ("test_cluster", "")
    test_cluster.add_arguments = lambda parser: None
    test_cluster.main = lambda _: cluster.run_all(test_cluster.jobs(Path({folder!r})), test_cluster.endless, workers=2)
    sys.exit(main(["list"]))
"""


@pytest.mark.slow
def test_ctrl_c_ends_workers_quietly(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    command = [sys.executable, tmp_path / "endless.py"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as parent:
        try:
            workers = [started(tmp_path / str(seed) / "process") for seed in (0, 1)]
            assert all(blocked(worker) for worker in workers)
            os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
            _, told = parent.communicate(timeout=60)
        finally:
            parent.kill()
    assert parent.returncode == 128 + signal.SIGINT
    assert told.splitlines()[-1] == "interrupted; the same command goes on from the runs' last checkpoints"
    assert len([line for line in told.splitlines() if line and "?run/s" not in line]) == 1, told  # but for the bar
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def blocked(process):
    """Whether Ctrl-C is kept from a process, where the system tells that."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return True
    mask = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigBlk"))
    return bool(int(mask, 16) & 1 << signal.SIGINT - 1)


def started(path):
    """The process that a run wrote down."""
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)
    return int(path.read_text())


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


def test_workers_write_checkpoints_more_often_unless_told_otherwise(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cluster, "_on_workers", lambda jobs, train, *_: seen.append(train.keywords["options"]))
    for told in ({}, {"checkpoint_every": 7.0}):
        run_all(jobs(tmp_path), calm, workers=2, **told)
    assert [options["checkpoint_every"] for options in seen] == [cluster.CHECKPOINT_EVERY, 7.0]


def test_every_local_worker_has_a_gpu_of_its_own(monkeypatch):
    class Worker:
        name: object = 3

    monkeypatch.setattr(cluster, "get_worker", Worker)
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cluster.torch.cuda, "device_count", lambda: 2)
    every = {"auto": "cuda:1", "cuda": "cuda:1", "cpu": "cpu", "cuda:0": "cuda:0"}
    assert {device: cluster._own_device(device) for device in every} == every
    workers = {"auto": 2, "cuda": 2, "cpu": 1, "cuda:1": 1}
    assert {device: cluster._default_workers(device) for device in workers} == workers
    Worker.name = "tcp://elsewhere"
    assert [cluster._own_device(device) for device in ("auto", "cuda")] == ["auto", "cuda"]
