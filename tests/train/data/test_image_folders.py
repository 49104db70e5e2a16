import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_sources import assert_refused, contents, decoded, image_bytes
from tqdm import tqdm

from bioshare.train.data.images import Encoded, check_all
from bioshare.train.data.prepare import SOURCES, prepare

CLASSES = "n01", "n02", "n03"
TINY = replace(SOURCES["tinyimagenet"], classes=3, images={"train": 6, "test": 3})
IMAGENET = replace(SOURCES["imagenet"], classes=3, images={"train": 6, "test": 3})


def write_tiny(folder, layout="flat", side=64):
    """Three classes with two images for training and one for testing each, the first image grey; their bytes."""
    folder.mkdir(parents=True)
    images = {}
    (folder / "wnids.txt").write_text("\n".join(reversed(CLASSES)))
    for name in CLASSES:
        for i in range(2):
            images[f"train/{name}/images/{name}_{i}.JPEG"] = image_bytes(side, mode="L" if not images else "RGB")
        test = {"flat": "val/images", "nested": f"val/{name}", "deep": f"val/{name}/images"}[layout]
        images[f"{test}/val_{name[-1]}.JPEG"] = image_bytes(side)
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    lines = [f"val_{name[-1]}.JPEG\t{name}\t0\t0\t62\t62\n" for name in CLASSES]
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    (folder / "val/.DS_Store").write_text("not an image")
    return images


def zipped(folder):
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


