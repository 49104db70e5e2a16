"""Batches that a network can't learn from are refused before training."""

import dataclasses

import pytest
import torch
from tiny_runs import CONFIG, run, tiny
from torch import nn

from bioshare.train import run as training
from bioshare.train.batch_norm import check_single_image
from bioshare.train.config import ARCHITECTURES, LocallyConnected

FIELDS = {"phases": (), "network": LocallyConnected(), "epochs": 1, "batch_size": 32}


def pooled(classes, in_channels):
    """A network whose batch normalisation sees one value per image and channel, as in ResNet-18 on small images."""
    layers = nn.Conv2d(in_channels, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, classes))


@pytest.mark.parametrize("fields", [{"train_images": 33}, {"train_images": 8, "batch_size": 1}])
def test_a_last_batch_of_one_image_is_refused_before_training(tmp_path, monkeypatch, fields):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", pooled)
    monkeypatch.setattr(training.Run, "step", lambda *_: pytest.fail("training has begun"))
    config = dataclasses.replace(CONFIG, **FIELDS | fields)
    message = f"batch_size={config.batch_size} leaves a single one of {config.train_images} images"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "fields"),
    [(pooled, {"train_images": 34}), (pooled, {"train_images": 33, "repetitions": 2}), (tiny, {"train_images": 33})],
)
def test_other_last_batches_are_learned(tmp_path, monkeypatch, network, fields):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", network)
    result = run(tmp_path, dataclasses.replace(CONFIG, **FIELDS | fields))
    assert result.sizes["epoch"] == 1


def test_the_check_of_a_single_image_leaves_the_buffers_alone():
    model = tiny(10, 1)
    before = [buffer.clone() for buffer in model.buffers()]
    check_single_image(model, (1, 8, 8))
    assert all(map(torch.equal, model.buffers(), before))
