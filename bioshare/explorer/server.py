"""The server of the live page: Voila, for the holders of a token, until the parent process closes a pipe or dies."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import shutil
import threading
import webbrowser
from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler
from traitlets import Integer, Unicode
from voila.app import Voila

from bioshare.explorer.command import HERE, LOCAL


def is_local(ip: str) -> bool:
    """True for an address that no other machine can reach."""
    try:
        return ip == LOCAL or ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return False


def only_pages(handler: RequestHandler, **notebook: Any) -> None:
    """Refuse a kernel to a picture or a frame; browsers send the cookie of localhost to all ports of localhost."""
    if handler.request.headers.get("Sec-Fetch-Dest", "document") != "document":
        raise HTTPError(403, "the explorer opens in a tab of its own")


class FewKernels(AsyncMappingKernelManager):
    """Kernels of the open pages, about 420 MB each."""

    most = Integer(8, config=True, help="largest number of kernels")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.in_turn = asyncio.Lock()

    async def start_kernel(self, **options: Any) -> str:
        """Start a kernel, or raise HTTPError 503 where there are too many."""
        async with self.in_turn:
            if len(self) >= self.most:
                raise HTTPError(
                    503, f"{self.most} pages are open: close a page, wait two minutes, and reload this page"
                )
            return await super().start_kernel(**options)


class ExplorerServer(Voila):
    """Voila with the token of JUPYTER_TOKEN; the standard input is a pipe whose other end the parent process holds."""

    folder = Unicode(config=True, help="folder of the server, to be removed at the end")

    def init_settings(self) -> Any:
        """Settings of tornado; a local server has local names, so that no name of another site can lead to the page."""
        self.voila_configuration.prelaunch_hook = only_pages
        settings: Any = super().init_settings()
        logging.getLogger("tornado.general").setLevel(logging.ERROR)  # it takes Jupyter's ms for s, and warns
        settings["jinja2_env"].loader.searchpath.insert(0, str(HERE / "voila" / "templates" / "bioshare"))
        return {**settings, "allow_remote_access": not is_local(self.ip)}

    def listen(self) -> None:
        """Serve until the pipe is closed."""
        loop = IOLoop.current()

        def stop_with_parent() -> None:
            os.read(0, 1)  # returns when the parent closes its end of the pipe, or dies
            loop.add_callback(loop.stop)

        threading.Thread(target=stop_with_parent, daemon=True).start()
        super().listen()

    def launch_browser(self) -> None:
        """Open a file that leads to the page: other users can read a browser's command, but no file of this folder."""
        address = f"http://{LOCAL}:{self.port}/?token={self.identity_provider.token}"
        file = Path(self.folder, "open.html")
        file.write_text(f'<!DOCTYPE html><title>explorer</title><meta http-equiv="refresh" content="0; url={address}">')
        threading.Thread(target=webbrowser.open, args=(file.as_uri(),), daemon=True).start()

    def stop(self) -> None:
        """End all kernels, and remove the folder."""
        super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)  # the parent may have died before


if __name__ == "__main__":
    ExplorerServer.launch_instance()
