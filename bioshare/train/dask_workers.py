"""The workers of a Dask scheduler, on this machine or others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from bioshare.progress import one_line, say

if TYPE_CHECKING:
    from distributed import Future

CONNECT = 10.0
"""Seconds to wait for a scheduler."""
LOOK = 2.0
"""Seconds between two looks for workers."""
PATIENCE = 300.0
"""Seconds to wait for a worker while there is none."""
GOES_ON = "the same command goes on from the runs' last checkpoints"


class DaskWorkers:
    """A connection to a Dask scheduler whose workers have one thread each.

    Args:
        address: address of the scheduler. An address tls://... needs the credentials in Dask's own configuration,
            ``distributed.comm.tls``; the user is warned of every other address.

    Raises:
        ValueError: no scheduler answers in `CONNECT` seconds, or a worker has several threads.
    """

    def __init__(self, address: str) -> None:
        from distributed import Client  # takes a second to import

        self.address, self.looked, self.seen = address, time.monotonic(), time.monotonic()
        try:
            with ThreadPoolExecutor(1) as thread:  # a notebook has a running loop in its own
                thread.submit(asyncio.run, _shake_hands(address)).result()
            self.client = Client(address, timeout=CONNECT, set_as_default=False)
        except Exception as error:  # an answer in another protocol raises anything
            raise ValueError(
                f"scheduler must be the address of a running Dask scheduler, such as tls://host:8786; got {address!r}, "
                f"which does not answer as a scheduler within {CONNECT:g} s ({one_line(error)})"
            ) from error
        if any(threads > 1 for threads in self._threads().values()):
            self.client.close()
            raise ValueError(
                f"the workers of {address} must have one thread each, since runs in one process would share its "
                f"random generators; start them with `dask worker {address} --nthreads 1`"
            )
        if not address.startswith(("tls://", "wss://")):
            say(
                f"warning: whoever reaches {address} can run programs as you; a scheduler with TLS asks for credentials"
            )

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def __len__(self) -> int:
        return len(self._threads())

    def submit(self, call: Callable[[], Any]) -> Future:
        """Hand a call to a worker; the future has the value."""
        return self.client.submit(call, pure=False)

    def check(self) -> None:
        """Look for the scheduler and, now and then, for its workers; to be called again and again.

        Raises:
            ConnectionError: the scheduler is gone, or there has been no worker for `PATIENCE` seconds.
        """
        now = time.monotonic()
        gone = ConnectionError(f"the scheduler {self.address} is gone. Start it and its workers again; {GOES_ON}")
        if self.client.status != "running":
            raise gone
        if now - self.looked < LOOK:
            return
        try:
            workers = len(self)
        except OSError as error:
            raise gone from error
        absent, self.looked = self.seen < self.looked, now
        if workers:
            self.seen = now
        elif not absent:
            say(f"{self.address} has no worker; waiting for one, at most {PATIENCE:g} s")
        elif now - self.seen > PATIENCE:
            raise ConnectionError(f"{self.address} has had no worker for {PATIENCE:g} s. Start workers; {GOES_ON}")

    def _threads(self) -> dict[str, int]:
        """Number of threads of every worker."""
        return cast("dict[str, int]", self.client.nthreads())


async def _shake_hands(address: str) -> None:
    """Exchange greetings with a scheduler, which Dask's own client would wait for without end."""
    from distributed.comm.core import connect
    from distributed.security import Security

    comm = await asyncio.wait_for(connect(address, CONNECT, **Security().get_connection_args("client")), CONNECT)
    await comm.close()
