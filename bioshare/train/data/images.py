"""Decoding of image files with Pillow: one image, or many images in parallel processes.

Only JPEG and PNG are opened. Pillow would look at the content, and start Ghostscript for a file that is a program.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from bioshare.machine import cores
from bioshare.train.data.reading import check_regular, naming
from bioshare.train.data.workers import in_parallel

CHUNK = 256
"""Images per task of a process; fewer images are decoded in this process."""
CHUNK_BYTES = 2**26
"""Bytes of encoded images after which a task has fewer images."""
MOST_PIXELS = 89_478_485
"""Pixels of the largest image, in a file or resized: Pillow's bound for a warning."""
FORMATS = "JPEG", "PNG"

Done = TypeVar("Done")


@dataclass(frozen=True)
class Encoded:
    """An image as JPEG or PNG.

    Attributes:
        name: name in error messages, and path of a file.
        data: bytes of the image; None to read the file ``name``.
    """

    name: str
    data: bytes | None = None


def decode(image: Encoded, side: int) -> np.ndarray:
    """The pixels of an image of side x side, (3, side, side) uint8; grey becomes RGB, 16 bits become 8.

    Raises:
        ValueError: the image is unreadable, truncated or of another size.
    """
    with _open_image(image) as picture:
        if picture.size != (side, side):
            width, height = picture.size
            raise ValueError(f"{image.name} must have {side} x {side} pixels; got {width} x {height}")
        return np.asarray(_rgb(image, picture)).transpose(2, 0, 1)


def resized_crop(image: Encoded, resize: int, side: int, row: float, column: float) -> np.ndarray:
    """Resize the smaller side of an image to ``resize`` pixels, and crop it.

    Args:
        image: of any size.
        resize: pixels of the smaller side before the crop.
        side: rows and columns of the crop.
        row, column: place of the crop, from 0 (top, left) to just under 1 (bottom, right); 0.5 is the centre. Uniform
            numbers give uniform places.

    Returns:
        (3, side, side) uint8.

    Raises:
        ValueError: the image is unreadable or truncated.
    """
    with _open_image(image) as picture:
        scale = resize / min(picture.size)
        width, height = (max(resize, int(length * scale)) for length in picture.size)
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"{image.name} must have at most {MOST_PIXELS} pixels when resized; got {width} x {height}"
            )
        resized = _rgb(image, picture).resize((width, height), Image.Resampling.BILINEAR)
        left, top = int(column * (width - side + 1)), int(row * (height - side + 1))
        return np.asarray(resized.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def random_resized_crop(image: Encoded, side: int, row: float, column: float, area: float, aspect: float) -> np.ndarray:
    """Crop a part of an image and resize the part.

    Args:
        image: of any size.
        side: rows and columns of the result.
        row, column: place of the part, as for `resized_crop`.
        area: area of the part, from 0 (8 % of the image) to 1 (the whole image).
        aspect: columns over rows of the part, from 0 (3/4) to 1 (4/3), on a logarithmic scale. The part ends at the
            edge of the image.

    Returns:
        (3, side, side) uint8.

    Raises:
        ValueError: the image is unreadable or truncated.
    """
    with _open_image(image) as picture:
        columns, rows = picture.size
        pixels, ratio = columns * rows * (0.08 + 0.92 * area), (3 / 4) ** (1 - 2 * aspect)
        width, height = min(columns, round((pixels * ratio) ** 0.5)), min(rows, round((pixels / ratio) ** 0.5))
        left, top = int(column * (columns - width + 1)), int(row * (rows - height + 1))
        box = left, top, left + width, top + height
        cropped = _rgb(image, picture).resize((side, side), Image.Resampling.BILINEAR, box)
        return np.asarray(cropped).transpose(2, 0, 1)


def decode_all(images: Iterable[Encoded], count: int, side: int, bar: tqdm, resize: bool = False) -> np.ndarray:
    """Decode ``count`` images of side x side in order: (count, 3, side, side) uint8.

    With ``resize``, images have any size: the smaller side becomes ``side`` pixels, and the centre is cut out.
    """
    pixels, done = np.empty((count, 3, side, side), np.uint8), 0
    for chunk in _in_parallel(partial(_decode_chunk, side=side, resize=resize), images, count):
        pixels[done : done + len(chunk)] = chunk
        done += len(chunk)
        bar.update(len(chunk))
    return pixels


def check_all(images: Iterable[Encoded], count: int, bar: tqdm) -> None:
    """Read every image to the end, JPEGs at an eighth of the size.

    Raises:
        ValueError: an image can't be read; gives its name.
    """
    for checked in _in_parallel(_check_chunk, images, count):
        bar.update(checked)


@contextmanager
def _open_image(image: Encoded) -> Iterator[Image.Image]:
    """An open image, whose pixels `_rgb` reads."""
    with _naming(image), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # from MOST_PIXELS on
        if image.data is None:
            check_regular(image.name)
        try:
            picture = Image.open(image.name if image.data is None else io.BytesIO(image.data), formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("it is neither JPEG nor PNG") from None
    with picture:
        yield picture


def _rgb(image: Encoded, picture: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB, without opacity; of 16-bit grey the high byte, as Pillow takes of 16-bit colours."""
    with _naming(image):
        if picture.mode.startswith("I"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        elif picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # without Pillow's warning
        return picture.convert("RGB")


def _naming(image: Encoded) -> AbstractContextManager[None]:
    return naming(image.name, "is not an image that can be read", "Fetch the source again")


def _decode_chunk(images: list[Encoded], side: int, resize: bool) -> np.ndarray:
    read = partial(resized_crop, resize=side, side=side, row=0.5, column=0.5) if resize else partial(decode, side=side)
    return np.stack([read(image) for image in images])


def _check_chunk(images: list[Encoded]) -> int:
    for image in images:
        with _open_image(image) as picture, _naming(image):
            picture.draft("RGB", (1, 1))
            picture.load()
    return len(images)


def _chunks(images: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    chunk, size = [], 0
    for image in images:
        chunk.append(image)
        size += len(image.data or b"")
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _in_parallel(work: Callable[[list[Encoded]], Done], images: Iterable[Encoded], count: int) -> Iterator[Done]:
    """The results for chunks of the images, in order.

    Threads make small images slower (two cores, JPEGs of 32 x 32: 1.0 s in one thread, 1.7 s in two, 0.7 s in two
    processes), and are as fast as processes from about 400 x 400.
    """
    chunks, processes = _chunks(images), min(cores(), -(-count // CHUNK))
    return map(work, chunks) if count <= CHUNK else in_parallel(work, chunks, processes)
