"""A folder of one's own images: prepared, loaded and trained on by name."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bioshare import __main__ as command_line
from bioshare.files import locked
from bioshare.train import TrainConfig
from bioshare.train.config import ImageData, OwnImages
from bioshare.train.data import load, training_batches
from bioshare.train.data import test_batches as batches_for_testing
from bioshare.train.data.prepare import own_images, prepare
from bioshare.train.results import read_result
from bioshare.train.stored import config_of, config_text

SIZES = ((20, 12), (12, 12), (15, 40))
"""Columns and rows of the images of every class."""


@pytest.fixture
def flowers(tmp_path):
    """A folder of two classes of one colour each, three images of different sizes and kinds in every part."""
    for part in ("train", "val"):
        for value, name in ((50, "daisy"), (200, "rose")):
            for index, size in enumerate(SIZES):
                path = tmp_path / "flowers" / part / name / f"{index}.{('png', 'JPG', 'jpeg')[index]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L" if index else "RGB", size, value if index else (value,) * 3).save(path)
    return tmp_path / "flowers"


def test_images_of_any_size_are_brought_to_one_and_loaded_by_name(flowers, tmp_path):
    path = prepare("flowers", flowers, tmp_path / "data", own_images(8), progress=False)
    dataset = load("flowers", tmp_path / "data")
    assert path == tmp_path / "data" / "flowers.safetensors"
    assert (dataset.classes, dataset.input_size) == (("daisy", "rose"), (3, 8, 8))
    expected = np.repeat([50, 200], 3)[:, None, None, None] * np.ones((3, 8, 8))
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        np.testing.assert_array_equal(images, expected)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(dataset.mean, 125 / 255, atol=1e-12)
    np.testing.assert_allclose(dataset.std, 75 / 255, atol=1e-12)
    config = TrainConfig(OwnImages("flowers"), batch_size=4, padding=1)
    for batches in (training_batches, batches_for_testing):
        x, y = next(batches(dataset, config, dataset.train_labels.device).epoch(0))
        assert (tuple(x.shape), len(y)) == ((4, 3, 8, 8), 4)


def test_a_centre_is_cut_out_of_the_resized_image(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    third = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels[:, 8:16] = third
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "in" / name / "0.png")
    prepare("thirds", tmp_path / "in", tmp_path, own_images(8), progress=False)
    np.testing.assert_array_equal(load("thirds", tmp_path).train_images, [third.transpose(2, 0, 1)] * 2)


def test_the_commands_train_on_images_by_name(flowers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line.main(["prepare", "flowers", "--from", "flowers", "--side", "8"]) == 0
    words = "--dataset flowers --epochs 1 --batch-size 3 --padding 1 --device cpu --to run --architecture resnet8"
    assert command_line.main(["train", "table1/cifar10/conv", *words.split()]) == 0
    assert "dataset flowers instead of cifar10" in capsys.readouterr().out
    config = config_of(read_result(tmp_path / "run" / "result.nc").attrs["config"], tmp_path)
    assert config.dataset == OwnImages("flowers")


def test_a_configuration_with_own_images_can_be_stored(tmp_path):
    config = TrainConfig(OwnImages("flowers"))
    assert config_of(config_text(config), tmp_path) == config
    assert config.dataset_name == "flowers"
    assert TrainConfig("digits").dataset == ImageData("digits")


@pytest.mark.parametrize("name", ["digits", "a/b", "../a", "", ".a", "two words"])
def test_a_name_that_is_taken_or_no_name_of_a_file_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="name must be a word that no known data set has"):
        OwnImages(name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train table1/cifar10/conv --dataset cifar11", "--from FOLDER --side PIXELS"),
        ("prepare flowers --from flowers", "Images of your own need their size, --side PIXELS"),
        ("prepare cifar10 --from flowers --side 8", "--side is for images of your own"),
        ("prepare flowers --from flowers/train --side 8", "must have 2 or more class folders in train; got 0"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(flowers, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert command_line.main(words.split()) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_folder_in_use_is_waited_for_and_a_line_says_so(flowers, tmp_path):
    words = ["-m", "bioshare", "prepare", "flowers", "--from", flowers, "--side", "8", "--to", tmp_path / "data"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with locked(tmp_path / "data"):
        process = subprocess.Popen([sys.executable, *map(str, words)], **pipes)
        line = process.stderr.readline()
        assert line.startswith(f"another process uses {tmp_path}/data; flowers.safetensors is written when")
        assert not (tmp_path / "data" / "flowers.safetensors").exists()
    assert process.communicate(timeout=60) == (f"{tmp_path}/data/flowers.safetensors\n", "")
    assert (process.returncode, load("flowers", tmp_path / "data").classes) == (0, ("daisy", "rose"))


NO_PATHS = None, 5, True, [], {}, b"x"
ODD = {
    "path": (NO_PATHS, "path must be text or a pathlib.Path; got"),
    "folder": ((0, *NO_PATHS[1:]), "folder must be text or a pathlib.Path; got"),
    "source": (("cifar10", 0, 8, {}, [], True, ImageData), r"source must be own_images\(side\) or another Source; got"),
    "progress": (("no", None, 0, 2), "progress must be True or False; got"),
    "name": ((None, 5, {}, [], b"x", np.ones((2, 2))), "name must be a word that no known data set has; got"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_argument_of_another_type_is_refused_by_name(flowers, tmp_path, name):
    good = {"name": "flowers", "path": flowers, "folder": tmp_path / "data", "source": own_images(8)}
    values, match = ODD[name]
    for value in values:
        with pytest.raises((TypeError, ValueError), match=match):
            prepare(**good | {name: value})
    assert not (tmp_path / "data").exists()
