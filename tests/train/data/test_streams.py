import dataclasses
import io
import itertools
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bioshare.train import data
from bioshare.train.config import ImageNet, TrainConfig
from bioshare.train.data import datasets, streams
from bioshare.train.data.images import Encoded, random_resized_crop, resized_crop
from bioshare.train.data.prepare import SOURCES, prepare

CPU = torch.device("cpu")


def whole(found):
    """All images and labels of some batches."""
    images, labels = zip(*found, strict=True)
    return torch.cat(images), torch.cat(labels)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for (images, labels), (other_images, other_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Four training and two test images of different sizes; the data set, and the pixels by class and part."""
    folder, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(2)
    sizes = {"train/a/1": (300, 256), "train/a/2": (257, 256), "train/b/1": (256, 270), "train/b/2": (260, 290)}
    for name, size in (sizes | {"val/a/1": (256, 256), "val/b/1": (512, 600)}).items():
        path = folder / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path, "JPEG")
    source = dataclasses.replace(SOURCES["imagenet"], classes=2, images={"train": 4, "test": 2})
    prepare("imagenet", folder, folder, source, progress=False)
    return data.load("imagenet", folder)


def streamed(imagenet, workers=0, epoch=0, start=0, rank=0, world=1, **fields):
    fields = {"dataset": "imagenet", "batch_size": 3, "padding": 0} | fields
    maker = data.training_batches(imagenet, TrainConfig(**fields), CPU, rank, world)
    return list(dataclasses.replace(maker, workers=workers).epoch(epoch, start))


def resized(path):
    """The image of 256 pixels at its smaller side, normalised as ImageNet."""
    with Image.open(path) as picture:
        scale = 256 / min(picture.size)
        picture = picture.resize([int(length * scale) for length in picture.size], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).double() / 255
    mean, std = torch.tensor(datasets.IMAGENET_STATISTICS)[..., None, None]
    return ((pixels - mean) / std).float()


def assert_cut_from(image, frames):
    """The image is a window of one of the frames, mirrored or not; returns whether it is mirrored."""
    for frame, mirrored in itertools.product(frames, (False, True)):
        views = frame.unfold(1, 224, 1).unfold(2, 224, 1).permute(1, 2, 0, 3, 4)
        corner = (image.flip(-1) if mirrored else image)[:, :8, :8]
        near = torch.nonzero((views[..., :8, :8] - corner).abs().amax((2, 3, 4)) < 1e-3)
        for row, column in near:
            cut = views[row, column]
            if torch.allclose(cut.flip(-1) if mirrored else cut, image, atol=1e-5):
                return mirrored
    raise AssertionError("no such window")


def test_imagenet_is_streamed_in_random_crops(imagenet):
    frames = {label: [] for label in (0, 1)}
    for path in sorted(Path(imagenet.train_images.folder).glob("train/*/*")):
        frames["ab".index(path.parent.name)].append(resized(path))
    found = [batch for epoch in range(3) for batch in streamed(imagenet, epoch=epoch)]
    assert [images.shape for images, _ in found] == [(3, 3, 224, 224), (1, 3, 224, 224)] * 3
    images, labels = whole(found)
    mirrored = {assert_cut_from(image, frames[label.item()]) for image, label in zip(images, labels, strict=True)}
    assert mirrored == {False, True}
    assert torch.bincount(labels).tolist() == [6, 6]


def test_imagenet_is_tested_on_the_centre(imagenet):
    maker = data.test_batches(imagenet, TrainConfig(dataset="imagenet", batch_size=2), CPU)
    ((images, labels),) = dataclasses.replace(maker, workers=0).epoch(0)
    assert labels.tolist() == [0, 1]
    folder = Path(imagenet.test_images.folder)
    torch.testing.assert_close(images[0], resized(folder / "val/a/1.JPEG")[:, 16:240, 16:240])
    second = resized(folder / "val/b/1.JPEG")  # 300 rows, 256 columns
    torch.testing.assert_close(images[1], second[:, 38:262, 16:240])


def test_imagenet_is_the_same_for_any_number_of_workers_and_from_any_batch_on(imagenet):
    state = torch.random.get_rng_state()
    found = streamed(imagenet, epoch=1)
    assert_same(streamed(imagenet, workers=2, epoch=1), found)
    assert_same(streamed(imagenet, epoch=1, start=1), found[1:])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_imagenet_is_divided_among_processes_even_when_one_gets_nothing(imagenet):
    parts = [streamed(imagenet, rank=rank, world=2) for rank in (0, 1)]
    assert [len(labels) for _, labels in parts[0] + parts[1]] == [1, 0, 2, 1]
    assert parts[0][1][0].shape == (0, 3, 224, 224)
    assert_same([whole(part) for part in zip(*parts, strict=True)], streamed(imagenet))


def test_a_subset_of_imagenet_is_a_part_of_it(imagenet):
    numbered = dataclasses.replace(imagenet, train_labels=torch.arange(4), classes=("a", "b", "c", "d"))
    subsets = [{*whole(streamed(numbered, train_images=2, seed=seed))[1].tolist()} for seed in range(5)]
    assert {len(subset) for subset in subsets} == {2}
    assert len(set(map(frozenset, subsets))) > 1


def copied(imagenet, folder):
    """The data set with its training images in another folder."""
    shutil.copytree(Path(imagenet.train_images.folder, "train"), folder / "train")
    return dataclasses.replace(imagenet, train_images=dataclasses.replace(imagenet.train_images, folder=str(folder)))


FAULTS = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "vanished": lambda path: path.unlink(),
    "a program": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_that_went_bad_is_named_in_one_line(imagenet, tmp_path, workers, fault):
    dataset = copied(imagenet, tmp_path)
    FAULTS[fault](tmp_path / "train/b/2.JPEG")
    with pytest.raises(ValueError, match=r"train/b/2.JPEG is not an image that can be read") as caught:
        streamed(dataset, workers)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="workers are forked on POSIX")
def test_a_killed_decoding_worker_is_told_in_one_line(imagenet, monkeypatch):
    """The worker kills itself, as the system does for lack of memory."""
    me = os.getpid()

    def fatal(*arguments):
        if os.getpid() != me:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(streams, "resized_crop", fatal)
    with pytest.raises(ChildProcessError, match=r"a process that decodes images was killed.*--resume") as caught:
        streamed(imagenet, workers=1)
    assert "\n" not in str(caught.value)


def test_grey_images_of_imagenet_become_rgb(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.arange(300 * 260, dtype=np.uint8).reshape(300, 260)).save(stream, "JPEG")
    crop = resized_crop(Encoded("grey", stream.getvalue()), 256, 224, 0.999, 0.0)
    assert crop.shape == (3, 224, 224)
    assert (crop == crop[:1]).all()


def test_random_resized_crops_have_the_size_and_place_that_their_draws_say(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = Encoded(str(tmp_path / "a.png"))
    crop = lambda *draws: random_resized_crop(image, 20, *draws)
    assert (crop(0.5, 0.999, 0.0, 0.5) == 255).all()  # 40 x 40 pixels on the right
    assert (crop(0.5, 0.0, 0.0, 0.5) == 0).all()
    whole = crop(0.5, 0.5, 1.0, 0.5)  # 141 x 141, of which 100 rows are there: 70 columns each side of the edge
    assert (whole[:, :, :9] == 0).all()
    assert (whole[:, :, 11:] == 255).all()
    wide, tall = (crop(0.5, 0.56, 0.0, aspect)[0, 0] for aspect in (1.0, 0.0))
    assert 0 < (tall < 128).sum() < (wide < 128).sum() < 10  # of 46 columns 14 are dark, of 35 columns 8


def test_imagenet_in_random_resized_crops_differs_and_is_mirrored_alike(imagenet):
    plain, random = streamed(imagenet), streamed(imagenet, dataset=ImageNet("random-resized"))
    for (images, labels), (others, same) in zip(plain, random, strict=True):
        assert torch.equal(labels, same)
        assert images.shape == others.shape
        assert not torch.allclose(images, others, atol=0.1)
    assert_same(streamed(imagenet, dataset=ImageNet("random-resized")), random)
