"""Saving a run to file systems as they are: paths to be expanded, full disks, folders that take no file."""

import errno
import os
from pathlib import Path

import pytest
from tiny_runs import CONFIG, run, tiny

from bioshare.train import checkpoint, fitting
from bioshare.train import run as training
from bioshare.train.config import ARCHITECTURES
from bioshare.train.fitting import CHECKPOINT, RESULT, trained_network
from bioshare.train.results import read_result, write_result


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)


def test_a_run_in_the_home_folder_is_whole_and_nowhere_else(tmp_path, monkeypatch):
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("HOME", "USERPROFILE", "PROJECT"):
        monkeypatch.setenv(name, str(home))
    result = run("~/runs/mine")
    again = run("$PROJECT/runs/mine", resume=True)  # a finished run
    assert result.identical(again)
    assert not trained_network("~/runs/mine").training
    assert sorted(path.name for path in (home / "runs" / "mine").iterdir()) == [CHECKPOINT, RESULT]
    assert not list(work.iterdir())


def test_a_result_in_a_folder_that_is_named_like_a_home_is_written_there(tmp_path, monkeypatch, straight):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_result(Path("~", "result.nc"), straight)
    assert read_result(tmp_path / "~" / "result.nc").identical(straight)
    assert not (tmp_path / "home").exists()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resnet20", tiny)
        return run(tmp_path_factory.mktemp("straight"))


def full(*arguments, **options):
    raise checkpoint.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_checkpoint_without_room_ends_a_run_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(training.Run, "step", lambda *_: pytest.fail("training has begun"))
    with pytest.raises(OSError, match=rf"\[Errno 28\] No space left on device.*{tmp_path}.*{CHECKPOINT}"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_checkpoint_from_which_the_run_goes_on(tmp_path, monkeypatch, straight):
    with pytest.raises(fitting.TimeUpError):
        run(tmp_path, seconds=0)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(OSError, match="No space left on device"):
            run(tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert run(tmp_path, resume=True).top1.equals(straight.top1)


def test_a_run_needs_no_permissions_locks_or_fsync_of_its_file_system(tmp_path, monkeypatch, straight):
    def unsupported(*arguments, **options):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "fsync", unsupported)
    monkeypatch.setattr(Path, "chmod", unsupported)
    monkeypatch.setattr("fcntl.flock", unsupported)
    assert run(tmp_path, CONFIG).top1.equals(straight.top1)
    assert read_result(tmp_path / RESULT).top1.equals(straight.top1)
