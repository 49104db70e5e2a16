import argparse
import gzip
import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_sources import RNG, assert_refused, contents, decoded, image_bytes

import bioshare
from bioshare.train.data import images, load, prepared
from bioshare.train.data import prepare as module
from bioshare.train.data.datasets import pixel_statistics
from bioshare.train.data.images import CHUNK
from bioshare.train.data.prepare import SOURCES, prepare

REAL_JPEG = Path(os.environ.get("BIOSHARE_CIFAR10_JPEG") or Path(__file__).parents[4] / "shared/data/cifar10_jpeg.npz")
NAMES10 = tuple("abcdefghij")


def random_pixels(count, side):
    return RNG.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


# CIFAR's archives


def records(pixels, *labels):
    return np.concatenate([np.stack(labels, 1).astype(np.uint8), pixels.reshape(len(pixels), -1)], 1).tobytes()


def write_archive(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def cifar10():
    """Pixels, labels and the files of a small CIFAR-10, and its source."""
    pixels, labels = random_pixels(24, 32), np.arange(24) % 10
    parts = [slice(4 * i, 4 * i + 4) for i in range(6)]
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    files = {name: records(pixels[part], labels[part]) for name, part in zip(names, parts, strict=True)}
    files = dict(reversed(files.items())) | {
        "readme.html": b"hello",
        "batches.meta.txt": b"\n".join(map(str.encode, NAMES10)),
    }
    return pixels, labels, files, replace(SOURCES["cifar10"], sha256=None, images={"train": 20, "test": 4})


def cifar10_archive(path, files, **changed):
    files = {name: changed.get(name.split(".")[0], data) for name, data in files.items()}
    present = {name: data for name, data in files.items() if data is not None}
    return write_archive(path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", present)


def test_cifar10_arrives_unchanged(tmp_path, cifar10):
    pixels, labels, files, source = cifar10
    archive = cifar10_archive(tmp_path, files)
    target = prepare("cifar10", archive, tmp_path / "new" / "data", source, progress=False)
    assert list(target.parent.iterdir()) == [target]
    arrays, facts = contents(target)
    np.testing.assert_array_equal(arrays["train_images"], pixels[:20])
    np.testing.assert_array_equal(arrays["test_images"], pixels[20:])
    np.testing.assert_array_equal(arrays["train_labels"], labels[:20])
    np.testing.assert_array_equal(arrays["test_labels"], labels[20:])
    assert arrays["train_images"].dtype == np.uint8
    assert arrays["train_labels"].dtype == np.int64
    assert facts["classes"] == list(NAMES10)
    assert (facts["name"], facts["source"], facts["version"]) == ("cifar10", archive.name, bioshare.__version__)
    assert facts["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    scaled = pixels[:20].astype(np.float64) / 255
    np.testing.assert_allclose(facts["mean"], scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(facts["std"], scaled.std((0, 2, 3)), rtol=1e-12)


def test_cifar100_has_the_fine_labels(tmp_path):
    pixels, fine = random_pixels(7, 32), np.array([0, 99, 5, 6, 7, 8, 9])
    coarse = np.full(7, 3)
    names = b"\n".join(b"class%d" % i for i in range(100)) + b"\n"
    files = {
        "train.bin": records(pixels[:5], coarse[:5], fine[:5]),
        "test.bin": records(pixels[5:], coarse[5:], fine[5:]),
        "fine_label_names.txt": names,
    }
    archive = write_archive(tmp_path / "cifar-100-binary.tar.gz", "cifar-100-binary", files)
    source = replace(SOURCES["cifar100"], sha256=None, images={"train": 5, "test": 2})
    arrays, facts = contents(prepare("cifar100", archive, tmp_path, source, progress=False))
    np.testing.assert_array_equal(np.concatenate([arrays["train_labels"], arrays["test_labels"]]), fine)
    np.testing.assert_array_equal(arrays["test_images"], pixels[5:])
    assert facts["classes"][99] == "class99"


@pytest.fixture
def mnist(tmp_path):
    """Pixels, labels, a folder of a small MNIST with two packed files, and the source."""
    pixels, labels = random_pixels(7, 28)[:, :1], np.array([0, 9, 5, 3, 1, 2, 8])
    (tmp_path / "mnist").mkdir()
    for stem, part in (("train", slice(5)), ("t10k", slice(5, None))):
        images, numbers = pixels[part], labels[part].astype(np.uint8)
        # 0x08: unsigned bytes; then the number of axes, and the lengths as big-endian numbers
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (len(images), 28, 28))
        (tmp_path / f"mnist/{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = bytes([0, 0, 8, 1]) + len(images).to_bytes(4, "big")
        (tmp_path / f"mnist/{stem}-labels-idx1-ubyte").write_bytes(header + numbers.tobytes())
    return pixels, labels, tmp_path / "mnist", replace(SOURCES["mnist"], images={"train": 5, "test": 2})


def test_mnist_arrives_unchanged(tmp_path, mnist):
    pixels, labels, folder, source = mnist
    arrays, facts = contents(prepare("mnist", folder, tmp_path, source, progress=False))
    np.testing.assert_array_equal(arrays["train_images"], pixels[:5])
    np.testing.assert_array_equal(arrays["test_images"], pixels[5:])
    np.testing.assert_array_equal(np.concatenate([arrays["train_labels"], arrays["test_labels"]]), labels)
    assert facts["classes"] == list("0123456789")
    np.testing.assert_allclose(facts["mean"], [pixels[:5].mean() / 255], rtol=1e-12)
    loaded = load("mnist", tmp_path)
    assert loaded.input_size == (1, 28, 28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "and have 13 bytes; got 0000080100000005 and 12 bytes"),
        (lambda data: data + b"0", "and have 13 bytes; got 0000080100000005 and more bytes"),
        (lambda data: bytes([0, 0, 9]) + data[3:], "must begin with 0000080100000005"),
        (lambda data: data[:-1] + bytes([10]), "must have labels from 0 to 9; record 4 has 10"),
        (None, "lacks train-labels-idx1-ubyte.gz"),
    ],
)
def test_files_of_mnist_that_are_not_whole_are_refused(tmp_path, mnist, change, message):
    *_, folder, source = mnist
    file = folder / "train-labels-idx1-ubyte"
    file.write_bytes(change(file.read_bytes())) if change else file.unlink()
    assert_refused(message, "mnist", folder, tmp_path / "data", source)


def test_a_damaged_packed_file_and_a_file_in_place_of_the_folder_are_refused(tmp_path, mnist):
    *_, folder, source = mnist
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-6])
    assert_refused("is no whole file of MNIST", "mnist", folder, tmp_path / "data", source)
    assert_refused("must be a folder with train-images-idx3-ubyte.gz", "mnist", file, tmp_path / "data", source)


