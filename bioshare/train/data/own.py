"""Images of one's own in memory as a data set: arrays, or datasets of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bioshare.train.data.datasets import PARTS, Dataset, check_labels, pixel_statistics

PIXELS = "uint8, (channels, rows, columns) each, without ToTensor or Normalize: a run normalises by itself"


def own_data(name: str, data: Any) -> Dataset:
    """A data set of square images in memory.

    Args:
        name: name of the data set.
        data: (train_images, train_labels, test_images, test_labels), arrays or tensors: images
            (n, channels, rows, columns) uint8, labels (n,) whole numbers from 0, and for every class a training image.
            Or (train, test), each a
            `torch.utils.data.Dataset` with a length, whose items are an image (channels, rows, columns) uint8, or a
            grey or RGB picture of Pillow, and a label. Every item is read once.

    Raises:
        TypeError, ValueError: the data have another form; the message names the part.
    """
    if not isinstance(data, list | tuple) or len(data) not in (2, 4):
        raise TypeError(
            "data must be a folder, (train_images, train_labels, test_images, test_labels), or (train, test), two "
            f"datasets of PyTorch; got {data!r:.80}"
        )
    values = [*data] if len(data) == 4 else [*_items("train", data[0]), *_items("test", data[1])]
    names = [f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")]
    arrays = {name: _array(name, value) for name, value in zip(names, values, strict=True)}
    classes = len(set(arrays["train_labels"].ravel().tolist()))
    for part in PARTS:
        images, labels = (arrays[f"{part}_{kind}"] for kind in ("images", "labels"))
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise ValueError(f"{part}_images must be {PIXELS}; got {images.dtype} of the shape {images.shape}")
        check_labels(f"{part}_labels", labels, classes)
        arrays[f"{part}_labels"] = labels.astype(np.int64)
    mean, std = map(tuple, pixel_statistics(arrays["train_images"]))
    tensors: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return Dataset(name, tuple(map(str, range(classes))), mean=mean, std=std, **tensors)


def _array(name: str, value: Any) -> np.ndarray:
    if np.ma.is_masked(value):
        raise ValueError(f"{name} must have no masked elements")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array in the memory of the host: {error}") from error


def _items(part: str, dataset: Any) -> tuple[np.ndarray, list[Any]]:
    """The images (n, channels, rows, columns) and labels of a dataset of PyTorch."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"data must be datasets with a length and items by number; {part} is {dataset!r:.80}")
    images, labels = [], []
    for index in range(len(dataset)):
        try:
            image, label = dataset[index]
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{part}[{index}] must be an image and its label, or data four arrays (train_images, train_labels, "
                "test_images, test_labels)"
            ) from error
        pixels = np.asarray(image)
        if hasattr(image, "getbands"):  # a picture of Pillow
            if image.mode not in ("L", "RGB"):
                raise ValueError(f"{part}[{index}] must be a grey or RGB picture; got {image.mode}")
            pixels = np.moveaxis(pixels, -1, 0) if image.mode == "RGB" else pixels[None]
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or (images and pixels.shape != images[0].shape):
            raise ValueError(f"{part}[{index}] must be {PIXELS}; got {pixels.dtype} of the shape {pixels.shape}")
        images.append(pixels)
        labels.append(label)
    return np.array(images), labels
