"""``python -m bioshare explore``: the explorer in a browser, or as a page in a file."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
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

from bioshare.explorer.setting import SLIDERS, WHOLE, Setting

PORT = 8866

FORSAKEN = 120
"""Seconds after which a kernel ends that no page is connected to."""

HEAD = """## A sharing group asleep

Neurons that should have equal weights see the same inputs; inhibition and anti-Hebbian plasticity pull their
weights together. Move a slider, click a curve to see the weights at that time, or click a cell of the map."""

TEMPLATE = """{%- extends "voila/templates/lab/index.html.j2" -%}
{%- block html_head -%}
<meta name="viewport" content="width=device-width, initial-scale=1">
{{ super() }}
{%- endblock -%}
{%- block notebook_css -%}
{{ super() | string | replace('<link rel="stylesheet" href="https://', '<meta name="not-loaded" content="https://') }}
{%- endblock -%}
"""
"""Voila's page without the fonts that it would fetch from the network."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``explore``."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that works without Python, and end")
    parser.add_argument("--port", type=int, default=PORT, help="of the live page (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="tell the live page's address, open no browser")
    sliders = parser.add_argument_group("where the sliders stand at first")
    for slider in SLIDERS:
        default, kind = getattr(Setting(), slider.name), int if slider.name in WHOLE else float
        help_text = f"{slider.label}, {slider.low:g} to {slider.high:g} (default: {default:g})"
        sliders.add_argument(f"--{slider.name.replace('_', '-')}", type=kind, metavar="X", help=help_text)


def main(arguments: argparse.Namespace) -> None:
    """Write the page, or serve the live one until it is interrupted."""
    given = {slider.name: getattr(arguments, slider.name) for slider in SLIDERS}
    setting = Setting(**{name: value for name, value in given.items() if value is not None})
    if arguments.html:
        from bioshare.explorer.page import save

        path = save(arguments.html, setting)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if importlib.util.find_spec("voila") is None:
        raise ValueError("the live explorer needs Voila: pip install voila, or bioshare with its extra notebook")
    check_port(arguments.port)
    with tempfile.TemporaryDirectory(prefix="bioshare-explore-") as folder:
        serve(setting, Path(folder), arguments.port, browser=not arguments.no_browser)


def check_port(port: int) -> None:
    """Refuse a port that is none, or that another program listens on."""
    if not 0 < port < 65536:
        raise ValueError(f"--port must be from 1 to 65535; got {port}")
    with socket.socket() as probe:
        if probe.connect_ex(("localhost", port)) == 0:
            raise ValueError(f"--port {port} is in use by another program: choose another")


def serve(setting: Setting, folder: Path, port: int, browser: bool) -> None:
    """Run Voila on a notebook until it ends or is interrupted.

    Args:
        setting: where the sliders stand at first.
        folder: an empty one, for the notebook and Voila's files.
        port: where to listen, on this machine only.
        browser: open one.

    Raises:
        OSError: Voila ended by itself.
    """
    file = write_notebook(setting, folder)
    configure(folder, port, browser)
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))
    print(f"The explorer is at http://localhost:{port}/ until Ctrl-C.", flush=True)
    command = [sys.executable, "-m", "voila", str(file), f"--Voila.config_file_paths={folder}"]
    with terminable():
        voila = subprocess.Popen(command, env={**os.environ, "JUPYTER_PATH": paths})
        try:
            code = voila.wait()
        finally:
            stop(voila)
    if code:
        raise OSError(f"Voila ended with exit code {code}")


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""

    signal = signal.SIGTERM


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what it started ends, too."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process and wait for it; what it started ends with it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_notebook(setting: Setting, folder: Path) -> Path:
    """Write a notebook of one cell, which runs in this Python and working folder: bioshare.ipynb in ``folder``."""
    values = ", ".join(f"{name}={value!r}" for name, value in setting.values().items())
    source = f"import os\n\nimport bioshare as bs\n\nos.chdir({os.getcwd()!r})\nbs.explore({values})"
    head = {"cell_type": "markdown", "id": "head", "metadata": {}, "source": HEAD}
    cell = {"cell_type": "code", "id": "explore", "execution_count": None, "metadata": {}, "outputs": []}
    kernel = {"name": "bioshare", "display_name": "bioshare", "language": "python"}
    notebook = {"cells": [head, {**cell, "source": source}], "metadata": {"kernelspec": kernel}}
    path = folder / "bioshare.ipynb"
    path.write_text(json.dumps({**notebook, "nbformat": 4, "nbformat_minor": 5}))
    kernels = folder / "kernels" / "bioshare"
    kernels.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"]
    (kernels / "kernel.json").write_text(json.dumps({"argv": start, **kernel}))
    return path


def configure(folder: Path, port: int, browser: bool) -> None:
    """Write Voila's settings, and its template "bioshare", into the folder."""
    ours = {"ip": "localhost", "port": port, "port_retries": 0, "open_browser": browser, "log_level": "ERROR"}
    tornado = {
        "ws_ping_timeout": 30_000,  # the default is refused, with a warning
        "disable_check_xsrf": True,  # a closed tab ends its kernel without the token; it knows the kernel's secret name
    }
    culling = {"cull_idle_timeout": FORSAKEN, "cull_interval": FORSAKEN // 2, "cull_connected": False}
    settings = {
        "Voila": {**ours, "tornado_settings": tornado},
        "MappingKernelManager": culling,
        "VoilaKernelManager": culling,
        "VoilaConfiguration": {"template": "bioshare"},
        "VoilaExecutor": {"timeout": 120},
    }
    (folder / "voila.json").write_text(json.dumps(settings))
    template = folder / "voila" / "templates" / "bioshare"
    template.mkdir(parents=True)
    (template / "conf.json").write_text(json.dumps({"base_template": "lab"}))
    (template / "index.html.j2").write_text(TEMPLATE)