def test_an_archive_with_another_checksum_is_refused(tmp_path, cifar10):
    archive = cifar10_archive(tmp_path, cifar10[2])
    assert_refused(f"{archive.name} must have the SHA-256 checksum c4a38c50", "cifar10", archive, tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.4, 0.5, 0.6, 0.7, 0.95])
def test_a_truncated_archive_is_refused(tmp_path, cifar10, kept):
    archive = cifar10_archive(tmp_path, cifar10[2])
    archive.write_bytes(archive.read_bytes()[: int(kept * archive.stat().st_size)])
    match = f"{archive.name} (is not a whole .tar.gz archive|lacks .*, to its end)"  # cut between two files: lacks
    assert_refused(match, "cifar10", archive, tmp_path, cifar10[3])


def test_a_file_that_is_no_archive_is_refused(tmp_path, cifar10):
    archive = tmp_path / "cifar.tar.gz"
    archive.write_bytes(gzip.compress(b"neither a tar file nor empty" * 100))
    assert_refused("cifar.tar.gz is not a whole .tar.gz archive", "cifar10", archive, tmp_path, cifar10[3])


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"data_batch_3": None}, "lacks cifar-10-batches-bin/data_batch_3.bin"),
        (
            {"data_batch_3": bytes(4 * 3073 - 1)},
            "data_batch_3.bin must have 4 records of 3073 bytes = 12292; got 12291",
        ),
        ({"test_batch": bytes(5 * 3073)}, "test_batch.bin must have 4 records"),
        ({"data_batch_2": bytes(3 * 3073) + b"\x0a" + bytes(3072)}, "data_batch_2.bin .* from 0 to 9; record 3 has 10"),
        ({"batches": b"cat dog"}, "batches.meta.txt must name 10 classes; got 2"),
    ],
)
def test_an_archive_with_the_wrong_content_is_refused(tmp_path, cifar10, changed, match):
    archive = cifar10_archive(tmp_path, cifar10[2], **changed)
    assert_refused(match, "cifar10", archive, tmp_path, cifar10[3])


# JPEG files in an .npz file


