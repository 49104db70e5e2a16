"""Brian2 in a process of its own: Brian2 needs a main thread and a device without other users."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.circuit.simulate import simulate
from bioshare.explorer.result import records_of, simulate_arguments
from bioshare.explorer.setting import Setting

CODE = "from bioshare.explorer.brian_process import main; main()"


def run_brian2_process(setting: Setting, progress: Callable[[int], object]) -> tuple[NDArray[np.int64], Array]:
    """Simulate a setting step by step in Brian2, in a new process of this Python that ends with this process.

    Args:
        setting: a stable setting.
        progress: called with 0 every 50 ms; an exception of this function ends the process.

    Returns:
        Presentations (R,) and -log SNR (R,).

    Raises:
        RuntimeError: the process failed; the message is the last line of its output.
    """
    with tempfile.TemporaryDirectory(prefix="bioshare-brian2-") as folder:
        path, log = Path(folder) / "run.npz", Path(folder) / "log"
        with log.open("w") as out:
            command = [sys.executable, "-c", CODE, json.dumps(setting.values()), str(path)]
            environment = {**os.environ, "TMPDIR": folder}  # a stopped process leaves no files
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
            )
            try:
                while process.poll() is None:
                    progress(0)
                    time.sleep(0.05)
            finally:
                with process:  # closes the pipe
                    end_group(process.pid)
        if process.returncode:
            lines = log.read_text().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"the process ended with exit code {process.returncode}")
        with np.load(path) as run:
            return run["presentation"], run["neg_log_snr"]


def end_group(leader: int) -> None:
    """Kill a process and all children, such as compilers; the process leads a group of its own."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):  # ended before
            os.killpg(leader, signal.SIGKILL)
    else:
        os.kill(leader, signal.SIGTERM)  # ends a process of Windows at once


def main() -> None:
    """Simulate the setting of the first argument, in JSON, and save the curve in the file of the second."""

    def end_with_parent() -> None:
        os.read(0, 1)  # returns when the parent closes its end of the pipe, or dies
        end_group(os.getpid())

    threading.Thread(target=end_with_parent, daemon=True).start()
    setting = Setting(**json.loads(sys.argv[1]))
    run = simulate(**simulate_arguments(setting), engine="brian2", progress=False)
    presentation, neg_log_snr, *_ = records_of(run)
    np.savez(sys.argv[2], presentation=presentation, neg_log_snr=neg_log_snr)
