"""A process of this machine for one run.

The call and the value are pickled in a temporary folder, which only this user can open.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import Any

import cloudpickle

from bioshare.files import replacing

RESTARTS = 3
"""New starts of a run after its process was killed by a signal, as many as Dask's default for a dead worker."""


class RunProcess:
    """A function call in a process of its own, started again after a signal has killed the process.

    The methods are as in a future; the end of a ``with`` block kills the process. SIGTERM stops the process when the
    call is cancelled, and when this process dies; Ctrl-C in a terminal does not reach the process.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.starts, self.cancelled, self.folder = 0, False, TemporaryDirectory(prefix="bioshare-")
        self.returned = Path(self.folder.name, "result")
        Path(self.folder.name, "call").write_bytes(cloudpickle.dumps(call))
        self._start()

    def _start(self) -> None:
        code = f"import sys; sys.path = {sys.path!r}; from bioshare.train.run_process import work; work(sys.argv[1])"
        self.process = Popen([sys.executable, "-c", code, self.folder.name], stdin=PIPE, start_new_session=True)
        self.starts += 1

    def __enter__(self) -> RunProcess:
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:
            self.process.kill()
        self.folder.cleanup()

    def done(self) -> bool:
        """Check whether the process has ended for good; start a killed process again."""
        status = self.process.poll()
        if status is None:
            return False
        self.process.__exit__(None, None, None)  # closes the pipe
        killed = (status < 0 or status > 128) and not self.returned.exists()
        if killed and not self.cancelled and self.starts <= RESTARTS:
            self._start()
            return False
        return True

    def result(self) -> Any:
        """The value of the call.

        Raises:
            RuntimeError: the process ended without a result.
        """
        if not self.returned.exists():
            raise RuntimeError(f"its process ended with status {self.process.returncode}, at start {self.starts}")
        return pickle.loads(self.returned.read_bytes())

    def cancel(self) -> None:
        """Stop the process by SIGTERM, so that a run writes a checkpoint."""
        if not self.cancelled:
            self.cancelled = True
            self.process.terminate()


def work(folder: str) -> None:
    """Make the call of a `RunProcess`, in the new process."""

    def stop_with_parent() -> None:
        os.read(0, 1)  # returns when the parent closes its end of the pipe, or dies
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        value = pickle.loads(Path(folder, "call").read_bytes())()
    except KeyboardInterrupt as error:
        sys.exit(128 + getattr(error, "signal", signal.SIGINT))
    with replacing(Path(folder, "result")) as path:
        path.write_bytes(pickle.dumps(value))