def jpeg_arrays(**changed):
    """The arrays of a small CIFAR-10 in JPEG files, and the files."""
    files = [image_bytes(32) for _ in range(6)]
    arrays = {"classes": np.array(NAMES10)}
    for part, chosen, labels in (("train", files[:4], [0, 1, 2, 9]), ("test", files[4:], [5, 3])):
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(chosen), np.uint8)
        arrays[f"{part}_end"] = np.cumsum([len(file) for file in chosen])
        arrays[f"{part}_label"] = np.array(labels, np.uint8)
    arrays = {name: changed.get(name, lambda array: array)(array) for name, array in arrays.items()}
    return {name: array for name, array in arrays.items() if array is not None}, files


def jpeg_source(train=4, test=2):
    return replace(SOURCES["cifar10-jpeg"], images={"train": train, "test": test})


def assert_averaged(small, large):
    """Every pixel is the mean over a square of 2 x 2, to half a grey level."""
    for image, whole in zip(small.astype(float), large.astype(float), strict=True):
        for row, column in np.ndindex(16, 16):
            square = whole[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert np.abs(image[:, row, column] - square.sum((1, 2)) / 4).max() <= 0.5


def test_both_forms_of_cifar10_are_averaged_to_16_x_16(tmp_path, cifar10):
    arrays, files = jpeg_arrays()
    np.savez(tmp_path / "jpeg.npz", **arrays)
    source = replace(SOURCES["cifar10-jpeg-16"], source=jpeg_source())
    prepared, _ = contents(prepare("cifar10-jpeg-16", tmp_path / "jpeg.npz", tmp_path, source, progress=False))
    assert_averaged(prepared["train_images"], np.stack([decoded(file) for file in files[:4]]))
    pixels, labels, archived, whole = cifar10
    source = replace(SOURCES["cifar10-16"], source=whole)
    path = cifar10_archive(tmp_path, archived)
    prepared, facts = contents(prepare("cifar10-16", path, tmp_path, source, progress=False))
    assert prepared["train_images"].shape == (20, 3, 16, 16)
    assert facts["classes"] == list(NAMES10)
    assert_averaged(prepared["test_images"], pixels[20:])
    assert prepared["test_labels"].tolist() == labels[20:].tolist()


def test_jpeg_arrays_are_decoded(tmp_path):
    arrays, files = jpeg_arrays()
    np.savez(tmp_path / "jpeg.npz", **arrays)
    prepared, facts = contents(prepare("cifar10-jpeg", tmp_path / "jpeg.npz", tmp_path, jpeg_source(), progress=False))
    np.testing.assert_array_equal(prepared["train_images"], [decoded(file) for file in files[:4]])
    np.testing.assert_array_equal(prepared["test_images"], [decoded(file) for file in files[4:]])
    assert prepared["train_labels"].tolist() == [0, 1, 2, 9]
    assert facts["classes"] == list(NAMES10)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"test_label": lambda array: None}, "no item named 'test_label.npy' in the archive"),
        ({"classes": lambda array: array.astype(object)}, "classes must have one axis, no Python objects"),
        ({"classes": lambda array: array[:9]}, "must name 10 classes; got 9"),
        ({"train_end": lambda array: array[:3]}, "train_end and train_label must have 4 elements; got 3 and 4"),
        ({"train_end": lambda array: array[[1, 0, 2, 3]]}, "train_end must rise to"),
        ({"test_end": lambda array: array - 1}, "test_end must rise to"),
        ({"test_label": lambda array: array + 5}, "test_label must have labels from 0 to 9; record 0 has 10"),
        ({"train_jpeg": lambda array: array * 0}, "train image 0 is not an image that can be read"),
    ],
)
def test_jpeg_arrays_with_the_wrong_content_are_refused(tmp_path, changed, match):
    path = tmp_path / "jpeg.npz"
    arrays, _ = jpeg_arrays(**changed)
    np.savez(path, **arrays)
    assert_refused(match, "cifar10-jpeg", path, tmp_path, jpeg_source())


def test_a_truncated_npz_is_refused(tmp_path):
    path = tmp_path / "jpeg.npz"
    np.savez(path, **jpeg_arrays()[0])
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused("jpeg.npz is not a whole .npz file", "cifar10-jpeg", path, tmp_path, jpeg_source())


