"""Decoding of image files with Pillow: one image, or many images in parallel processes."""

from __future__ import annotations

import io
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from bioshare.machine import cores

CHUNK = 256
"""Images per task of a process; fewer images are decoded in this process."""

Work = TypeVar("Work")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Encoded:
    """An image as JPEG, PNG or another format of Pillow.

    Attributes:
        name: name in error messages, and path of a file.
        data: bytes of the image; None to read the file ``name``.
    """

    name: str
    data: bytes | None = None


def decode(image: Encoded, side: int) -> np.ndarray:
    """The pixels of an image of side x side, (3, side, side) uint8; grey becomes RGB.

    Raises:
        ValueError: the image is unreadable, truncated or of another size.
    """
    with _open_image(image) as picture:
        if picture.size != (side, side):
            width, height = picture.size
            raise ValueError(f"{image.name} must have {side} x {side} pixels; got {width} x {height}")
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


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
        resized = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
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
        cropped = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box)
        return np.asarray(cropped).transpose(2, 0, 1)


def decode_all(images: Iterable[Encoded], count: int, side: int, bar: tqdm, resize: bool = False) -> np.ndarray:
    """Decode ``count`` images of side x side in order: (count, 3, side, side) uint8.

    With ``resize``, images have any size: the smaller side becomes ``side`` pixels, and the centre is cut out.
    """
    pixels, done = np.empty((count, 3, side, side), np.uint8), 0
    for chunk in _in_parallel(partial(_decode_chunk, side=side, resize=resize), _chunks(images), count):
        pixels[done : done + len(chunk)] = chunk
        done += len(chunk)
        bar.update(len(chunk))
    return pixels


def check_all(images: Iterable[Encoded], count: int, bar: tqdm) -> None:
    """Read every image to the end, JPEGs at an eighth of the size.

    Raises:
        ValueError: an image can't be read; gives its name.
    """
    for checked in _in_parallel(_check_chunk, _chunks(images), count):
        bar.update(checked)


@contextmanager
def _open_image(image: Encoded) -> Iterator[Image.Image]:
    """An open image, whose pixels are read on first use; errors in the block name the image."""
    try:
        with Image.open(image.name if image.data is None else io.BytesIO(image.data)) as picture:
            yield picture
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{image.name} is not an image that can be read: {error}. Fetch the source again") from error


def _decode_chunk(images: list[Encoded], side: int, resize: bool) -> np.ndarray:
    read = partial(resized_crop, resize=side, side=side, row=0.5, column=0.5) if resize else partial(decode, side=side)
    return np.stack([read(image) for image in images])


def _check_chunk(images: list[Encoded]) -> int:
    for image in images:
        with _open_image(image) as picture:
            picture.draft("RGB", (1, 1))
            picture.load()
    return len(images)


def _chunks(images: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    images = iter(images)
    while chunk := list(islice(images, CHUNK)):
        yield chunk


def _in_parallel(work: Callable[[Work], Done], chunks: Iterable[Work], count: int) -> Iterator[Done]:
    """The results in order, with at most two waiting chunks per process.

    Threads make small images slower (two cores, JPEGs of 32 x 32: 1.0 s in one thread, 1.7 s in two, 0.7 s in two
    processes), and are as fast as processes from about 400 x 400.
    """
    if count <= CHUNK:
        yield from map(work, chunks)
        return
    processes = cores()
    context = multiprocessing.get_context("spawn")  # a fork would copy locked locks of other threads
    pending = deque()
    with ProcessPoolExecutor(processes, context, _leave_interrupts_to_the_parent) as pool:
        try:
            for chunk in chunks:
                pending.append(pool.submit(work, chunk))
                if len(pending) > 2 * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
