"""Runs whose processes die, fail, are stopped or succeed. The functions in place of `fit` are imported by them."""

import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import torch
import xarray as xr
from tiny_runs import CONFIG, assert_same_ending, run, tiny
from torch.utils.data import DataLoader

from bioshare.files import locked
from bioshare.train import run as training
from bioshare.train import runs
from bioshare.train.config import ARCHITECTURES, TrainConfig
from bioshare.train.fitting import CHECKPOINT, fit
from bioshare.train.interrupt import Interrupted, TimeUpError
from bioshare.train.run_process import RESTARTS, RunProcess
from bioshare.train.runs import Job, run_all


def jobs(folder, seeds=3, **fields):
    return [Job(f"run{seed}", TrainConfig(seed=seed, **fields), folder / str(seed)) for seed in range(seeds)]


def top1(outcomes):
    return {name: result["top1"].item() for name, result in outcomes.results.items()}


def result(config, **attributes):
    return xr.Dataset({"top1": ("epoch", [10.0 * config.seed])}, attrs=attributes)


def attempt(folder):
    """Count an attempt of a run in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "attempts").open("a") as file:
        file.write("x")
    return attempts(folder)


def attempts(folder):
    return len((folder / "attempts").read_text())


def calm(config, folder, *, resume, progress, device, **options):
    assert resume
    assert not progress
    return result(config, device=device, threads=torch.get_num_threads(), **options)


def in_trouble(config, folder, **options):
    """Seed 0 succeeds the second time; seed 1 raises; seed 2 always dies; seed 3 exits; seed 4 starts processes."""
    if (attempt(folder) == 1 and config.seed == 0) or config.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 1:
        raise ArithmeticError("loss is NaN\n  at step 7")
    if config.seed == 3:
        os._exit(3)
    if config.seed == 4:
        loader = DataLoader(torch.arange(10.0), batch_size=5, num_workers=1)  # pyright: ignore[reportArgumentType]
        assert sum(batch.sum().item() for batch in loader) == 45
    return result(config)


def fit_tiny(config, folder, **options):
    ARCHITECTURES["resnet20"] = tiny
    return fit(config, folder, **options)


def fit_killed(config, folder, **options):
    """Kill this process at a random moment, three times."""
    killer = threading.Timer(random.uniform(0, 0.1), lambda: os.kill(os.getpid(), signal.SIGKILL))
    take = training.Run.step

    def step(self, x, y):
        if attempts(folder) <= 3 and killer.ident is None:
            killer.start()
        take(self, x, y)

    attempt(folder)
    training.Run.step = step
    history = fit_tiny(config, folder, **options)
    if killer.ident:
        killer.join()
    return history


def in_use(config, folder, **options):
    attempt(folder)
    with locked(folder):
        return result(config)


def out_of_time(config, folder, *, seconds, **options):
    if config.seed == 1:
        raise TimeUpError("stopped after step 7")
    return result(config)


def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_weights(tmp_path, monkeypatch):
    job = Job("killed", CONFIG, tmp_path / "killed")
    outcomes = run_all([job], fit_killed, threads=1, device="cpu", progress=False, checkpoint_every=0.0)
    assert outcomes.failures == {}
    assert 2 <= attempts(job.folder) <= 4
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)
    run(tmp_path / "straight")
    assert_same_ending(job.folder, tmp_path / "straight")


def test_what_a_signal_killed_is_started_again_and_what_failed_is_told_once(tmp_path, capfd):
    ended = []
    outcomes = run_all(jobs(tmp_path, 5), in_trouble, workers=5, device="cpu", done=lambda job: ended.append(job.name))
    assert top1(outcomes) == {"run0": 0.0, "run4": 40.0}
    assert sorted(ended) == ["run0", "run4"]
    assert outcomes.failures == {
        "run1": "ArithmeticError: loss is NaN at step 7",
        "run2": f"RuntimeError: its process ended with status -9, at start {1 + RESTARTS}",
        "run3": "RuntimeError: its process ended with status 3, at start 1",
    }
    assert not outcomes.time_up
    assert [attempts(job.folder) for job in jobs(tmp_path, 5)] == [2, 1, 1 + RESTARTS, 1, 1]
    shown = capfd.readouterr().err
    assert "run0: done" in shown
    assert shown.count("loss is NaN") == 1


def test_how_to_train_is_handed_on(tmp_path):
    """To a function that no other process could import, too."""
    here = torch.get_num_threads()
    outcomes = run_all(jobs(tmp_path, 2), calm, workers=2, device="cpu", progress=False, data="there")
    defaults = {"device": "cpu", "threads": max(1, here // 2), "checkpoint_every": runs.CHECKPOINT_EVERY}
    assert [found.attrs for found in outcomes.results.values()] == [defaults | {"data": "there"}] * 2
    options = {"threads": here + 1, "checkpoint_every": 7.0, "progress": False, "device": "cpu"}
    outcomes = run_all(jobs(tmp_path, 1), lambda config, folder, **how: calm(config, folder, **how), **options)
    assert outcomes.results["run0"].attrs == {"device": "cpu", "threads": here + 1, "checkpoint_every": 7.0}


def test_when_the_time_is_up_runs_have_checkpoints_and_the_next_ones_do_not_begin(tmp_path, monkeypatch):
    both = [Job(str(seed), TrainConfig(**vars(CONFIG) | {"seed": seed}), tmp_path / str(seed)) for seed in range(2)]
    outcomes = run_all(both, fit_tiny, seconds=0.1, threads=1, device="cpu", progress=False)
    assert (outcomes.results, outcomes.failures, outcomes.time_up) == ({}, {}, True)
    assert [(job.folder / CHECKPOINT).exists() for job in both] == [True, False]
    assert not run_all(both[:1], fit_tiny, seconds=600.0, threads=1, device="cpu", progress=False).time_up
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)
    run(tmp_path / "straight", both[0].config)
    assert_same_ending(both[0].folder, tmp_path / "straight")


SCRIPT = """
import dataclasses, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_runs
from bioshare.train.runs import Job, run_all
configs = [dataclasses.replace(test_runs.CONFIG, epochs=10**6, seed=seed) for seed in range(2)]
both = [Job(str(config.seed), config, Path({folder!r}, str(config.seed))) for config in configs]
try:
    run_all(both, test_runs.fit_tiny, workers=2, device="cpu")
