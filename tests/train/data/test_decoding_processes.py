"""Processes that decode images: they end with their parent, their death is one line, and a script needs no guard."""

import io
import math
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import psutil
import pytest
from image_sources import contents
from PIL import Image

from bioshare.train.data import images
from bioshare.train.data.workers import in_parallel

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

PREPARE = "from bioshare.__main__ import main; import sys; sys.exit(main(sys.argv[1:]))"
DECODE = """
import sys
from tqdm import tqdm
from bioshare.train.data.images import Encoded, decode_all
images = (Encoded(sys.argv[1]) for _ in range(10**5))
decode_all(images, 10**5, 8, tqdm(disable=True), resize=True)
"""
SCRIPT = """
import sys
from bioshare.train.data.prepare import own_images, prepare
print(prepare("mine", sys.argv[1], "data", own_images(8)))
"""


def zip_of(path, count, columns, rows):
    """A zip file of two classes with so many training images each."""
    stream, rng = io.BytesIO(), np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (8, 12), dtype=np.uint8))
    small.resize((columns, rows)).save(stream, "JPEG")
    with zipfile.ZipFile(path, "w") as archive:
        for part, number in (("train", count), ("val", 1)):
            for name in (f"{part}/{label}/{index}.jpg" for label in "ab" for index in range(number)):
                archive.writestr(name, stream.getvalue())
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Images that take long."""
    return zip_of(tmp_path_factory.mktemp("many") / "many.zip", 400, 1200, 900)


def started(code, most, *words):
    """A process, and its decoding processes once all are there, one per core and at most so many."""
    process = psutil.Popen([sys.executable, "-c", code, *map(str, words)], stderr=subprocess.PIPE, text=True)
    while len(children := process.children(recursive=True)) < min(images.cores(), most):
        assert process.poll() is None
    return process, children


def command(many, folder):
    return started(PREPARE, -(-800 // images.CHUNK), "prepare", "mine", "--from", many, "--side", "700", "--to", folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_decoding_processes_end_with_their_parent(tmp_path, number):
    Image.new("L", (1200, 900)).save(tmp_path / "a.jpg")
    process, children = started(DECODE, 10**5, tmp_path / "a.jpg")
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -number
    assert psutil.wait_procs(children, timeout=30)[1] == []


def test_a_stopped_command_leaves_no_process_and_no_file(many, tmp_path):
    process, children = command(many, tmp_path / "data")
    process.terminate()
    assert process.communicate(timeout=30)[1].count("\n") <= 1
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert not (tmp_path / "data").exists()


def test_a_killed_decoding_process_is_told_in_one_line(many, tmp_path):
    process, children = command(many, tmp_path / "data")
    children[0].kill()
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert error.count("\n") == 1
    assert "error: a process that decoded images was killed, perhaps for lack of memory. Free memory" in error
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert not (tmp_path / "data").exists()


def test_a_script_needs_no_guard(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    words = [sys.executable, "mine.py", str(zip_of(tmp_path / "few.zip", images.CHUNK, 12, 8))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["data/mine.safetensors"]
    assert contents(tmp_path / "data/mine.safetensors")[0]["train_images"].shape == (2 * images.CHUNK, 3, 8, 8)


def test_results_come_in_order_and_no_further_than_two_calls_ahead(capfd):
    taken = []
    squares = (taken.append(number) or number**2 for number in range(100))
    for index, root in enumerate(in_parallel(math.isqrt, squares, 2)):
        assert root == index
        assert len(taken) <= index + 6
    assert list(in_parallel(print, ("a print is no result",), 1)) == [None]
    assert "a print is no result" in capfd.readouterr().err
    with pytest.raises(ValueError, match="nonnegative"):
        list(in_parallel(math.isqrt, (4, -4), 2))