@pytest.mark.parametrize("layout", ["flat", "nested", "deep"])
@pytest.mark.parametrize("form", ["folder", "folder above", "zip"])
def test_tinyimagenet_is_decoded_from_every_layout(tmp_path, layout, form):
    folder = tmp_path / "tiny-imagenet-200"
    images = write_tiny(folder, layout)
    path = {"folder": folder, "folder above": tmp_path, "zip": zipped(folder)}[form]
    arrays, facts = contents(prepare("tinyimagenet", path, tmp_path / "data", TINY, progress=False))
    train, test = ([decoded(data) for name, data in images.items() if name.startswith(p)] for p in ("train", "val"))
    np.testing.assert_array_equal(arrays["train_images"], train)
    np.testing.assert_array_equal(arrays["test_images"], test)
    assert (arrays["train_images"][0] == arrays["train_images"][0, :1]).all()  # grey
    assert arrays["train_labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert arrays["test_labels"].tolist() == [0, 1, 2]
    assert facts["classes"] == list(CLASSES)
    assert (facts["sha256"] is None) == (form != "zip")


def damage(relative, change):
    """A change of one file by its bytes; None removes it."""

    def apply(folder):
        path = folder / relative
        data = change(path.read_bytes() if path.exists() else b"")
        if data is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return apply


def remove(relative):
    return lambda folder: shutil.rmtree(folder / relative)


FIRST = "train/n01/images/n01_0.JPEG"
TINY_FAULTS = {
    "truncated image": ("flat", damage(FIRST, lambda data: data[: len(data) // 2]), "n01_0.JPEG is not an image"),
    "no image": ("flat", damage("val/images/val_2.JPEG", lambda data: b"text"), "val_2.JPEG is not an image that can"),
    "other size": ("flat", damage(FIRST, lambda data: image_bytes(63)), "n01_0.JPEG must have 64 x 64 .* got 63 x 63"),
    "class folder missing": ("flat", remove("train/n02"), "train/n02 is missing"),
    "class folder empty": (
        "flat",
        lambda f: [p.unlink() for p in (f / "train/n02/images").iterdir()],
        "train/n02 has no",
    ),
    "image missing": ("flat", damage(FIRST, lambda data: None), "must have 6 train images; got 5"),
    "no validation set": ("flat", remove("val"), "must have folders val/CLASS, or the classes in val/val_annotations"),
    "test class missing": ("nested", remove("val/n03"), "val/n03 must have images"),
    "class only in test": (
        "nested",
        damage("val/n09/x.JPEG", lambda data: image_bytes(64)),
        "val/n09/x.JPEG has the class n09, which train lacks",
    ),
    "unknown class annotated": (
        "flat",
        damage("val/val_annotations.txt", lambda data: data.replace(b"n02", b"n09")),
        "val_2.JPEG has the class n09, which train lacks",
    ),
    "annotated file missing": (
        "flat",
        damage("val/images/val_2.JPEG", lambda data: None),
        "val_annotations.txt, line 2, must name an image in val and its class; got 'val_2",
    ),
    "line cut off": (
        "flat",
        damage("val/val_annotations.txt", lambda data: data[: data.rindex(b"\tn03")]),
        "val_annotations.txt, line 3, must name",
    ),
    "image without annotation": (
        "flat",
        damage("val/val_annotations.txt", lambda data: data[: data.index(b"\n")]),
        "must name the class of every image in val; val/images/val_2.JPEG isn't there",
    ),
    "annotations missing": (
        "flat",
        damage("val/val_annotations.txt", lambda data: None),
        "must have folders val/CLASS, or the classes in val/val_annotations.txt or val_annotations.txt",
    ),
}


@pytest.mark.parametrize("fault", TINY_FAULTS)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_tinyimagenet_with_a_fault_is_refused(tmp_path, fault, form):
    layout, apply, match = TINY_FAULTS[fault]
    folder = tmp_path / "tiny-imagenet-200"
    write_tiny(folder, layout)
    apply(folder)
    assert_refused(match, "tinyimagenet", zipped(folder) if form == "zip" else folder, tmp_path / "data", TINY)


def test_a_class_folder_too_few_is_refused_without_a_list_of_classes(tmp_path):
    write_tiny(tmp_path / "tiny")
    (tmp_path / "tiny/wnids.txt").unlink()
    shutil.rmtree(tmp_path / "tiny/train/n02")
    match = "tiny must have 3 class folders in train; got 2"
    assert_refused(match, "tinyimagenet", tmp_path / "tiny", tmp_path / "data", TINY)


def test_a_damaged_zip_file_is_refused(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    write_tiny(folder)
    path, data = zipped(folder), zipped(folder).read_bytes()
    path.write_bytes(data[:-30])
    assert_refused("tiny-imagenet-200.zip is not a whole zip file", "tinyimagenet", path, tmp_path / "data", TINY)
    with zipfile.ZipFile(path.with_name("whole.zip"), "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    data = bytearray(path.with_name("whole.zip").read_bytes())
    image = (folder / FIRST).read_bytes()
    data[data.index(image) + 300] ^= 1
    path.write_bytes(data)
    assert_refused(f"{FIRST} is damaged: Bad CRC-32", "tinyimagenet", path, tmp_path / "data", TINY)


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_imagenet_becomes_an_index_of_its_files(tmp_path, layout):
    images = write_tiny(tmp_path / "imagenet", layout, side=40)
    arrays, facts = contents(prepare("imagenet", tmp_path / "imagenet", tmp_path, IMAGENET, progress=False))
    for part, start in (("train", "train"), ("test", "val")):
        text, starts = arrays[f"{part}_names"].tobytes(), [0, *arrays[f"{part}_ends"][:-1]]
        names = [text[a:b].decode() for a, b in zip(starts, arrays[f"{part}_ends"], strict=True)]
        assert names == sorted(name for name in images if name.startswith(start))
    assert arrays["train_labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert facts["folder"] == str(tmp_path / "imagenet")
    assert "mean" not in facts


def test_imagenet_with_a_file_that_is_no_image_is_refused(tmp_path):
    write_tiny(tmp_path / "imagenet", side=40)
    (tmp_path / "imagenet" / FIRST).write_bytes(b"text")
    match = "n01_0.JPEG is not an image that can be read"
    assert_refused(match, "imagenet", tmp_path / "imagenet", tmp_path / "data", IMAGENET)


def test_imagenet_in_a_file_is_refused(tmp_path):
    (tmp_path / "imagenet.tar").write_bytes(b"text")
    assert_refused("imagenet.tar must be a folder with train/CLASS", "imagenet", tmp_path / "imagenet.tar", tmp_path)


def test_a_truncated_image_of_imagenet_is_found_before_training(tmp_path):
    path = tmp_path / "whole.JPEG"
    path.write_bytes(image_bytes(300))
    (tmp_path / "half.JPEG").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    files = [Encoded(str(path)), Encoded(str(tmp_path / "half.JPEG"))]
    with tqdm(disable=True) as bar:
        check_all(files[:1], 1, bar)
        with pytest.raises(ValueError, match=r"half.JPEG is not an image that can be read: .*truncated"):
            check_all(files, 2, bar)
