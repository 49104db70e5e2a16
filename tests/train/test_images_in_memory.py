"""Runs on images in memory: arrays, tensors and datasets of PyTorch."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import CONFIG, assert_same_ending, interrupt, run, tiny
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import TensorDataset

from bioshare.train.config import ARCHITECTURES, OwnImages
from bioshare.train.data import load, own_data

DIGITS: Any = load("digits")
TRAIN, TEST = (DIGITS.train_images[:64], DIGITS.train_labels[:64]), (DIGITS.test_images[:32], DIGITS.test_labels[:32])
MINE = dataclasses.replace(CONFIG, dataset=OwnImages("mine"), train_images=None, batch_size=16)


class Pictures(MapDataset):
    """Pictures of Pillow, as torchvision's data sets have without a transform."""

    def __init__(self, images, labels, mode="L"):
        self.pictures = [Image.fromarray(image[0].numpy()).convert(mode) for image in images]
        self.labels = labels

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index], int(self.labels[index])


FORMS = {
    "tensors": (*TRAIN, *TEST),
    "arrays": [np.asarray(part) for part in (*TRAIN, *TEST)],
    "other arrays": (TRAIN[0].numpy()[:, :, ::-1][:, :, ::-1], TRAIN[1].to(torch.int16), TEST[0], TEST[1].tolist()),
    "datasets": (TensorDataset(*TRAIN), TensorDataset(*TEST)),
    "pictures": (Pictures(*TRAIN), Pictures(*TEST)),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_are_the_same_data(form):
    found: Any = own_data("mine", FORMS[form])
    for images, labels, (x, y) in (
        (found.train_images, found.train_labels, TRAIN),
        (found.test_images, found.test_labels, TEST),
    ):
        assert torch.equal(images, x)
        assert torch.equal(labels, y)
    assert (found.classes, found.input_size) == (DIGITS.classes, (1, 8, 8))
    np.testing.assert_allclose(found.mean, TRAIN[0].double().mean() / 255, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.std, TRAIN[0].double().std(correction=0) / 255, rtol=0, atol=1e-12)


def test_coloured_pictures_have_their_channels_first():
    colours = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    pictures = [(Image.fromarray(picture), label) for label, picture in enumerate(colours)]
    found = own_data("mine", (pictures, pictures))
    np.testing.assert_array_equal(found.train_images, colours.transpose(0, 3, 1, 2))


def test_a_run_on_images_in_memory_resumes_exactly_and_on_no_others(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)
    result = run(tmp_path / "straight", MINE, data=FORMS["arrays"])
    interrupt(tmp_path / "broken", 5, MINE, data=FORMS["datasets"])
    others = (TRAIN[0], TRAIN[1].roll(1), *TEST)
    with pytest.raises(ValueError, match="the images of mine must be those of the run in"):
        run(tmp_path / "broken", MINE, data=others, resume=True)
    run(tmp_path / "broken", MINE, data=FORMS["tensors"], resume=True)
    assert_same_ending(tmp_path / "broken", tmp_path / "straight")
    assert result.attrs["images"] == own_data("mine", FORMS["tensors"]).checksum
    assert run(tmp_path / "broken", MINE, data=FORMS["tensors"], resume=True).top1.equals(result.top1)
    with pytest.raises(ValueError, match="the images of mine must be those of the run in"):
        run(tmp_path / "broken", MINE, data=others, resume=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((TRAIN[0], TRAIN[1], TEST[0]), r"data must be a folder, \(train_images, train_labels"),
        (3, "data must be a folder"),
        ((TRAIN[0] / 255, *FORMS["tensors"][1:]), r"train_images must be uint8.*without ToTensor"),
        (
            (*TRAIN, TEST[0][:, 0], TEST[1]),
            r"test_images must be uint8, \(channels, rows.*\(32, 8, 8\)",
        ),
        ((*TRAIN, TEST[0][..., :7], TEST[1]), "test_images must be uint8 of the shape"),
        ((TRAIN[0], TRAIN[1] + 1, *TEST), "train_labels must have labels from 0 to 9; record"),
        ((TRAIN[0], TRAIN[1] * 10**15, *TEST), "train_labels must have labels from 0 to 9; record"),
        ((TRAIN[0], TRAIN[1].double(), *TEST), "train_labels must be whole numbers on one axis"),
        ((*TRAIN, TEST[0], -TEST[1]), "test_labels must have labels from 0 to 9; record"),
        ((TRAIN[0], TRAIN[1][1:], *TEST), "train_images and train_labels must be equally many"),
        ((*TRAIN, TEST[0][:0], TEST[1][:0]), "test_images must be uint8"),
        (([[1], [1, 2]], TRAIN[1], *TEST), "train_images must be an array in the memory"),
        ((np.ma.masked_equal(TRAIN[0].numpy(), 0), TRAIN[1], *TEST), "train_images must have no masked elements"),
        ((TensorDataset(TRAIN[0] / 255, TRAIN[1]), TensorDataset(*TEST)), r"train\[0\] must be uint8"),
        ((Pictures(*TRAIN), Pictures(*TEST, mode="P")), r"test\[0\] must be a grey or RGB picture; got P"),
        ((iter([]), TensorDataset(*TEST)), "data must be datasets with a length.*; train is"),
    ],
)
def test_data_of_another_form_are_refused_by_name_before_anything_is_written(tmp_path, data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(tmp_path, MINE, data=data)
    assert not list(tmp_path.iterdir())


def test_images_in_memory_have_a_name_of_ones_own(tmp_path):
    with pytest.raises(ValueError, match=r"config.dataset must be OwnImages\(name\) for images in data"):
        run(tmp_path, data=FORMS["tensors"])
