"""Archives and folders as they should not be: refused by name before anything is written, or right labels."""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_sources import assert_refused, contents
from PIL import Image

from bioshare.train.data.image_folders import ImageFolder
from bioshare.train.data.prepare import SOURCES, own_images, prepare

RNG = np.random.default_rng(5)
TWO = ImageFolder("two classes", 2, 64, {"train": 4, "test": 2})
STREAMED = replace(SOURCES["imagenet"], classes=2, images={"train": 4, "test": 2})
NPZ = replace(SOURCES["cifar10-jpeg"], classes=3, images={"train": 4, "test": 2})
LARGE = replace(NPZ, side=10_000)
CIFAR = replace(SOURCES["cifar10"], sha256=None, classes=3, images={"train": 10, "test": 2})


def picture(side=64, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


def files(**more):
    """Two classes, flat test images with annotations; by name."""
    names = ["train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png", "val/images/v.png", "val/images/w.png"]
    return {name: picture() for name in names} | {"val/val_annotations.txt": b"v.png a\nw.png b\n"} | more


def folder_of(path, contents):
    for name, data in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zip_of(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def both(tmp_path, contents):
    return folder_of(tmp_path / "in", contents), zip_of(tmp_path / "in.zip", contents)


ODD_FILES = {
    "annotated twice": ({"val/val_annotations.txt": b"v.png a\nv.png b\nw.png b\n"}, "line 2, must not name .* again"),
    "annotated twice alike": ({"val/val_annotations.txt": b"v.png a\nw.png b\nw.png b\n"}, "line 3, must not name"),
    "annotations no UTF-8": (
        {"val/val_annotations.txt": b"v.png \xff\nw.png b\n"},
        "annotations.txt is no text in UTF",
    ),
    "classes no UTF-8": ({"wnids.txt": b"a\n\xffb\n"}, "wnids.txt is no text in UTF-8: .*0xff"),
    "two images of one name": ({"val/v.png": picture()}, "must name the class of every image in val"),
}


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("fault", ODD_FILES)
def test_lists_with_a_fault_are_refused(tmp_path, fault, form):
    more, match = ODD_FILES[fault]
    assert_refused(match, "tinyimagenet", both(tmp_path, files(**more))[form], tmp_path / "data", TWO)


# Folders


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes need Linux")
def test_a_name_that_is_no_utf8_is_refused_where_the_name_is_stored(tmp_path):
    path = folder_of(tmp_path / "in", files())
    name = os.fsencode(path / "train/a") + b"/\xff.png"
    with open(name, "wb") as file:
        file.write(picture())
    (path / "train/a/0.png").unlink()
    assert_refused("train/a/.*png must be a name in UTF-8", "imagenet", path, tmp_path / "data", STREAMED)
    assert len(contents(prepare("tinyimagenet", path, tmp_path, TWO, progress=False))[0]["train_labels"]) == 4


@pytest.mark.parametrize("links", [1, 2])
def test_links_to_the_folder_above_end(tmp_path, links):
    path = folder_of(tmp_path / "in", files())
    for number in range(links):
        (path / f"train/a/{number}").symlink_to(path / "train")
    assert_refused(r"train/a/\d must not be a link to .*in/train", "tinyimagenet", path, tmp_path / "data", TWO)


def test_links_to_other_folders_and_to_files_are_followed(tmp_path):
    path, other = folder_of(tmp_path / "in", files()), tmp_path / "other"
    (path / "train/a").rename(other)
    (path / "train/a").symlink_to(other)
    (other / "0.png").rename(tmp_path / "0.png")
    (other / "0.png").symlink_to(tmp_path / "0.png")
    arrays, _ = contents(prepare("tinyimagenet", path, tmp_path / "data", TWO, progress=False))
    assert arrays["train_labels"].tolist() == [0, 0, 1, 1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["train/a/0.png", "val/val_annotations.txt", "val/images/w.png"])
@pytest.mark.parametrize("form", ["tinyimagenet", "imagenet"])
def test_a_named_pipe_is_never_opened(tmp_path, name, form):
    path = folder_of(tmp_path / "in", files())
    (path / name).unlink()
    os.mkfifo(path / name)
    source = {"tinyimagenet": TWO, "imagenet": STREAMED}[form]
    assert_refused(f"{name} .*there is no regular file", form, path, tmp_path / "data", source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["cifar10", "cifar10-jpeg", "tinyimagenet", "imagenet"])
def test_a_named_pipe_is_no_source(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    assert_refused(r"pipe must be .*; got a pipe or a device", name, tmp_path / "pipe", tmp_path / "data")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser reads every folder")
def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path):
    path = folder_of(tmp_path / "in", files())
    (path / "train/b").chmod(0)
    with pytest.raises(PermissionError, match="train/b"):
        prepare("tinyimagenet", path, tmp_path / "data", TWO, progress=False)


def test_images_of_one_colour_are_refused(tmp_path):
    grey = io.BytesIO()
    Image.new("L", (20, 20), 100).save(grey, "PNG")
    path = folder_of(
        tmp_path / "in", {f"{part}/{name}/0.png": grey.getvalue() for part in ("train", "val") for name in "ab"}
    )
    assert_refused(
        "in holds no data set that can be used: std must be 3", "grey", path, tmp_path / "data", own_images(8)
    )


# Zip files


def test_a_zip_file_with_images_in_the_top_folder_and_beside_it_is_refused(tmp_path):
    top = {f"tiny-imagenet-200/{name}": data for name, data in files().items()}
    read = lambda path: contents(prepare("tinyimagenet", path, tmp_path, TWO, progress=False))[0]["train_labels"]
    assert read(zip_of(tmp_path / "a.zip", top | {"README": b"", "/tmp/evil.png": b""})).tolist() == [0, 0, 1, 1]
    moved = {**top, "train/a/0.png": top.pop("tiny-imagenet-200/train/a/0.png")}
    for number, more in enumerate((moved, top | {"train/b/9.png": picture()})):
        path = zip_of(tmp_path / f"{number}.zip", more)
        match = "must hold the images in tiny-imagenet-200/ or beside it, not in both; got train/"
        assert_refused(match, "tinyimagenet", path, tmp_path / "data", TWO)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_file_with_a_file_twice_is_refused(tmp_path):
    path = zip_of(tmp_path / "in.zip", files())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/a/0.png", picture())
    assert_refused("must hold every file once; train/a/0.png is there twice", "tinyimagenet", path, tmp_path / "d", TWO)


def directory_entries(data):
    """Places of the entries in the directory of a zip file."""
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        yield place
        place = data.find(b"PK\x01\x02", place + 4)


def patched(path, offset, value, local):
    """Change two bytes of every entry, in the directory and before the file itself."""
    data = bytearray(path.read_bytes())
    for place in directory_entries(data):
        header = struct.unpack_from("<I", data, place + 42)[0]
        struct.pack_into("<H", data, place + offset, value)
        struct.pack_into("<H", data, header + local, value)
    path.write_bytes(data)


@pytest.mark.parametrize(("offset", "local", "value", "words"), [(8, 6, 1, "encrypted"), (10, 8, 77, "compression")])
def test_encrypted_files_and_unknown_compressions_are_refused(tmp_path, offset, local, value, words):
    path = zip_of(tmp_path / "in.zip", files())
    patched(path, offset, value, local)
    assert_refused(f"in.zip: .* is damaged: .*{words}", "tinyimagenet", path, tmp_path / "data", TWO)
    path = tmp_path / "in.npz"
    np.savez(path, **arrays())
    patched(path, offset, value, local)
    assert_refused(f"in.npz is not a whole .npz file, .*{words}", "cifar10-jpeg", path, tmp_path / "data", NPZ)


def test_a_zip_file_with_changed_bytes_is_refused_by_name_or_read(tmp_path):
    path, refused = zip_of(tmp_path / "in.zip", {name: data[:9000] for name, data in files().items()}), 0
    whole = path.read_bytes()
    headers = [place + i for place in directory_entries(whole) for i in range(46)]
    for place in RNG.choice(headers, 100):
        data = bytearray(whole)
        data[place] ^= RNG.integers(1, 256)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"in\.zip"):  # the images are cut off: never read to the end
            prepare("tinyimagenet", path, tmp_path / "data", TWO, progress=False)
        refused += 1
    assert refused == 100
    assert not (tmp_path / "data").exists()


# NumPy archives


def arrays(**changed):
    made = {"classes": np.array(["cat", "dog", "bird"])}
    for part, count in (("train", 4), ("test", 2)):
        jpeg = [picture(32, "JPEG") for _ in range(count)]
        made[f"{part}_jpeg"] = np.frombuffer(b"".join(jpeg), np.uint8)
        made[f"{part}_end"] = np.cumsum([len(one) for one in jpeg])
        made[f"{part}_label"] = np.arange(count) % 3
    return made | {name: change(made[name]) for name, change in changed.items()}


ODD_ARRAYS = {
    "labels NaN": ({"train_label": lambda a: a * np.nan}, "train_label must be whole numbers on one axis; .* float64"),
    "labels with fractions": ({"train_label": lambda a: a + 0.7}, "train_label must be whole numbers"),
    "labels bool": ({"train_label": lambda a: a > 0}, "train_label must be whole numbers.*bool"),
    "labels complex": ({"train_label": lambda a: a + 0j}, "train_label must be whole numbers.*complex"),
    "labels text": ({"train_label": lambda a: a.astype(str)}, "train_label must be whole numbers.*<U"),
    "labels of two axes": ({"train_label": lambda a: a.reshape(4, 1)}, r"train_label must have one axis.*\(4, 1\)"),
    "one label": ({"test_label": lambda a: a[0]}, r"test_label must have one axis.*\(\)"),
    "labels as objects": ({"train_label": lambda a: a.astype(object)}, "train_label must have one axis, no Python obj"),
    "negative label": ({"train_label": lambda a: a - 1}, "train_label must have labels from 0 to 2; record 0 has -1"),
    "label beyond": ({"test_label": lambda a: a + 2}, "test_label must have labels from 0 to 2; record 1 has 3"),
    "one end": ({"train_end": lambda a: a[0]}, "train_end must have one axis"),
    "ends of two axes": ({"train_end": lambda a: a[:, None]}, "train_end must have one axis"),
    "ends with fractions": ({"train_end": lambda a: a + 0.5}, "train_end must be whole numbers"),
    "ends NaN": ({"test_end": lambda a: a * np.nan}, "test_end must be whole numbers"),
    "ends text": ({"train_end": lambda a: a.astype(str)}, "train_end must be whole numbers"),
    "ends of 2^63": ({"train_end": lambda a: a.astype(np.uint64) + np.uint64(2**63)}, "train_end must rise to"),
    "jpeg of two axes": (
        {"train_jpeg": lambda a: a[: len(a) // 2 * 2].reshape(-1, 2)},
        "train_jpeg must have one axis",
    ),
    "jpeg of no axis": ({"train_jpeg": lambda a: a[0]}, "train_jpeg must have one axis"),
    "jpeg int8": ({"test_jpeg": lambda a: a.astype(np.int8)}, "test_jpeg uint8; got int64, int8"),
    "one class": ({"classes": lambda a: a[0]}, "classes must have one axis"),
    "classes twice": ({"classes": lambda a: np.array(["cat", "dog", "cat"])}, "classes must be different names"),
    "classes as bytes": ({"classes": lambda a: a.astype(bytes)}, r"classes must be text; got the type \|S4"),
    "classes numbers": ({"classes": lambda a: np.arange(3)}, "classes must be text; got the type int64"),
}


@pytest.mark.parametrize("fault", ODD_ARRAYS)
def test_arrays_of_another_kind_are_refused(tmp_path, fault):
    changed, match = ODD_ARRAYS[fault]
    path = tmp_path / "in.npz"
    np.savez(path, **arrays(**changed))
    assert_refused(rf"in\.npz.*{match}", "cifar10-jpeg", path, tmp_path / "data", NPZ)


SHAPES = "(10000000000000,)", f"({10**30},)", "(-4,)", "(4.0,)", "(1, 2", "('a',)", f"({9000 * '-'}4,)", 9000 * "("


@pytest.mark.parametrize("shape", SHAPES, ids="{:.20}".format)
def test_a_header_that_claims_another_shape_is_refused(tmp_path, shape):
    path = tmp_path / "in.npz"
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    members["train_label.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(32)
    zip_of(path, members)
    assert_refused("in.npz is not a whole .npz file", "cifar10-jpeg", path, tmp_path / "data", NPZ)


# CIFAR's archive


def cifar_files(**changed):
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    made = {name: b"".join(bytes([label]) + RNG.bytes(3072) for label in (0, 2)) for name in names}
    made["batches.meta.txt"] = b"cat\ndog\nbird\n"
    return made | changed


def cifar_archive(path, contents):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"cat\ndog\n\xff\n", "in.tar.gz: batches.meta.txt is no text in UTF-8"),
        (b"\x80\x04\x95pickle", "in.tar.gz: batches.meta.txt is no text in UTF-8"),
        (b"cat\ndog\ncat\n", "in.tar.gz: batches.meta.txt must be different names; got 'cat', 'dog', 'cat'"),
    ],
)
def test_class_names_of_another_kind_are_refused(tmp_path, text, match):
    path = cifar_archive(tmp_path / "in.tar.gz", cifar_files(**{"batches.meta.txt": text}))
    assert_refused(match, "cifar10", path, tmp_path / "data", CIFAR)


def test_every_flipped_bit_of_a_compressed_archive_is_found(tmp_path):
    """Also without a checksum of the whole file; five bytes of gzip's header are a time and a system."""
    path = cifar_archive(tmp_path / "in.tar.gz", cifar_files())
    whole = path.read_bytes()
    assert len(contents(prepare("cifar10", path, tmp_path, CIFAR, progress=False))[0]["train_labels"]) == 10
    start = whole.index(b"in.tar\0") + 7 if b"in.tar\0" in whole[:40] else 10
    for bit in RNG.integers(8 * start, 8 * len(whole), 60):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert_refused(r"in\.tar\.gz", "cifar10", path, tmp_path / "data", CIFAR)
    for kept in (1, 8):
        path.write_bytes(whole[:-kept])
        assert_refused("in.tar.gz is not a whole .tar.gz archive", "cifar10", path, tmp_path / "data", CIFAR)


# Bombs

BOMBS = """
import resource, sys
import test_odd_sources as sources
from bioshare.train.data.prepare import prepare
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200 * 2**20,) * 2)
for name, path, source in (line.split() for line in sys.argv[1:]):
    try:
        prepare(name, path, "data", getattr(sources, source), progress=False)
    except ValueError as error:
        print("refused", error)
"""
MEGABYTES = 384


def zeros(path, name, header=b""):
    """A member of a zip file that unpacks to `MEGABYTES`."""
    kind = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "a", kind, compresslevel=1) as archive, archive.open(name, "w") as member:
        member.write(header)
        for _ in range(MEGABYTES):
            member.write(bytes(2**20))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory needs Linux")
