"""Runs and tables whose images were prepared anew, with other pixels under the same name."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import CONFIG, run, tiny

from bioshare import __main__ as command_line
from bioshare.train import fitting, saving
from bioshare.train.commands import many_runs
from bioshare.train.config import ARCHITECTURES, ImageData
from bioshare.train.data import load
from bioshare.train.data.prepared import write_prepared
from bioshare.train.results import RESULT, read_result
from bioshare.train.runs import Outcomes

OURS = dataclasses.replace(CONFIG, dataset=ImageData("cifar10"), epochs=1, train_images=None, phases=())


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)


def prepare(folder, seed):
    """CIFAR-10 in noise; the checksum."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for part, images in (("train", 40), ("test", 20)):
        tensors[f"{part}_images"] = torch.from_numpy(rng.integers(0, 256, (images, 3, 32, 32), np.uint8))
        tensors[f"{part}_labels"] = torch.arange(images) % 10
    facts = {"name": "cifar10", "classes": [*map(str, range(10))], "mean": [0.5] * 3, "std": [0.3] * 3}
    write_prepared(folder / "cifar10.safetensors", tensors, facts)
    return load("cifar10", folder).checksum


def older(path):
    """Drop the checksum of a prepared file, which older versions did not write."""
    with safe_open(path, "pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "checksum"}
    save_file(load_file(path), path, metadata)


@pytest.mark.parametrize("change", [lambda path: None, older])
def test_a_finished_run_is_returned_for_images_of_the_run_alone(tmp_path, change):
    path = tmp_path / "cifar10.safetensors"
    before = prepare(tmp_path, 0)
    result = run(tmp_path / "run", OURS, data=tmp_path)
    change(path)
    assert run(tmp_path / "run", OURS, data=tmp_path, resume=True).identical(result)
    now = prepare(tmp_path, 1)
    change(path)
    with pytest.raises(ValueError, match=rf"of cifar10 must be .*was {before} and is now {now}\. Prepare the same"):
        run(tmp_path / "run", OURS, data=tmp_path, resume=True)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a whole prepared file"):
        run(tmp_path / "run", OURS, data=tmp_path, resume=True)
    path.unlink()
    assert run(tmp_path / "run", OURS, data=tmp_path, resume=True).identical(result)


def test_a_finished_run_is_returned_without_reading_the_images(tmp_path, monkeypatch):
    prepare(tmp_path, 0)
    result = run(tmp_path / "run", OURS, data=tmp_path)
    for module in (fitting, saving):
        monkeypatch.setattr(module, "load", lambda *_: pytest.fail("the images are read"))
    assert run(tmp_path / "run", OURS, data=tmp_path, resume=True).identical(result)


def test_a_run_that_another_process_finished_before_the_lock_with_other_images_is_refused(tmp_path, monkeypatch):
    prepare(tmp_path, 0)
    lock = fitting.locked

    def late(folder, *names):
        monkeypatch.setattr(fitting, "locked", lock)
        prepare(tmp_path, 1)
        run(folder, OURS, data=tmp_path)
        return lock(folder, *names)

    monkeypatch.setattr(fitting, "locked", late)
    with pytest.raises(ValueError, match="the images of cifar10 must be those of the run"):
        run(tmp_path / "run", OURS, data=tmp_path, resume=True)


def test_a_table_has_no_mean_of_two_data_sets(tmp_path, monkeypatch, capsys):
    def run_all(jobs, run, **_):
        options = {"data": tmp_path, "device": "cpu", "progress": False}
        return Outcomes({job.name: run(job.config, job.folder, **options) for job in jobs})

    monkeypatch.setattr(many_runs, "run_all", run_all)
    words = ["table", "sleep", "--columns", "cifar10", "--rows", "conv", "--epochs", "1", "--batch-size", "20"]
    words += ["--data", str(tmp_path), "--to", str(tmp_path / "runs"), "--seeds"]
    before = prepare(tmp_path, 0)
    assert command_line.main([*words, "1"]) == 0
    now = prepare(tmp_path, 1)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        command_line.main([*words, "2"])
    out, err = capsys.readouterr()
    assert "conv/seed0: the images of cifar10 must be those of the run" in err
    assert [line.split()[1] for line in out.splitlines() if line.startswith("conv ")] == ["1"]
    results = sorted((tmp_path / "runs").rglob(RESULT))
    assert [read_result(path).attrs["images"] for path in results] == [before, now]

    (saved,) = (tmp_path / "runs").glob("*.nc")
    contents = saved.read_bytes()
    for more in (["--show"], []):  # without prepared images, the results are compared with each other
        assert command_line.main([*words, "2", *more]) == 1
        assert f"the images of cifar10 must be the same in all runs: their checksum is {before} in" in (
            capsys.readouterr().err
        )
        (tmp_path / "cifar10.safetensors").unlink(missing_ok=True)
    assert saved.read_bytes() == contents
