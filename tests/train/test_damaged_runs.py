"""Faults in the files and the numbers of a run, each caused: damage, foreign files, NaN, full disks, two processes."""

import contextlib
import dataclasses
import json
import math
import os
import resource
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import CONFIG, assert_same_ending, interrupt, run, stop_at, tiny, weights

from bioshare.train import checkpoint, fitting
from bioshare.train import run as training
from bioshare.train.config import ARCHITECTURES, OwnImages
from bioshare.train.data import load
from bioshare.train.data.prepare import own_images, prepare
from bioshare.train.fitting import trained_network
from bioshare.train.interrupt import TrainingDivergedError
from bioshare.train.results import RESULT, read_result
from bioshare.train.saving import CHECKPOINT
from bioshare.train.stored import FORMAT, UnreadableRunError

OTHER = dataclasses.replace(CONFIG, seed=1)


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished run, and the same run stopped after seven of ten batches."""
    finished, stopped = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resnet20", tiny)
        run(finished)
        interrupt(stopped, 6)
    return finished, stopped


@given(data=st.data())
@settings(max_examples=150)
def test_a_changed_bit_of_a_result_is_found_wherever_it_is(tmp_path_factory, folders, data):
    content = (folders[0] / RESULT).read_bytes()
    path = tmp_path_factory.mktemp("bit") / RESULT
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
    with pytest.raises(UnreadableRunError, match=rf"{path} is damaged, or .* Move it away"):
        read_result(path)


@given(data=st.data())
@settings(max_examples=40)
def test_a_result_that_ends_early_is_refused(tmp_path_factory, folders, data):
    content = (folders[0] / RESULT).read_bytes()
    path = tmp_path_factory.mktemp("short") / RESULT
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(UnreadableRunError, match=f"{path} is damaged"):
        read_result(path)


def test_a_result_without_a_checksum_is_read_where_that_is_asked_for(folders, tmp_path):
    result = read_result(folders[0] / RESULT)
    result.to_netcdf(tmp_path / RESULT, engine="h5netcdf")
    assert read_result(tmp_path / RESULT, sealed=False).identical(result)
    with pytest.raises(UnreadableRunError, match="written by an older version"):
        run(tmp_path, resume=True)
    (tmp_path / RESULT).write_bytes((tmp_path / RESULT).read_bytes()[:-100])
    with pytest.raises(UnreadableRunError, match="is damaged"):
        read_result(tmp_path / RESULT, sealed=False)


def test_a_damaged_configuration_is_called_damaged_and_not_another(folders, tmp_path):
    content = bytearray((folders[1] / CHECKPOINT).read_bytes())
    place = content.index(b": 0", content.index(b"seed")) + 2
    content[place] ^= 1  # seed 1
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(UnreadableRunError, match=f"{CHECKPOINT} is damaged"):
        run(tmp_path, resume=True)


def edited(fields=(), **changes):
    """A change of the metadata: fields of the configuration, or whole entries; None drops an entry."""

    def edit(tensors, metadata):
        metadata["config"] = json.dumps(json.loads(metadata["config"]) | dict(fields))
        for name, value in changes.items():
            metadata[name] = value
            if value is None:
                del metadata[name]

    return edit


def without(text):
    def edit(tensors, metadata):
        for name in [name for name in tensors if text in name]:
            del tensors[name]

    return edit


def replaced(name, change):
    return lambda tensors, metadata: tensors.update({name: change(tensors[name])})


def in_history(change):
    return lambda tensors, metadata: change(metadata["history"])


FOREIGN = {
    "newer": edited({"format": FORMAT + 1, "brand_new": 3}),
    "older": edited({"format": 1}),
    "a format that is no number": edited({"format": "x"}),
    "a field of the configuration that is unknown": edited({"brand_new": 3}),
    "no configuration": edited(config=None),
    "a configuration that is refused": edited({"epochs": 0}),
    "a configuration of another class": edited(config=json.dumps({"format": FORMAT, "type": "AdamW"})),
    "a configuration nested without end": edited(config="[" * 60_000 + "]" * 60_000),
    "a configuration nested deeply": edited(
        config=json.dumps({"format": FORMAT, "type": "TrainConfig"})[:-1] + ', "phases": ' + "[" * 900 + "]" * 900 + "}"
    ),
    "no epoch": edited(epoch=None),
    "epoch beyond the end": edited(epoch=3),
    "epoch that is not the history's": edited(epoch=2),
    "epoch that is no number": edited(epoch="1"),
    "batch beyond the epoch": edited(batch=6),
    "batch negative": edited(batch=-1),
    "batch that the sums do not have": edited(batch=1),
    "time that is NaN": edited(seconds=math.nan),
    "time that is text": edited(asleep="3"),
    "nine classes": edited(network={"num_classes": 9, "input_size": [1, 8, 8]}),
    "half a size": edited(network={"num_classes": 10, "input_size": [1, 8]}),
    "no network": edited(network=None),
    "unknown entry": edited(brand_new=1),
    "history with an unknown field": in_history(lambda history: history.update(brand_new=1)),
    "history without layers": in_history(lambda history: history.pop("layers")),
    "history of a layer too many": in_history(lambda history: history["layers"].append("9")),
    "history without top1": in_history(lambda history: history["epochs"][0].pop("top1")),
    "history of numbers": in_history(lambda history: history.update(epochs=[1])),
    "history with a text": in_history(lambda history: history["epochs"][0].update(top1="90")),
    "negative count of phases": in_history(lambda history: history.update(sharings=-1)),
    "no moments": without("optimizer."),
    "one moment lacks": without("optimizer.0.weight.exp_avg_sq"),
    "a moment of another shape": replaced("optimizer.0.weight.exp_avg", lambda moment: torch.zeros(1)),
    "a moment of another type": replaced("optimizer.0.weight.exp_avg", torch.Tensor.double),
    "a count of steps of another shape": replaced("optimizer.0.weight.step", lambda step: step[None]),
    "a moment of another network": lambda tensors, metadata: tensors.update(
        {"optimizer.99.weight.exp_avg": torch.zeros(1)}
    ),
    "a weight lacks": without("model.0.weight"),
    "a weight of another type": replaced("model.0.weight", torch.Tensor.double),
    "a weight of another shape": replaced("model.0.weight", lambda weight: weight[:1]),
    "no sums": without("sums"),
    "sums of another shape": replaced("sums", lambda sums: sums[:2]),
    "sums of another number of images": replaced("sums", lambda sums: sums + 1),
    "no measurements": without("snr.values"),
    "measurements of fewer steps": replaced("snr.steps", lambda steps: steps[1:]),
}
FOR_RESUMING = ("epoch ", "batch ", "moment", "sums", "history ", "measurements", "negative count", "nine", "a count")


@pytest.mark.parametrize("fault", FOREIGN)
def test_a_foreign_or_inconsistent_checkpoint_is_refused_by_name(folders, tmp_path, fault):
    tensors, metadata = checkpoint.read(folders[1] / CHECKPOINT)
    FOREIGN[fault](tensors, metadata)
    path = tmp_path / CHECKPOINT
    checkpoint.write(path, tensors, metadata)
    remedy = r"(train the run anew|Put a copy in its place, or move it away|epochs must be .*)"
    with pytest.raises(UnreadableRunError, match=rf"{path} .*{remedy}"):
        run(tmp_path, resume=True)
    if not any(word in fault for word in FOR_RESUMING):
        with pytest.raises(UnreadableRunError, match=rf"{path} .*{remedy}"):
            trained_network(tmp_path)


def test_the_versions_that_are_refused_are_told_apart(folders, tmp_path):
    tensors, metadata = checkpoint.read(folders[1] / CHECKPOINT)
    for version, message in (
        (FORMAT + 1, f"a newer version of bioshare .* {FORMAT + 1};"),
        (1, "an older version"),
    ):
        changed = {**metadata, "config": json.dumps(json.loads(metadata["config"]) | {"format": version})}
        checkpoint.write(tmp_path / CHECKPOINT, tensors, changed)
        with pytest.raises(UnreadableRunError, match=f"{CHECKPOINT} was written by {message}"):
            run(tmp_path, resume=True)


def meanwhile(monkeypatch, action):
    """Let something happen between the first look at a folder and the lock."""
    lock = fitting.locked

    def late(folder, *names):
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "locked", lock)
            action(folder)
        return lock(folder, *names)

    monkeypatch.setattr(fitting, "locked", late)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_trained_before_the_lock_is_neither_taken_nor_changed(
    folders, tmp_path, monkeypatch, resume
):
    run(tmp_path / "straight", OTHER)
    meanwhile(monkeypatch, lambda folder: run(folder, OTHER))
    message = "seed was 1 and is now 0" if resume else f"{CHECKPOINT} is there. Go on from it"
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "late", resume=resume)
    assert_same_ending(tmp_path / "late", tmp_path / "straight")


def test_the_same_run_that_another_process_finished_before_the_lock_is_returned(tmp_path, monkeypatch):
    done = []
    meanwhile(monkeypatch, lambda folder: done.append(run(folder)))
    assert run(tmp_path, resume=True).identical(done[0])


def test_a_checkpoint_of_another_configuration_is_refused_wherever_it_is_restored(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_check_folder", lambda *_: None)
    (tmp_path / CHECKPOINT).write_bytes((folders[1] / CHECKPOINT).read_bytes())
    with pytest.raises(ValueError, match="seed was 0 and is now 1"):
        run(tmp_path, OTHER)
    assert (tmp_path / CHECKPOINT).read_bytes() == (folders[1] / CHECKPOINT).read_bytes()


PLACES = {
    "weight": (lambda run: run.model[0].weight, r"a weight is no longer .*model\.0\.weight"),
    "buffer": (lambda run: run.model[1].running_var, r"a buffer is no longer .*model\.1\.running_var"),
    "moment": (
        lambda run: run.optimizer.state[run.model[8].weight]["exp_avg"],
        r"a moment .*optimizer\.8\.weight\.exp_avg",
    ),
    "square": (lambda run: run.optimizer.state[run.model[8].bias]["exp_avg_sq"], r"a moment .*8\.bias\.exp_avg_sq"),
}


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("place", PLACES)
def test_no_number_that_is_not_finite_reaches_a_checkpoint(tmp_path, monkeypatch, place, number):
    find, message = PLACES[place]
    take, good = training.Run.step, []

    def breaking(self, x, y):
        take(self, x, y)
        if self.steps == 4:
            good.append((tmp_path / CHECKPOINT).read_bytes())
            with torch.no_grad():
                find(self)[(0,) * find(self).ndim] = number

    monkeypatch.setattr(training.Run, "step", breaking)
    with pytest.raises(TrainingDivergedError, match=f"{message}.*Try a smaller learning_rate") as stopped:
        run(tmp_path, checkpoint_every=0)
    assert (stopped.value.epoch, stopped.value.step) == (0, 3)
    assert (tmp_path / CHECKPOINT).read_bytes() == good[0]
    assert all(tensor.isfinite().all() for name, tensor in weights(tmp_path).items() if "snr" not in name)
    monkeypatch.setattr(training.Run, "step", take)
    run(tmp_path, resume=True)
    run(tmp_path / "straight")
    assert_same_ending(tmp_path, tmp_path / "straight")


def test_a_buffer_that_is_infinite_by_design_is_saved(tmp_path, monkeypatch):
    def masked(*sizes, **options):
        model = tiny(*sizes, **options)
        model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        return model

    monkeypatch.setitem(ARCHITECTURES, "resnet20", masked)
    run(tmp_path)
    assert weights(tmp_path)["model.mask"].tolist() == [0, -math.inf]
    for place, number in ((0, math.nan), (0, -math.inf), (1, math.nan), (1, math.inf)):
        with monkeypatch.context() as patch:
            take = training.Run.step

            def step(self, x, y, take=take, place=place, number=number):
                take(self, x, y)
                self.model.mask[place] = number

            patch.setattr(training.Run, "step", step)
            with pytest.raises(TrainingDivergedError, match=r"a buffer is no longer finite.*model\.mask"):
                run(tmp_path / f"{place} {number}")
            assert not (tmp_path / f"{place} {number}" / CHECKPOINT).exists()


def test_a_test_loss_that_is_not_finite_reaches_no_file(tmp_path, monkeypatch):
    class Overflow(torch.nn.Module):
        def forward(self, x):
            return x if self.training or first else x * math.inf

    first = True
    monkeypatch.setitem(ARCHITECTURES, "resnet20", lambda *sizes, **options: tiny(*sizes, **options).append(Overflow()))
    take = training.Run.finish_epoch

    def finish_epoch(self, tests):
        nonlocal first
        first = self.epoch == 0
        take(self, tests)

    monkeypatch.setattr(training.Run, "finish_epoch", finish_epoch)
    with pytest.raises(TrainingDivergedError, match=r"the loss of the test images is no longer finite in epoch 2"):
        run(tmp_path, checkpoint_every=0)
    metadata = checkpoint.read_metadata(tmp_path / CHECKPOINT)
    assert [metadata["epoch"], metadata["batch"]] == [1, 5]
    assert all(math.isfinite(epoch["test_loss"]) for epoch in metadata["history"]["epochs"])
    assert np.isfinite(read_result(tmp_path / RESULT).test_loss).all()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", [CHECKPOINT, RESULT])
def test_a_named_pipe_or_a_folder_in_the_place_of_a_file_is_refused(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(UnreadableRunError, match=rf"{name} must be a regular file.*Move it away"):
        run(tmp_path, resume=True)
    if name == CHECKPOINT:
        with pytest.raises(UnreadableRunError, match=rf"{name} must be a regular file.*Move it away"):
            trained_network(tmp_path)


@contextlib.contextmanager
def files_of_at_most(size):
    """No file can grow beyond a size, as on a full disk: the error is the operating system's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_for_a_while_postpones_the_checkpoint(folders, tmp_path, monkeypatch, capsys):
    take, full = training.Run.step, contextlib.ExitStack()

    def step(self, x, y):
        take(self, x, y)
        if self.steps == 3:
            full.enter_context(files_of_at_most(1000))
        if self.steps == 6:
            full.close()

    monkeypatch.setattr(training.Run, "step", step)
    monkeypatch.setattr(fitting, "PUBLISH_EVERY", 0.0)
    with full:
        run(tmp_path, checkpoint_every=0)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 4  # three checkpoints, and the result of the first epoch
    for line, name in zip(warnings, [CHECKPOINT, CHECKPOINT, CHECKPOINT, RESULT], strict=True):
        assert line.startswith("warning: [Errno 27] File too large")
        assert str(tmp_path / name) in line
    assert_same_ending(tmp_path, folders[0])