except KeyboardInterrupt as error:
    print(error)
    sys.exit(128 + error.signal)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_runs_write_checkpoints_when_a_script_is_stopped(tmp_path, number):
    """A script without ``if __name__ == "__main__"``, by Ctrl-C, which a terminal sends to all, or by its death."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], **pipes, start_new_session=True) as parent:
        try:
            wait_for(lambda: all((tmp_path / str(seed) / "result.nc").exists() for seed in range(2)))
            processes = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children(recursive=True)]
            assert len(processes) == 3
            sockets = [socket for process in processes for socket in process.net_connections("inet")]
            assert [socket for socket in sockets if socket.status == psutil.CONN_LISTEN] == []
            os.killpg(parent.pid, number)
            output, errors = parent.communicate(timeout=60)
        finally:
            parent.kill()
    wait_for(lambda: not any((tmp_path / str(seed) / ".lock").exists() for seed in range(2)))
    assert all((tmp_path / str(seed) / CHECKPOINT).exists() for seed in range(2))
    if number == signal.SIGINT:
        assert parent.returncode == 128 + signal.SIGINT
        assert output == "stopped by signal 2; the same command goes on from the runs' last checkpoints\n"
        assert "Traceback" not in errors


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def scheduler():
    """Address of two workers, each of one thread."""
    from distributed import LocalCluster

    quiet = {"memory_limit": 0, "dashboard_address": "localhost:0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster:
        yield cluster.scheduler_address


def test_workers_of_a_scheduler(scheduler, tmp_path, capfd):
    outcomes = run_all(jobs(tmp_path), in_trouble, scheduler=scheduler, workers=1)
    assert top1(outcomes) == {"run0": 0.0}
    assert attempts(tmp_path / "0") == 2
    assert attempts(tmp_path / "1") == 1
    assert attempts(tmp_path / "2") == 1 + RESTARTS
    assert outcomes.failures["run1"] == "ArithmeticError: loss is NaN at step 7"
    assert outcomes.failures["run2"].startswith("KilledWorker: ")
    assert "run0: done" in capfd.readouterr().err


def test_workers_of_a_scheduler_are_told_how_to_train_and_until_when(scheduler, tmp_path):
    outcomes = run_all(jobs(tmp_path), calm, scheduler=scheduler, progress=False, device="cpu", threads=1, data="there")
    expected = {"device": "cpu", "threads": 1, "checkpoint_every": runs.CHECKPOINT_EVERY, "data": "there"}
    assert [found.attrs for found in outcomes.results.values()] == [expected] * 3
    late = run_all(jobs(tmp_path), out_of_time, seconds=100, scheduler=scheduler, progress=False)
    assert late.time_up
    assert top1(late) == {"run0": 0.0, "run2": 20.0}
    assert late.failures == {}


def waiting(config, folder, **options):
    attempt(folder)
    wait_for((folder.parent / "go").exists)
    return result(config)


def test_workers_of_a_scheduler_finish_the_runs_that_were_begun_before_ctrl_c(scheduler, tmp_path):
    def interrupt():
        wait_for((tmp_path / "0" / "attempts").exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    message = (
        f"stopped by signal 2; the workers of {scheduler} finish the runs that were begun; once they are idle, the same"
    )
    with pytest.raises(Interrupted, match=message):
        run_all(jobs(tmp_path), waiting, scheduler=scheduler, workers=1, progress=False)
    thread.join()
    (tmp_path / "go").touch()
    assert not (tmp_path / "1").exists()


def test_workers_of_several_threads_are_refused(tmp_path):
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="localhost:0") as cluster,
        pytest.raises(ValueError, match="must have one thread each"),
    ):
        run_all(jobs(tmp_path), calm, scheduler=cluster.scheduler_address, progress=False)


def test_only_this_user_can_read_and_write_what_the_processes_are_given():
    with RunProcess(os.getpid) as process:
        wait_for(process.done)
        assert process.result() == process.process.pid
        assert stat.S_IMODE(Path(process.folder.name).stat().st_mode) == 0o700
    assert not Path(process.folder.name).exists()


def test_a_run_that_another_process_trains_comes_last_and_is_no_failure(tmp_path, capfd):
    """The other process ends when all other runs have ended, without a result."""
    both = [Job(str(seed), TrainConfig(**vars(CONFIG) | {"seed": seed}), tmp_path / str(seed)) for seed in range(2)]
    with ExitStack() as other:
        other.enter_context(locked(both[0].folder))
        outcomes = run_all(both, fit_tiny, threads=1, device="cpu", done=lambda job: other.close())
    assert list(outcomes.results) == ["1", "0"]
    assert outcomes.failures == {}
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("0: ", "1: "))]
    waiting = "0: another process trains this run; waiting for the end after all other runs"
    assert lines == [waiting, "1: done", "0: done"]


def test_time_that_is_up_or_a_signal_ends_the_wait_for_another_process(tmp_path):
    job = jobs(tmp_path, 1)[0]
    with locked(job.folder):
        assert run_all([job], in_use, seconds=5.0, progress=False).time_up
        (job.folder / "attempts").unlink()
        thread = threading.Thread(
            target=lambda: (wait_for((job.folder / "attempts").exists), os.kill(os.getpid(), signal.SIGINT))
        )
        thread.start()
        with pytest.raises(Interrupted, match="stopped by signal 2; the same command goes on"):
            run_all([job], in_use, progress=False)
        thread.join()


def test_jobs_that_collide_are_refused():
    job = Job("a", TrainConfig(), Path("here"))
    for other in (Job("a", TrainConfig(), Path("there")), Job("b", TrainConfig(), Path("here"))):
        with pytest.raises(ValueError, match=r"got twice: (a|here)"):
            run_all([job, other], calm)
    with pytest.raises(ValueError, match="must not be empty"):
        run_all([], calm)
    with pytest.raises(ValueError, match="workers must be a number of runs, at least 1; got 0"):
        run_all([job], calm, workers=0)


def test_every_process_of_this_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    every = {"auto": "cuda:1", "cuda": "cuda:1", "cpu": "cpu", "cuda:0": "cuda:0"}
    assert {device: runs.own_device(device, 3) for device in every} == every
    workers = {"auto": 2, "cuda": 2, "cpu": 1, "cuda:1": 1}
    assert {device: runs.default_workers(device) for device in workers} == workers
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runs.own_device("auto", 3) == "auto"