def test_archives_that_unpack_to_much_are_refused_in_little_memory(tmp_path):
    names = "image.zip", "list.zip", "in.npz", "ends.npz", "header.npz", "in.tar.gz"
    image, classes, labels, ends, head, archive = (tmp_path / name for name in names)
    zip_of(image, {name: data for name, data in files().items() if name != "train/a/0.png"})
    zeros(image, "train/a/0.png")
    zeros(zip_of(classes, files()), "wnids.txt")
    size = MEGABYTES * 2**20 // 8
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({size},), }}".encode().ljust(117) + b"\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    longer = b"\x93NUMPY\x02\x00" + struct.pack("<I", MEGABYTES * 2**20)  # nothing but a header
    for path, name, first in ((labels, "train_label", header), (ends, "train_end", header), (head, "classes", longer)):
        np.savez(path, **{key: array for key, array in arrays().items() if key != name})
        zeros(path, f"{name}.npy", first)
    with gzip.open(archive, "wb", 1) as stream:
        member = tarfile.TarInfo("cifar-10-batches-bin/batches.meta.txt")
        member.size = MEGABYTES * 2**20
        stream.write(member.tobuf())
        for _ in range(MEGABYTES):
            stream.write(bytes(2**20))
    cases = [f"tinyimagenet {image} TWO", f"tinyimagenet {classes} TWO", f"cifar10-jpeg {labels} NPZ"]
    cases += [f"cifar10-jpeg {ends} LARGE", f"cifar10-jpeg {head} NPZ", f"cifar10 {archive} CIFAR"]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, *cases],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all(line.startswith(f"refused {case.split()[1]}") for line, case in zip(lines, cases, strict=True))
    assert not (tmp_path / "data").exists()
