"""A configuration refuses what makes no sense, and names the field."""

import dataclasses
import math

import pytest

from bioshare.bridge import InstantSharing, Sleep
from bioshare.train.config import AdamW, Convolutional, Every, ImageData, ImageNet, LocallyConnected, TrainConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "svhn"}, "dataset must be one of 'cifar10', .*; got 'svhn'"),
        ({"dataset": ["cifar10"]}, "dataset must be an object of type ImageData or ImageNet or OwnImages; got"),
        (
            {"network": "resnet20"},
            "network must be an object of type Convolutional or LocallyConnected or Network; got 'resnet20'",
        ),
        ({"optimizer": 0.1}, "optimizer must be an object of type AdamW or Adam or SGD; got 0.1"),
        ({"flip": "yes"}, "flip must be one of None, True, False; got 'yes'"),
        ({"compile": 1}, "compile must be one of True, False; got 1"),
        ({"validation": "x"}, "validation must be one of True, False; got 'x'"),
        ({"precision": "fp8"}, "precision must be one of 'auto', 'fp32', 'fp16', 'bf16'; got 'fp8'"),
        ({"milestones": 0.5}, "milestones must be a tuple of numbers; got 0.5"),
        ({"milestones": ("0.5",)}, "milestones must be a tuple of numbers; got"),
        ({"milestones": (0.5, 1.5)}, "milestones must be increasing fractions between 0 and 1; got"),
        ({"milestones": (0.5, 0.25)}, "milestones must be increasing fractions between 0 and 1; got"),
        ({"phases": (InstantSharing(),)}, "phases must be a tuple of Every; got"),
        ({"phases": Every(1, InstantSharing())}, "phases must be a tuple of Every; got"),
        ({"epochs": 2.0}, "epochs must be a number of epochs; got 2.0"),
        ({"epochs": 0}, "epochs must be a number of epochs, at least 1; got 0"),
        ({"seed": -1}, "seed must be an integer, at least 0; got -1"),
        ({"train_images": 0}, "train_images must be a number of images or None, at least 1; got 0"),
        ({"padding": -1}, "padding must be a number of pixels, at least 0; got -1"),
        ({"batch_size": 100, "repetitions": 3}, "batch_size must be a multiple of repetitions=3; got 100"),
    ],
)
def test_a_field_of_the_wrong_kind_or_size_is_named(fields, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        TrainConfig(**fields)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda: AdamW(learning_rate="0.1"), "learning_rate must be a finite rate > 0; got '0.1'"),
        (lambda: AdamW(learning_rate=True), "learning_rate must be a finite rate > 0; got True"),
        (lambda: AdamW(learning_rate=math.nan), "learning_rate must be a finite rate > 0; got nan"),
        (lambda: AdamW(learning_rate=0), "learning_rate must be a finite rate > 0; got 0"),
        (lambda: AdamW(weight_decay=-1), "weight_decay must be a finite number >= 0; got -1"),
        (lambda: Convolutional("resnet50"), "architecture must be one of 'resnet8', .*, 'resnet18'; got 'resnet50'"),
        (lambda: Convolutional(width=0.0), "width must be None or a positive factor of the channels; got 0"),
        (lambda: LocallyConnected(width=-1.0), "width must be None or a positive factor of the channels; got -1"),
        (lambda: LocallyConnected(start="equal"), "start must be one of 'independent', 'copy'; got 'equal'"),
        (lambda: LocallyConnected(keep_first=-1), "keep_first must be a number of convolutions, at least 0; got -1"),
        (lambda: LocallyConnected(normalisation="none"), "normalisation must be one of 'batch', 'lateral'; got 'none'"),
        (lambda: ImageNet("whole"), "crop must be one of 'resized', 'random-resized'; got 'whole'"),
        (lambda: Every("3", InstantSharing()), "every must be a number of batches; got '3'"),
        (lambda: Every(0, InstantSharing()), "every must be a number of batches, at least 1; got 0"),
        (lambda: Every(3, InstantSharing(), "year"), "count must be one of 'epoch', 'run'; got 'year'"),
        (lambda: Every(3, InstantSharing(), first=-2), "first must be the number of a batch, .*; got -2"),
        (lambda: Every(3, InstantSharing(), first=1.0), "first must be the number of a batch, .*; got 1"),
        (lambda: Every(3, "instant"), "phase must be a Phase, such as .*; got 'instant'"),
    ],
)
def test_a_wrong_field_of_a_part_is_named(part, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        part()


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (Every(10, InstantSharing(), first=-1), 8),  # 8, 18, ..., 78 of 79
        (Every(10, InstantSharing(), "run", 0.5), 2370),
        (Every(10, InstantSharing(), first=0.5), 40),
        (Every(10, InstantSharing(), first=78), 78),
    ],
)
def test_a_first_batch_is_a_number_or_a_part(every, expected):
    assert every.first_of(79, 60) == expected


@pytest.mark.parametrize(("count", "first"), [("epoch", 79), ("run", 79 * 60)])
def test_a_phase_that_would_never_come_is_refused(count, first):
    with pytest.raises(ValueError, match=f"^first must be a batch of the {first} of the {count}, from 0; got {first}"):
        Every(10, InstantSharing(), count, first).first_of(79, 60)


def test_a_name_is_short_for_a_data_set():
    assert TrainConfig(dataset="digits").dataset == ImageData("digits")
    assert TrainConfig(dataset="imagenet") == TrainConfig(dataset=ImageNet())
    assert [TrainConfig(dataset=name).dataset_name for name in ("digits", "imagenet")] == ["digits", "imagenet"]


def test_equal_configurations_have_one_hash():
    sleeping = lambda: TrainConfig(phases=(Every(3, Sleep.rate_circuit(pool=2)),))
    assert sleeping() == sleeping()
    assert hash(sleeping()) == hash(sleeping())
    assert sleeping() != dataclasses.replace(sleeping(), seed=1)