def write_many(path, damaged=None):
    """Five images over and over, more than one process decodes; their pixels and the source."""
    count = 2 * CHUNK + 3
    files = [image_bytes(32) for _ in range(5)]
    chosen = [files[i % 5] for i in range(count)]
    if damaged is not None:
        chosen[damaged] = chosen[damaged][:-200]
    arrays, _ = jpeg_arrays()
    arrays["train_jpeg"] = np.frombuffer(b"".join(chosen), np.uint8)
    arrays["train_end"] = np.cumsum([len(file) for file in chosen])
    arrays["train_label"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return np.stack([decoded(file) for file in files])[np.arange(count) % 5], jpeg_source(train=count)


def test_many_images_are_decoded_in_parallel_and_stay_in_order(tmp_path, monkeypatch):
    pixels, source = write_many(tmp_path / "jpeg.npz")
    monkeypatch.setattr(images, "CHUNK", 4)  # far more chunks than wait at a time
    prepared, _ = contents(prepare("cifar10-jpeg", tmp_path / "jpeg.npz", tmp_path, source, progress=False))
    np.testing.assert_array_equal(prepared["train_images"], pixels)


def test_one_truncated_image_of_many_is_named(tmp_path):
    _, source = write_many(tmp_path / "jpeg.npz", damaged=CHUNK + 7)
    match = f"train image {CHUNK + 7} is not an image that can be read: image file is truncated"
    assert_refused(match, "cifar10-jpeg", tmp_path / "jpeg.npz", tmp_path, source)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_JPEG.exists(), reason=f"no {REAL_JPEG}; BIOSHARE_CIFAR10_JPEG may say where it is")
def test_the_jpeg_copy_of_cifar10_is_prepared(tmp_path):
    target = prepare("cifar10-jpeg", REAL_JPEG, tmp_path, progress=False)
    arrays, facts = contents(target)
    assert arrays["train_images"].shape == (50_000, 3, 32, 32)
    assert arrays["test_images"].shape == (10_000, 3, 32, 32)
    assert np.bincount(arrays["train_labels"]).tolist() == [5000] * 10
    assert np.bincount(arrays["test_labels"]).tolist() == [1000] * 10
    assert facts["classes"][0] == "airplane"
    np.testing.assert_allclose(facts["mean"], [0.491, 0.482, 0.447], atol=2e-3)  # those of CIFAR-10
    with np.load(REAL_JPEG) as source:
        first = source["train_jpeg"][: source["train_end"][0]].tobytes()
    np.testing.assert_array_equal(arrays["train_images"][0], decoded(first))


# Whatever the source


def test_an_interrupt_leaves_what_was_there(tmp_path, cifar10, monkeypatch):
    archive, folder = cifar10_archive(tmp_path, cifar10[2]), tmp_path / "data"
    target = prepare("cifar10", archive, folder, cifar10[3], progress=False)
    before = target.read_bytes()

    def interrupted(tensors, path, metadata):
        path.write_bytes(before[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("cifar10", archive, folder, cifar10[3], progress=False)
    assert list(folder.iterdir()) == [target]
    assert target.read_bytes() == before


def test_a_prepared_file_replaces_the_one_before_and_others_may_read_it(tmp_path, cifar10):
    target = tmp_path / "cifar10.safetensors"
    target.write_bytes(b"old")
    old = os.umask(0o022)
    try:
        assert prepare("cifar10", cifar10_archive(tmp_path, cifar10[2]), tmp_path, cifar10[3], progress=False) == target
    finally:
        os.umask(old)
    assert contents(target)[1]["name"] == "cifar10"
    assert target.stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_is_refused_before_reading(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere.tar.gz; it must be the official cifar-10-bin"):
        prepare("cifar10", tmp_path / "nowhere.tar.gz", tmp_path)
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"can't be a folder: .*file is a file"):
        prepare("cifar10", file, file / "data")
    with pytest.raises(ValueError, match="digits needs no preparation"):
        prepare("digits", file, tmp_path)
    with pytest.raises(ValueError, match=r"name must be one of cifar10, .*; got 'svhn'"):
        prepare("svhn", file, tmp_path)


def test_the_command_says_where_the_file_is(tmp_path, cifar10, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "cifar10", cifar10[3])
    monkeypatch.setenv("BIOSHARE_DATA", str(tmp_path / "data"))
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.main(parser.parse_args(["cifar10", "--from", str(cifar10_archive(tmp_path, cifar10[2]))]))
    assert capsys.readouterr().out.strip() == str(tmp_path / "data/cifar10.safetensors")
    assert (tmp_path / "data/cifar10.safetensors").exists()


def test_pixel_statistics_are_those_of_all_pixels():
    pixels = random_pixels(1501, 3)
    mean, std = pixel_statistics(pixels)
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 2, 3)), rtol=1e-12)
