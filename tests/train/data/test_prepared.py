"""The prepared file: one schema for writing and reading, and a checksum that finds every changed bit."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bioshare.files import replacing
from bioshare.train import data
from bioshare.train.data.prepared import write_prepared
from bioshare.train.data.streams import ImageFiles

RNG = np.random.default_rng(0)
CLASSES = ["cat", "dog", "bird"]
CIFAR = {"name": "cifar10", "classes": CLASSES, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
INDEX = {"name": "imagenet", "classes": CLASSES}
NAMES = ["train/cat/a.JPEG", "train/dog/b..c.JPEG", "train/bird/..d.JPEG"]


def pixels(count=6, channels=3, rows=32, columns=32):
    return torch.from_numpy(RNG.integers(0, 256, (count, channels, rows, columns), dtype=np.uint8))


def cifar(**changed):
    """Tensors of a small CIFAR-10; None leaves a tensor out."""
    tensors = {"train_images": pixels(), "train_labels": torch.arange(6) % 3}
    tensors |= {"test_images": pixels(3), "test_labels": torch.arange(3)} | changed
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def index(names=NAMES, **changed):
    """Tensors of a small ImageNet, an index of files."""
    text = [name.encode() for name in names]
    ends = torch.tensor(np.cumsum([len(name) for name in text]))
    tensors = {"names": torch.frombuffer(bytearray(b"".join(text)), dtype=torch.uint8), "ends": ends}
    tensors = {"labels": torch.arange(len(names)) % 3} | tensors
    return {
        f"{part}_{kind}": tensor.clone() for part in ("train", "test") for kind, tensor in tensors.items()
    } | changed


def unchecked(path, tensors, facts):
    """A file of a program that checks nothing and knows no checksums."""
    save_file(tensors, path, {"bioshare": facts if isinstance(facts, str) else json.dumps(facts)})


def refused(path, match):
    with pytest.raises(
        ValueError, match=rf"{path.name} is not a whole prepared file: .*{match}.*python -m bioshare pr"
    ):
        data.load(path.stem, path.parent)


def test_a_file_is_read_as_written_and_its_checksum_is_that_of_the_data(tmp_path):
    tensors, path = cifar(), tmp_path / "cifar10.safetensors"
    write_prepared(path, tensors, CIFAR | {"version": "1"})
    dataset = data.load("cifar10", tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(getattr(dataset, name), tensor)
    write_prepared(path, tensors, CIFAR | {"version": "2"})  # the same data, prepared again
    assert data.load("cifar10", tmp_path).checksum == dataset.checksum
    assert len(dataset.checksum) == 8
    tensors["train_labels"][0] += 1
    write_prepared(path, tensors, CIFAR)
    assert data.load("cifar10", tmp_path).checksum != dataset.checksum


def test_half_a_file_of_a_process_that_is_gone_is_deleted_by_the_next(tmp_path):
    path = tmp_path / "cifar10.safetensors"
    half = replacing(path)  # never left, as after a kill
    (half.__enter__().parent / ".tmpA1b2C3").write_bytes(b"half")
    assert len(list(tmp_path.glob(".cifar10.safetensors.*.tmp"))) == 1
    write_prepared(path, cifar(), CIFAR)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_a_version_without_checksums_is_read(tmp_path):
    unchecked(tmp_path / "cifar10.safetensors", cifar(), CIFAR)
    write_prepared(tmp_path / "new" / "cifar10.safetensors", load_file(tmp_path / "cifar10.safetensors"), CIFAR)
    assert data.load("cifar10", tmp_path).checksum == data.load("cifar10", tmp_path / "new").checksum


@pytest.mark.parametrize("part", ["pixels", "labels", "header"])
def test_every_flipped_bit_is_found(tmp_path, part):
    """A flip in the header is refused, or leaves the contents: the name of an unused field may change."""
    path = tmp_path / "cifar10.safetensors"
    write_prepared(path, cifar(), CIFAR)
    whole, before = path.read_bytes(), data.load("cifar10", tmp_path)
    header = 8 + int.from_bytes(whole[:8], "little")
    labels = whole.index(torch.arange(6).remainder(3).numpy().tobytes())
    span = {"pixels": (header, len(whole) - 100), "labels": (labels, labels + 48), "header": (0, header)}[part]
    found = 0
    for bit in RNG.choice(8 * np.arange(*span), 100) + RNG.integers(0, 8, 100):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            dataset = data.load("cifar10", tmp_path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 (either is right in a header)
            found += 1
        else:
            assert part == "header"
            assert (dataset.checksum, dataset.classes, dataset.mean) == (before.checksum, before.classes, before.mean)
    assert found >= (100 if part != "header" else 60)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 400, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "cifar10.safetensors"
    write_prepared(path, cifar(), CIFAR)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    refused(path, "")


WRONG = {
    "label beyond the classes": ({"train_labels": torch.full((6,), 3)}, {}, "train_labels .* from 0 to 2; .* has 3"),
    "negative label": ({"test_labels": torch.tensor([0, 1, -1])}, {}, "test_labels .* record 2 has -1"),
    "fewer labels": ({"train_labels": torch.zeros(5, dtype=torch.int64)}, {}, "equally many.*got 6 and 5"),
    "more labels": ({"test_labels": torch.zeros(9, dtype=torch.int64)}, {}, "equally many.*got 3 and 9"),
    "labels float": ({"train_labels": torch.zeros(6)}, {}, "train_labels must be int64; got torch.float32"),
    "labels NaN": ({"train_labels": torch.full((6,), torch.nan)}, {}, "train_labels must be int64"),
    "labels bfloat16": ({"train_labels": torch.zeros(6, dtype=torch.bfloat16)}, {}, "train_labels must be int64"),
    "labels in a column": ({"train_labels": torch.zeros(6, 1, dtype=torch.int64)}, {}, r"one axis.*\(6, 1\)"),
    "one label": ({"train_labels": torch.tensor(1)}, {}, "on one axis"),
    "images float": ({"train_images": torch.rand(6, 3, 32, 32)}, {}, "train_images must be uint8.*float32"),
    "images of one channel": ({"train_images": pixels(channels=1)}, {}, r"shape \(n, 3, 32, 32\).*\(6, 1, 32, 32\)"),
    "images of 16 x 16": ({"test_images": pixels(3, rows=16, columns=16)}, {}, r"test_images .*\(3, 3, 16, 16\)"),
    "images not square": ({"train_images": pixels(columns=31)}, {}, "as many rows as columns"),
    "images of one axis": ({"train_images": pixels().reshape(-1)}, {}, "train_images must be uint8 of the shape"),
    "no images": (
        {"train_images": pixels(0), "train_labels": torch.zeros(0, dtype=torch.int64)},
        {},
        "at least one; got 0 and 0",
    ),
    "images missing": ({"test_images": None}, {}, "it lacks 'test_images'"),
    "labels missing": ({"train_labels": None}, {}, "it lacks 'train_labels'"),
    "mean of one channel": ({}, {"mean": [0.5]}, "mean must be 3 numbers"),
    "mean of text": ({}, {"mean": ["a", "b", "c"]}, "mean must be 3 numbers"),
    "mean one text": ({}, {"mean": "abc"}, "mean must be 3 numbers"),
    "mean null": ({}, {"mean": None}, ""),
    "mean NaN": ({}, {"mean": [0.5, np.nan, 0.5]}, "mean must be 3 numbers.*got nan"),
    "std of 0": ({}, {"std": [0.5, 0.0, 0.5]}, "std must be 3 numbers above 0.0, one per channel; got 0"),
    "std infinite": ({}, {"std": [0.5, np.inf, 0.5]}, "std must be 3 numbers.*got inf"),
    "mean nested": ({}, {"mean": [[0.5], [0.5], [0.5]]}, "mean must be 3 numbers"),
    "classes a number": ({}, {"classes": 10}, "classes must be a list"),
    "classes a text": ({}, {"classes": "abc"}, "classes must be a list"),
    "classes twice": ({}, {"classes": ["cat", "dog", "cat"]}, "classes must be different names"),
    "classes numbers": ({}, {"classes": [1, 2, 3]}, "classes must be different names"),
    "a class without a name": ({}, {"classes": ["cat", "", "dog"]}, "classes must be different names"),
    "two classes": ({}, {"classes": ["cat", "dog"]}, "from 0 to 1; record 2 has 2"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_data_set_of_another_form_is_neither_written_nor_read(tmp_path, fault):
    tensors, facts, match = WRONG[fault]
    path = tmp_path / "cifar10.safetensors"
    with pytest.raises((ValueError, TypeError, KeyError)):
        write_prepared(path, cifar(**tensors), CIFAR | facts)
    assert not path.exists()
    unchecked(path, cifar(**tensors), CIFAR | facts)
    refused(path, match)


@pytest.mark.parametrize("missing", ["name", "classes", "mean", "std"])
def test_a_missing_fact_is_named(tmp_path, missing):
    path = tmp_path / "cifar10.safetensors"
    unchecked(path, cifar(), {name: value for name, value in CIFAR.items() if name != missing})
    refused(path, f"it lacks '{missing}'")


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "{}", "", "{", "[" * 50_000 + "]" * 50_000, '{"name": "x"}'])
def test_metadata_of_another_form_are_refused(tmp_path, text):
    path = tmp_path / "cifar10.safetensors"
    unchecked(path, cifar(), text)
    refused(path, "")


def test_images_of_ones_own_are_of_one_square_shape(tmp_path):
    facts = CIFAR | {"name": "mine"}
    square = {"train_images": pixels(rows=20, columns=20), "test_images": pixels(3, rows=20, columns=20)}
    write_prepared(tmp_path / "mine.safetensors", cifar(**square), facts)
    assert data.load("mine", tmp_path).input_size == (3, 20, 20)
    unchecked(tmp_path / "mine.safetensors", cifar(**square | {"test_images": pixels(3)}), facts)
    refused(tmp_path / "mine.safetensors", "test_images must be uint8 of the shape")


OUTSIDE = {
    "the folder above": (index(["train/cat/a.JPEG", "../../etc/passwd"]), "number 1 is '../../etc/passwd'"),
    "up again": (index(["train/cat/a.JPEG", "train/../../x.JPEG"]), "number 1 is 'train/../../x.JPEG'"),
    "ends in dots": (index(["train/cat/..", "train/dog/b.JPEG"]), "number 0 is 'train/cat/..'"),
    "from the root": (index(["/etc/passwd", "train/dog/b.JPEG"]), "number 0 is '/etc/passwd'"),
    "ends beyond the names": (index(train_ends=torch.tensor([16, 30, 3000])), "must rise from 0"),
    "ends falling": (index(train_ends=torch.tensor([30, 16, 45])), "must rise from 0"),
    "ends negative": (index(train_ends=torch.tensor([-3, 16, 45])), "must rise from 0"),
    "ends float": (index(train_ends=torch.tensor([16.0, 30.0, 45.0])), "must be int64 on one axis; got float32"),
    "one end": (index(train_ends=torch.tensor(16)), "ends must be int64 on one axis"),
    "fewer ends than labels": (index(train_ends=torch.tensor([16, 30])), "equally many, at least one; got 2 and 3"),
    "names as numbers": (index(train_names=torch.zeros(100, dtype=torch.int64)), "names must be uint8 on one axis"),
    "no UTF-8": (index(train_names=torch.full((100,), 0xFF, dtype=torch.uint8)), "'utf-8' codec can't decode"),
}


@pytest.mark.parametrize("fault", OUTSIDE)
def test_an_index_names_only_files_below_its_folder(tmp_path, fault):
    tensors, match = OUTSIDE[fault]
    path = tmp_path / "imagenet.safetensors"
    with pytest.raises(ValueError, match=match):
        write_prepared(path, tensors, INDEX | {"folder": str(tmp_path)})
    unchecked(path, tensors, INDEX | {"folder": str(tmp_path)})
    refused(path, match)


def test_an_index_of_files_is_read_and_dots_in_names_are_no_harm(tmp_path):
    write_prepared(tmp_path / "imagenet.safetensors", index(), INDEX | {"folder": str(tmp_path)})
    dataset = data.load("imagenet", tmp_path)
    assert isinstance(dataset.train_images, ImageFiles)
    assert [dataset.train_images.path(i) for i in range(3)] == [f"{tmp_path}/{name}" for name in NAMES]
    assert dataset.train_images[np.array([2])].path(0) == f"{tmp_path}/{NAMES[2]}"
    with safe_open(tmp_path / "imagenet.safetensors", "pt") as file:
        assert len(file.metadata()["checksum"]) == 8


@pytest.mark.parametrize("folder", [None, 5, [], {}, "", True])
def test_the_folder_of_an_index_is_text_that_is_not_empty(tmp_path, folder):
    path = tmp_path / "imagenet.safetensors"
    unchecked(path, index(), INDEX | {"folder": folder})
    refused(path, "folder must be text, and not empty; got")


@pytest.mark.parametrize("folder", [0, 5, True, [], {}, b"x", 1.5])
def test_a_folder_that_is_no_path_is_refused_by_name(folder):
    with pytest.raises(TypeError, match=r"folder must be text or a pathlib\.Path; got"):
        data.load("digits", folder)


@pytest.mark.parametrize("name", [None, 5, [], {}, b"digits", np.ones((2, 2))])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(ValueError, match="name must be one of cifar10, "):
        data.load(name)


def test_a_variable_in_bioshare_data_is_named(monkeypatch):
    monkeypatch.setenv("BIOSHARE_DATA", "$NO_SUCH_VARIABLE/data")
    with pytest.raises(ValueError, match=r"BIOSHARE_DATA must name users and variables that exist"):
        data.load("cifar10")


def test_images_that_moved_are_missed_at_once(tmp_path):
    write_prepared(tmp_path / "imagenet.safetensors", index(), INDEX | {"folder": str(tmp_path / "gone")})
    with pytest.raises(FileNotFoundError, match=r"leads to images in .*gone, which isn't there"):
        data.load("imagenet", tmp_path)
