"""Runs of a tiny network on digits, and what stops them."""

import dataclasses
import os
import signal

import pytest
import torch
import xarray as xr
from torch import nn

from bioshare.bridge import InstantSharing
from bioshare.train import checkpoint
from bioshare.train import run as training
from bioshare.train.config import Every, LocallyConnected, TrainConfig
from bioshare.train.fitting import CHECKPOINT, RESULT, fit
from bioshare.train.interrupt import Interrupted
from bioshare.train.phases import phase_of

CONFIG = TrainConfig(
    dataset="digits", network=LocallyConnected(), phases=(Every(3, InstantSharing()),), epochs=2, batch_size=32,
    train_images=150, padding=1,
)  # fmt: skip
"""Five batches an epoch, the last of 22 images."""
CLOCKS = ["seconds", "sleep_seconds", "images_per_second", "test_seconds"]


def tiny(classes, in_channels):
    """A network with all that a residual network has to be restored, in a thousandth of the time."""
    convolution = lambda inputs, outputs, stride: nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(
        convolution(in_channels, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), convolution(4, 6, 2), nn.BatchNorm2d(6),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, classes),
    )  # fmt: skip


def varied(options=None, n=3, count="epoch", first=0, **fields):
    """The run with another phase, or the options of one, and other fields."""
    phase = phase_of(options or InstantSharing(), fields.get("seed", 0))
    return dataclasses.replace(CONFIG, phases=(Every(n, phase, count, first),), **fields)


def run(folder, config=CONFIG, **options):
    return fit(config, folder, **{"device": "cpu", "progress": False} | options)


def weights(folder):
    return checkpoint.read(folder / CHECKPOINT)[0]


def assert_same_ending(folder, other):
    """The same checkpoint and the same history but for the clock."""
    # a layer without sharing groups has NaN for its SNR in both
    torch.testing.assert_close(weights(folder), weights(other), rtol=0, atol=0, equal_nan=True)
    with xr.open_dataset(folder / RESULT) as result, xr.open_dataset(other / RESULT) as reference:
        xr.testing.assert_equal(result.drop_vars(CLOCKS), reference.drop_vars(CLOCKS))
        assert result.attrs["sharings"] == reference.attrs["sharings"]


def stop_at(monkeypatch, step, action):
    """Do something right after a step of the run."""
    take = training.Run.step

    def watched(self, x, y):
        take(self, x, y)
        if self.steps - 1 == step:
            action()

    monkeypatch.setattr(training.Run, "step", watched)


def interrupt(folder, step, config=CONFIG, number=signal.SIGTERM, **options):
    """Run until a signal comes in a step, and what that raised."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted) as stopped:
            run(folder, config, **options)
    return stopped.value
