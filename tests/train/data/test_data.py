import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bioshare.train import data
from bioshare.train.config import TrainConfig
from bioshare.train.data import datasets
from bioshare.train.data.prepared import write_prepared
from bioshare.train.seeds import PURPOSES, seeded

CPU = torch.device("cpu")


def make_dataset(name="cifar10", images=20, tests=7, side=32, channels=3):
    """Random pixels, no two images alike."""
    pixels = np.random.default_rng(1).integers(0, 256, (images + tests, channels, side, side), dtype=np.uint8)
    pixels, labels = torch.from_numpy(pixels), torch.arange(images + tests)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    classes = tuple(map(str, range(images + tests)))
    return data.Dataset(name, classes, pixels[:images], labels[:images], pixels[images:], labels[images:], mean, std)


SMALL = make_dataset()
DIGITS = data.load("digits")


def config(**fields):
    return TrainConfig(**({"batch_size": 8} | fields))


def batches(dataset=SMALL, epoch=0, start=0, rank=0, world=1, **fields):
    return list(data.training_batches(dataset, config(**fields), CPU, rank, world).epoch(epoch, start))


def whole(found):
    """All images and labels of some batches."""
    images, labels = zip(*found, strict=True)
    return torch.cat(images), torch.cat(labels)


def normalised(dataset, images):
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
    return ((images.double() / 255 - mean) / std).float()


