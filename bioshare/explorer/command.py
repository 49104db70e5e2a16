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
LOCAL = "localhost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``explore``."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that works without Python, and end")
    parser.add_argument("--port", type=int, default=8866, help="of the live page (default: %(default)s)")
    parser.add_argument(
        "--ip", default=LOCAL, metavar="ADDRESS",
        help="address at which the live page listens, such as 0.0.0.0 for other machines and containers; a page of any "
        "address but %(default)s needs the token that is printed (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="print the live page's address, open no browser")
    sliders = parser.add_argument_group("initial values of the sliders")
    for slider in SLIDERS:
        default, kind = getattr(Setting(), slider.name), int if slider.name in WHOLE else float
        label = slider.label.removeprefix(f"{SYMBOLS[slider.name]}  ")  # the option has the symbol's name
        help_text = f"{label}, {slider.low:g} to {slider.high:g} (default: {default:g})"
        sliders.add_argument(f"--{slider.name.replace('_', '-')}", type=kind, metavar="X", help=help_text)


def main(arguments: argparse.Namespace) -> None:
    """Write the saved page, or serve the live page until an interrupt."""
    given = {slider.name: getattr(arguments, slider.name) for slider in SLIDERS}
    setting = Setting(**{name: value for name, value in given.items() if value is not None})
    if arguments.html:
        from bioshare.explorer.page import save

        path = save(arguments.html, setting)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if importlib.util.find_spec("voila") is None:
        raise ValueError("the live explorer needs Voila: pip install voila, or bioshare with its extra notebook")
    check_address(arguments.ip, arguments.port)
    with tempfile.TemporaryDirectory(prefix="bioshare-explore-") as folder:
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
    """Run Voila on a notebook until Voila ends, SIGTERM or Ctrl-C.

    Args:
        setting: initial values of the sliders.
        folder: an empty folder for the notebook and the kernel.
        port: a port of this machine.
        browser: True to open a browser, for localhost only.
        ip: an address of this machine; any address but localhost needs a token, printed with the address.

    Raises:
        OSError: Voila failed.
    """
    paths = [str(folder), str(HERE), os.environ.get("JUPYTER_PATH")]  # of the kernel, the template, and others
    environment = {**os.environ, "JUPYTER_PATH": os.pathsep.join(filter(None, paths))}
    place = f"http://localhost:{port}/"
    if ip != LOCAL:
        environment["JUPYTER_TOKEN"] = token = secrets.token_urlsafe()
        place += f"?token={token} (from another machine, with this machine's name in place of localhost)"
    print(f"The explorer is at {place} until Ctrl-C.", flush=True)
    command = voila_command(write_notebook(setting, folder), port, browser, ip)
    with sigterm_as_interrupt():
        voila = subprocess.Popen(command, env=environment)
        try:
            code = voila.wait()
        finally:
            stop_process(voila)
    if code:
        raise OSError(f"Voila ended with exit code {code}")


def voila_command(notebook: Path, port: int, browser: bool, ip: str = LOCAL) -> list[str]:
    """The command that starts Voila with the settings of voila/voila.json.

    In these settings, a kernel ends two minutes after its page is closed. A closed tab ends a kernel by a secret name
    and without a token, hence no check of the token; ``ws_ping_timeout`` avoids a warning.
    """
    settings = {
        "config_file_paths": HERE / "voila",
        "ip": ip,
        "port": port,
        "open_browser": browser and ip == LOCAL,
        "auto_token": ip != LOCAL,  # JUPYTER_TOKEN of the environment: other users can read a command
    }
    options = [f"--Voila.{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "voila", str(notebook), *options]


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""

    signal = signal.SIGTERM


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that child processes end, too."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_process(process: subprocess.Popen[Any]) -> None:
    """Terminate a process with all children, and wait for the end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_notebook(setting: Setting, folder: Path) -> Path:
    """Write bioshare.ipynb, a notebook of one code cell, and a kernel with this Python and working folder."""
    import nbformat
    from nbformat import v4

    values = ", ".join(f"{name}={value!r}" for name, value in setting.values().items())
    source = f"import os\n\nimport bioshare as bs\n\nos.chdir({os.getcwd()!r})\nbs.explore({values})"
    kernel = {"name": "bioshare", "display_name": "bioshare", "language": "python"}
    cells = [v4.new_markdown_cell(f"## {TITLE}"), v4.new_code_cell(source)]
    path = folder / "bioshare.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    start = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"]
    spec = folder / "kernels" / "bioshare" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": start, **kernel}))
    return path
