"""A setting in Brian2, in a process of its own: Brian2 wants a main thread, and its device may be in use here."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.explorer.answer import in_brian2
from bioshare.explorer.setting import Setting

CODE = "from bioshare.explorer.literal import main; main()"
POLL = 0.05
"""Seconds between two looks whether it is done."""


def run_elsewhere(setting: Setting, progress: Callable[[int], object]) -> tuple[NDArray[np.int64], Array]:
    """`in_brian2` in a new process of this Python.

    Args:
        setting: a stable one.
        progress: called with 0 all the time; what it raises ends the process.

    Returns:
        Presentations (R,) and -log SNR (R,).

    Raises:
        RuntimeError: the process failed, with the last line that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="bioshare-brian2-") as folder:
        path, log = Path(folder) / "run.npz", Path(folder) / "log"
        with log.open("w") as out:
            command = [sys.executable, "-c", CODE, json.dumps(setting.values()), str(path)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            try:
                while process.poll() is None:
                    progress(0)
                    time.sleep(POLL)
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            lines = log.read_text().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"the process ended with exit code {process.returncode}")
        with np.load(path) as run:
            return run["presentation"], run["neg_log_snr"]


def main() -> None:
    """Run the setting of the first argument, as JSON, into the file of the second."""
    presentation, curve = in_brian2(Setting(**json.loads(sys.argv[1])))
    np.savez(sys.argv[2], presentation=presentation, neg_log_snr=curve)
