"""``python -m bioshare explore``: the explorer in a browser, or as a page in a file."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bioshare.explorer.setting import SLIDERS, SYMBOLS, WHOLE, Setting
from bioshare.explorer.words import TITLE

HERE = Path(__file__).parent
LOCAL, PREFIX = "localhost", "bioshare-"
SHORT = 38
"""Longest path of a folder that leaves room for the names of sockets: 65 of at least 103 characters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``explore``."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that works without Python, and end")
    parser.add_argument("--port", type=int, default=8866, help="of the live page (default: %(default)s)")
    parser.add_argument(
        "--ip", default=LOCAL, metavar="ADDRESS",
        help="address at which the live page listens, such as 0.0.0.0 for other machines and containers "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="print the live page's address, open no browser")
    sliders = parser.add_argument_group("initial values of the sliders")
    for slider in SLIDERS:
        default, kind = getattr(Setting(), slider.name), int if slider.name in WHOLE else float
        label = slider.label.removeprefix(f"{SYMBOLS[slider.name]}  ")  # the option has the symbol's name
        help_text = f"{label}, {slider.low:g} to {slider.high:g} (default: {default:g})"
        sliders.add_argument(f"--{slider.name.replace('_', '-')}", type=kind, metavar="X", help=help_text)
    parser.add_argument("--inhibitory-bias", action="store_true", help="the inhibitory neuron has the bias, too")


def main(arguments: argparse.Namespace) -> None:
    """Write the saved page, or serve the live page until an interrupt."""
    given = {slider.name: getattr(arguments, slider.name) for slider in SLIDERS}
    given["inhibitory_bias"] = arguments.inhibitory_bias
    setting = Setting(**{name: value for name, value in given.items() if value is not None})
    if arguments.html:
        from bioshare.explorer.page import save

        path = save(arguments.html, setting)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if importlib.util.find_spec("voila") is None:
        raise ValueError("the live explorer needs Voila: pip install voila, or bioshare with its extra notebook")
    check_address(arguments.ip, arguments.port)
    with signals_as_interrupts(), tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        serve(setting, Path(folder), arguments.port, not arguments.no_browser, arguments.ip)


def check_address(ip: str, port: int) -> None:
    """Raise ValueError for an address of another machine, an impossible port, or a port of another program."""
    if not 0 < port < 65536:
        raise ValueError(f"--port must be from 1 to 65535; got {port}")
    try:
        socket.create_server((ip, port), family=socket.AF_INET6 if ":" in ip else socket.AF_INET).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"--port {port} is in use by another program: choose another") from None
        if error.errno == errno.EACCES:
            raise ValueError(f"--port {port} is for the administrator: choose a port above 1023") from None
        raise ValueError(f"--ip must be an address of this machine, such as 0.0.0.0; got {ip} ({error})") from None


def serve(setting: Setting, folder: Path, port: int, browser: bool, ip: str = LOCAL) -> None:
    """Run the server of `bioshare.explorer.server` until the server ends or an interrupt.

    The server ends with this process, however this process ends: a pipe to the server is closed then.

    Args:
        setting: initial values of the sliders.
        folder: an empty folder for the notebook, the kernels and the server.
        port: a port of this machine.
        browser: True to open a browser, for localhost only.
        ip: an address of this machine.

    Raises:
        OSError: the server failed.
    """
    paths = [str(folder), str(HERE), os.environ.get("JUPYTER_PATH")]  # of the kernel, the template, and others
    token = secrets.token_urlsafe()  # in the environment, since other users can read a command
    own = {"JUPYTER_PATH": os.pathsep.join(filter(None, paths)), "JUPYTER_TOKEN": token, "TMPDIR": str(folder)}
    command = server_command(write_notebook(setting, folder), port, browser, ip)
    server = subprocess.Popen(command, env={**os.environ, **own}, stdin=subprocess.PIPE, start_new_session=True)
    try:
        elsewhere = "" if ip == LOCAL else " (from another machine, with this machine's name in place of localhost)"
        print(f"The explorer is at http://localhost:{port}/?token={token}{elsewhere} until Ctrl-C.", flush=True)
        code = server.wait()
    finally:
        stop_server(server)
    if code:
        raise OSError(f"Voila ended with exit code {code}")


def server_command(notebook: Path, port: int, browser: bool, ip: str = LOCAL) -> list[str]:
    """The command that starts the server with the settings of voila/voila.json.

    In these settings, a kernel ends two minutes after its page is closed. A closed tab ends a kernel at once, without a
    token against forged requests, hence no check of this token: Jupyter compares the origin.
    """
    settings = {
        "ExplorerServer.folder": notebook.parent,
        "Voila.connection_dir_root": notebook.parent,
        "Voila.config_file_paths": HERE / "voila",
        "Voila.ip": ip,
        "Voila.port": port,
        "Voila.open_browser": browser and ip == LOCAL,
    }
    if os.name != "nt" and len(str(notebook.parent)) <= SHORT:
        settings["KernelManager.transport"] = "ipc"  # in a folder of this user, where others can't even read
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "bioshare.explorer.server", str(notebook), *options]


class Terminated(KeyboardInterrupt):
    """A signal arrived.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, of a closed terminal, end the block as Ctrl-C does, so that all is cleaned up.

    An ignored SIGHUP, as after ``nohup``, stays ignored.
    """
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, names)}

    def end(number: int, frame: FrameType | None) -> None:
        for caught in before:
            signal.signal(caught, signal.SIG_IGN)  # a shell and the terminal may both send one
        raise Terminated(number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_server(server: subprocess.Popen[Any]) -> None:
    """Close the pipe to the server, and wait for the end; a server that does not end is killed."""
    assert server.stdin is not None, "the server has a pipe"
    server.stdin.close()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def write_notebook(setting: Setting, folder: Path) -> Path:
    """Write bioshare.ipynb, a notebook of one code cell, and a kernel with this Python that works in the folder."""
    import nbformat
    from nbformat import v4

    values = ", ".join(f"{name}={value!r}" for name, value in setting.values().items())
    source = f"import bioshare as bs\n\nbs.explore({values})"
    kernel = {"name": "bioshare", "display_name": "bioshare", "language": "python"}
    cells = [v4.new_markdown_cell(f"## {TITLE}"), v4.new_code_cell(source)]
    path = folder / "bioshare.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    start = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"]
    spec = folder / "kernels" / "bioshare" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": start, **kernel}))
    return path