def assert_same(found, expected):
    assert len(found) == len(expected)
    for (images, labels), (other_images, other_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def window(image, frame):
    """Row, column and mirroring with which an image (C, h, w) was cut from its frame (C, H, W)."""
    side, found = image.shape[-1], []
    for mirrored, row, column in itertools.product((False, True), *[range(frame.shape[-1] - side + 1)] * 2):
        cut = frame[:, row : row + side, column : column + side]
        if torch.allclose(image, cut.flip(-1) if mirrored else cut, atol=1e-5):
            found.append((row, column, mirrored))
    assert len(found) == 1
    return found[0]


def windows(found, frames):
    return [
        window(image, frames[label]) for images, labels in found for image, label in zip(images, labels, strict=True)
    ]


# Crops


def test_without_padding_images_are_normalised_and_nothing_else():
    images, labels = whole(batches(padding=0))
    torch.testing.assert_close(images, normalised(SMALL, SMALL.train_images)[labels])
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_crops_are_windows_of_the_image_in_a_border_of_zeros_and_lie_everywhere():
    frames = torch.nn.functional.pad(normalised(SMALL, SMALL.train_images), (2,) * 4)
    places = windows([batch for epoch in range(8) for batch in batches(epoch=epoch, padding=2)], frames)
    assert {row for row, _, _ in places} == {column for _, column, _ in places} == set(range(5))
    assert len({place[:2] for place in places}) == 25
    assert not any(mirrored for *_, mirrored in places)


def test_tinyimagenet_is_cropped_from_its_centre():
    dataset = make_dataset("tinyimagenet", images=6, side=64)
    centre = normalised(dataset, dataset.train_images)[..., 5:-5, 5:-5]
    found = [batch for epoch in range(3) for batch in batches(dataset, epoch=epoch, padding=3)]
    assert found[0][0].shape == (6, 3, 48, 48)
    assert len(set(windows(found, centre))) > 6
    assert dataset.input_size == (3, 48, 48)


def test_tinyimagenet_has_no_more_padding_than_its_images():
    dataset = make_dataset("tinyimagenet", images=6, side=64)
    assert len(batches(dataset, padding=8)) == 1
    with pytest.raises(ValueError, match=r"padding must be at most 8 for tinyimagenet.*; got 9"):
        batches(dataset, padding=9)


@pytest.mark.parametrize(("flip", "shares"), [(True, (0.3, 0.7)), (False, (0, 0)), (None, (0, 0))])
def test_half_of_the_images_are_mirrored_if_asked(flip, shares):
    images = normalised(SMALL, SMALL.train_images)
    places = windows([batch for epoch in range(4) for batch in batches(epoch=epoch, padding=0, flip=flip)], images)
    assert shares[0] <= np.mean([mirrored for *_, mirrored in places]) <= shares[1]


# Order


def test_an_epoch_sees_every_image_once_and_in_its_own_order():
    orders = [whole(batches(epoch=epoch, seed=seed))[1] for epoch, seed in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert all(sorted(order.tolist()) == list(range(20)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_repetitions_stand_in_a_row_in_crops_of_their_own():
    found = batches(batch_size=12, repetitions=4, padding=4)
    maker = data.training_batches(SMALL, config(batch_size=12, repetitions=4), CPU)
    assert len(maker) == len(found) == 7
    assert maker.images == 20
    assert [len(labels) for _, labels in found] == [12] * 6 + [8]
    images, labels = (tensor.view(20, 4, *tensor.shape[1:]) for tensor in whole(found))
    assert (labels == labels[:, :1]).all()
    assert sorted(labels[:, 0].tolist()) == list(range(20))
    assert sum(not torch.equal(image[0], image[1]) for image in images) > 15


@given(
    images=st.integers(1, 20),
    different=st.integers(1, 9),
    repetitions=st.integers(1, 3),
    start=st.integers(0, 21),
    epoch=st.integers(0, 3),
)
def test_resuming_is_jumping(images, different, repetitions, start, epoch):
    fields = {"batch_size": different * repetitions, "repetitions": repetitions, "train_images": images}
    found = batches(epoch=epoch, **fields)
    assert len(found) == -(-images // different)
    assert_same(batches(epoch=epoch, start=start, **fields), found[start:])


@given(world=st.integers(1, 5), batch_size=st.integers(1, 11), validation=st.booleans())
def test_the_parts_of_all_processes_are_the_batch_of_one(world, batch_size, validation):
    settings, dataset = config(batch_size=batch_size), SMALL
    for make in (data.training_batches, data.test_batches):
        parts = zip(*(make(dataset, settings, CPU, rank, world).epoch(2) for rank in range(world)), strict=True)
        expected = list(make(dataset, settings, CPU).epoch(2))
        for part, batch in zip(parts, expected, strict=True):
            sizes = [len(labels) for _, labels in part]
            assert max(sizes) - min(sizes) <= 1
            assert_same([whole(part)], [batch])


def test_the_same_batches_come_twice_and_no_global_generator_is_touched():
    state, numpy_state = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    assert_same(batches(), batches())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002


def test_a_rank_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="rank must be from 0 to world - 1 = 1; got 2"):
        data.training_batches(SMALL, config(), CPU, rank=2, world=2)


def test_every_purpose_seed_and_moment_has_numbers_of_its_own():
    keys = [
        *itertools.product(PURPOSES, (0, 1, 2**32, 2**32 + 1)),
        *itertools.product(PURPOSES, (0, 1), (0, 1), (0, 1)),
    ]
    assert len({seeded(*key).integers(2**63) for key in keys}) == len(keys)


# Which images


def chosen(**fields):
    return sorted(whole(batches(**fields))[1].tolist())


def test_a_subset_depends_on_the_seed_and_stays_the_same_in_all_epochs():
    assert chosen(train_images=9, epoch=0) == chosen(train_images=9, epoch=1)
    assert len(set(chosen(train_images=9))) == 9
    assert chosen(train_images=9, seed=0) != chosen(train_images=9, seed=1)
    with pytest.raises(ValueError, match="train_images must be at most 20 here; got 21"):
        batches(train_images=21)


def labels_of(make, dataset, **fields):
    return set(whole(make(dataset, config(batch_size=1000, **fields), CPU).epoch(0))[1].tolist())


def test_validation_images_are_held_out_whatever_the_seed():
    images = len(DIGITS.train_labels)
    names = tuple(map(str, range(images)))
    numbered = dataclasses.replace(DIGITS, train_labels=torch.arange(images), classes=names)
    held_out = labels_of(data.test_batches, numbered, validation=True)
    assert len(held_out) == 287
    assert held_out == labels_of(data.test_batches, numbered, validation=True, seed=1)
    assert labels_of(data.training_batches, numbered, validation=True) == set(range(images)) - held_out
    assert labels_of(data.training_batches, numbered) == set(range(images))
    subset = labels_of(data.training_batches, numbered, validation=True, train_images=1000)
    assert len(subset) == 1000
    assert not subset & held_out


def test_the_validation_splits_are_the_papers():
    sizes = {name: usage.validation for name, usage in datasets.USAGES.items()}
    assert sizes == {
        "cifar10": 5000,
        "cifar10-jpeg": 5000,
        "cifar100": 5000,
        "cifar10-16": 5000,
        "cifar10-jpeg-16": 5000,
        "mnist": 5000,
        "tinyimagenet": 10_000,
        "imagenet": 10_000,
        "digits": 287,
    }
    with pytest.raises(ValueError, match="holds out 5000 images; cifar10 has only 20 here"):
        batches(validation=True)


@pytest.mark.parametrize(("name", "side", "cut"), [("cifar10", 32, 0), ("tinyimagenet", 64, 8)])
def test_test_images_come_in_order_from_the_centre(name, side, cut):
    dataset = make_dataset(name, side=side)
    maker = data.test_batches(dataset, config(batch_size=4, repetitions=2, seed=3, flip=True), CPU)
    images, labels = whole(maker.epoch(5))
    assert (len(maker), maker.images) == (2, 7)
    assert torch.equal(labels, dataset.test_labels)
    centre = dataset.test_images[..., cut : side - cut, cut : side - cut]
    torch.testing.assert_close(images, normalised(dataset, centre))


# Loading


def test_digits_need_no_file():
    assert DIGITS.input_size == (1, 8, 8)
    assert (len(DIGITS.train_labels), len(DIGITS.test_labels)) == (1437, 360)
    assert DIGITS.train_images.max() == 255
    assert torch.bincount(torch.cat([DIGITS.train_labels, DIGITS.test_labels])).min() == 174
    assert torch.equal(data.load("digits").train_images, DIGITS.train_images)
    images, _ = whole(batches(DIGITS, batch_size=1437, padding=0))
    assert abs(images.mean()) < 1e-5
    assert abs(images.std(correction=0) - 1) < 1e-5


FACTS = {"name": "cifar10", "classes": list(SMALL.classes), "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def small_file(path, images=SMALL.train_images, **facts):
    """A prepared file whose training and test images are the same."""
    tensors = {"images": images, "labels": torch.arange(len(images))}
    parts = {f"{part}_{kind}": tensor.clone() for part in ("train", "test") for kind, tensor in tensors.items()}
    write_prepared(path, parts, FACTS | facts)


def test_a_prepared_file_is_loaded(tmp_path, monkeypatch):
    small_file(tmp_path / "cifar10.safetensors")
    monkeypatch.setenv("BIOSHARE_DATA", str(tmp_path))
    for dataset in (data.load("cifar10"), data.load("cifar10", tmp_path)):
        assert torch.equal(dataset.train_images, SMALL.train_images)
        assert torch.equal(dataset.test_labels, torch.arange(20))
        assert (dataset.classes, dataset.mean, dataset.std) == (SMALL.classes, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        assert dataset.input_size == (3, 32, 32)


def test_tinyimagenet_is_normalised_as_imagenet(tmp_path):
    pixels = make_dataset("tinyimagenet", side=64).train_images
    small_file(tmp_path / "tinyimagenet.safetensors", pixels, name="tinyimagenet")
    dataset = data.load("tinyimagenet", tmp_path)
    assert (dataset.mean, dataset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_file_that_is_not_there_comes_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m bioshare prepare cifar100 --from PATH --to"):
        data.load("cifar100", tmp_path)
    with pytest.raises(ValueError, match=r"name must be one of cifar10, .*; got 'cifar'"):
        data.load("cifar")