def test_a_disk_that_is_full_at_the_end_leaves_the_result_and_the_last_checkpoint(folders, tmp_path, monkeypatch):
    sizes = [(folders[0] / name).stat().st_size for name in (RESULT, CHECKPOINT)]
    assert sizes[0] < sizes[1]
    full = contextlib.ExitStack()
    stop_at(monkeypatch, 8, lambda: full.enter_context(files_of_at_most(sum(sizes) // 2)))
    with full, pytest.raises(OSError, match=rf"File too large.*{tmp_path / CHECKPOINT}"):
        run(tmp_path, checkpoint_every=0)
    assert checkpoint.read_metadata(tmp_path / CHECKPOINT)["batch"] == 3
    assert read_result(tmp_path / RESULT).top1.equals(read_result(folders[0] / RESULT).top1)
    monkeypatch.undo()
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)
    run(tmp_path, resume=True)  # the weights of the end are still to be made
    assert_same_ending(tmp_path, folders[0])


def test_a_clock_that_stands_still_stops_no_run(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    result = run(tmp_path)
    assert np.isnan(result.images_per_second).all()
    assert_same_ending(tmp_path, folders[0])


def test_a_run_does_not_go_on_with_other_images_of_the_same_name(tmp_path):
    def prepared(seed):
        rng = np.random.default_rng(seed)
        for part, name in ((part, name) for part in ("train", "val") for name in "ab"):
            for index in range(8):
                path = tmp_path / "in" / part / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
        prepare("noise", tmp_path / "in", tmp_path, own_images(8), progress=False)

    config = dataclasses.replace(CONFIG, dataset=OwnImages("noise"), train_images=None, batch_size=4)
    prepared(0)
    interrupt(tmp_path / "run", 1, config, data=tmp_path)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    prepared(1)
    with pytest.raises(ValueError, match=r"the images of noise must be those of the run in .*Prepare the same images"):
        run(tmp_path / "run", config, data=tmp_path, resume=True)
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before
    prepared(0)
    result = run(tmp_path / "run", config, data=tmp_path, resume=True)
    assert result.attrs["images"] == load("noise", tmp_path).checksum
    run(tmp_path / "straight", config, data=tmp_path)
    assert_same_ending(tmp_path / "run", tmp_path / "straight")
