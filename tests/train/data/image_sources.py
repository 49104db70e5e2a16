"""What the tests of `prepare` make images with, and how they look at what it left."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from bioshare.train.data.prepare import prepare

RNG = np.random.default_rng(0)


def image_bytes(side, mode="RGB"):
    channels = (3,) if mode == "RGB" else ()
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (side, side, *channels), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def contents(path):
    with safe_open(path, "numpy") as file:
        return load_file(path), json.loads(file.metadata()["bioshare"])


def assert_refused(match, *arguments, **keywords):
    """The source is refused with this message, and the folder keeps what it had."""
    folder = arguments[2]
    before = sorted(folder.iterdir()) if folder.exists() else None
    with pytest.raises(ValueError, match=match):
        prepare(*arguments, **keywords, progress=False)
    assert (sorted(folder.iterdir()) if folder.exists() else None) == before
