"""Images as they should not be: right pixels, or a ValueError that names the image."""

import io
import os
import shutil
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bioshare.train.data.images import Encoded, decode, random_resized_crop, resized_crop

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def saved(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def read(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode(Encoded("odd.png", data), 32).transpose(1, 2, 0)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks, columns=32, rows=32, depth=8, colour=2, pixels=b""):
    """A PNG of any header, with further chunks before the pixels."""
    header = struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_sixteen_bits_become_eight_in_grey_as_in_colours():
    grey = RNG.integers(0, 2**16, (32, 32), dtype=np.uint16)
    grey[0, :2] = 0, 65535
    np.testing.assert_array_equal(read(saved(Image.fromarray(grey))), np.repeat(grey[..., None] >> 8, 3, axis=-1))
    colours = RNG.integers(0, 2**16, (32, 32, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    np.testing.assert_array_equal(read(png(depth=16, pixels=rows)), colours >> 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_a_png_is_read_without_a_warning(mode):
    picture = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(read(saved(picture)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_mode_of_a_jpeg_is_read(mode):
    smooth = np.linspace(20, 200, 32).astype(np.uint8)[:, None, None] * np.ones((1, 32, 3), np.uint8)
    data = saved(Image.fromarray(smooth).convert(mode), "JPEG", quality=95)
    assert np.abs(read(data).astype(int) - smooth).max() < 10


def test_a_jpeg_of_a_camera_with_a_second_picture_is_read():
    """Pillow has another name for the form, MPO."""
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("white", "black")]
    data = saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    assert read(data).min() > 250


def test_a_palette_with_opacity_gives_the_colours_of_the_palette():
    picture = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read(saved(picture, transparency=bytes(range(0, 256, 16)))), expected)


def test_the_content_counts_and_not_the_ending(tmp_path):
    (tmp_path / "a.JPEG").write_bytes(saved(Image.fromarray(RGB)))
    np.testing.assert_array_equal(decode(Encoded(str(tmp_path / "a.JPEG")), 32).transpose(1, 2, 0), RGB)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(%s) (w) file closefile\nshowpage\n%%EOF\n"


@pytest.mark.skipif(os.name != "posix", reason="a program in the path needs a shell")
def test_no_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow would hand an EPS file to Ghostscript, if there is one."""
    for name in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert shutil.which("gs") == str(tmp_path / "gs")
    with pytest.raises(ValueError, match=r"odd.png is not an image that can be read: it is neither JPEG nor PNG"):
        read(EPS)
    assert not (tmp_path / "started").exists()


OTHER = {
    "float TIFF": lambda: saved(Image.fromarray(RNG.random((32, 32), np.float32)), "TIFF"),
    "32-bit TIFF": lambda: saved(Image.fromarray(RNG.integers(0, 2**31, (32, 32), dtype=np.int32)), "TIFF"),
    "GIF": lambda: saved(Image.fromarray(RGB).convert("P"), "GIF"),
    "BMP": lambda: saved(Image.fromarray(RGB), "BMP"),
    "WEBP": lambda: saved(Image.fromarray(RGB), "WEBP"),
    "PPM": lambda: saved(Image.fromarray(RGB), "PPM"),
    "text": lambda: b"hello",
    "nothing": lambda: b"",
    "header of a JPEG": lambda: b"\xff\xd8\xff\xe0 no image",
    "half a JPEG": lambda: saved(Image.fromarray(RGB), "JPEG")[:-300],
    "half a PNG": lambda: saved(Image.fromarray(RGB))[:-300],
    "flipped bit in a PNG": lambda: saved(Image.fromarray(RGB)).replace(b"IDAT", b"IEAT"),
    "text of 200 MB": lambda: png(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000), 1))),
    "colours of 200 MB": lambda: png(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(200_000_000), 1))),
    "too many pixels": lambda: png(columns=20_000, rows=20_000),
    "many pixels": lambda: png(columns=12_000, rows=12_000),
}


@pytest.mark.parametrize("kind", OTHER)
def test_any_other_file_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=r"^odd.png is not an image that can be read: .*\. Fetch the source again$"):
        read(OTHER[kind]())


def test_an_image_is_never_longer_than_memory_when_resized():
    thin = saved(Image.new("L", (60_000, 1)))
    with pytest.raises(ValueError, match=r"thin must have at most \d+ pixels when resized; got 15360000 x 256"):
        resized_crop(Encoded("thin", thin), 256, 224, 0.5, 0.5)
    assert random_resized_crop(Encoded("thin", thin), 8, 0.5, 0.5, 0.5, 0.5).shape == (3, 8, 8)


def test_damaged_images_are_pixels_or_an_error_with_the_name():
    """Bits flipped at random places of a PNG and a JPEG."""
    refused = 0
    for whole in (saved(Image.fromarray(RGB), pnginfo=information()), saved(Image.fromarray(RGB), "JPEG")):
        for _ in range(200):
            data = bytearray(whole)
            for bit in RNG.integers(0, 8 * min(len(data), 600), 3):
                data[bit // 8] ^= 1 << bit % 8
            try:
                assert decode(Encoded("odd.png", bytes(data)), 32).shape == (3, 32, 32)
            except ValueError as error:
                assert str(error).startswith("odd.png ")  # noqa: PT017 (either is right)
                refused += 1
    assert 200 < refused < 400


def information():
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "words " * 20, zip=True)
    return text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: None])
def test_only_regular_files_are_opened(tmp_path, make):
    """A named pipe would be waited for without end."""
    make(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png is not an image that can be read: (there is no regular|no such) file"):
        decode(Encoded(str(tmp_path / "a.png")), 32)


BOMBS = """
import resource, sys
from bioshare.train.data.images import Encoded, resized_crop
resource.setrlimit(resource.RLIMIT_AS, (600 * 2**20, 600 * 2**20))
for name in sys.argv[1:]:
    try:
        resized_crop(Encoded(name), 64, 64, 0.5, 0.5)
    except ValueError as error:
        print("refused", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory needs Linux")
def test_bombs_are_refused_in_little_memory(tmp_path):
    bombs = {"text of 200 MB": None, "colours of 200 MB": None, "many pixels": None, "too many pixels": None}
    for name in bombs:
        (tmp_path / name).write_bytes(OTHER[name]())
    done = subprocess.run([sys.executable, "-c", BOMBS, *bombs], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(bombs)
    assert all(line.startswith(f"refused {name} is not an image") for line, name in zip(lines, bombs, strict=True))
