import json
import os
import signal
import socket
import subprocess
import sys
import time

import nbformat
import pytest

from bioshare.__main__ import main
from bioshare.explorer import command
from bioshare.explorer.setting import SLIDERS, Setting


def test_html_writes_the_page_of_the_setting_and_says_how_big_it_is(monkeypatch, tmp_path, capsys):
    def save(path, setting):
        path.write_bytes(b" " * 3_210_000)
        return path if setting == Setting(alpha=5.0, k=6, inhibitory_bias=True) else pytest.fail(f"{setting}")

    monkeypatch.setattr("bioshare.explorer.page.save", save)
    path = tmp_path / "page.html"
    assert main(["explore", "--html", str(path), "--alpha", "5", "--k", "6", "--inhibitory-bias"]) == 0
    assert capsys.readouterr().out == f"{path}: 3.2 MB\n"


def test_every_slider_is_an_option(capsys):
    with pytest.raises(SystemExit):
        main(["explore", "--help"])
    reported = capsys.readouterr().out
    for slider in SLIDERS:
        assert f"--{slider.name.replace('_', '-')} " in reported


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--alpha", "1000"], "alpha must be a number from 0.1 to 100"),
        (["--port", "0"], "--port must be from 1 to 65535; got 0"),
        (["--port", "99999"], "--port must be from 1 to 65535; got 99999"),
        (["--ip", "192.0.2.1"], "--ip must be an address of this machine, such as 0.0.0.0; got 192.0.2.1"),
    ],
)
def test_impossible_options_are_refused_in_one_line(options, words, capsys):
    assert main(["explore", "--no-browser", *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {words}")


def test_a_port_in_use_is_refused(capsys):
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        assert main(["explore", "--no-browser", "--port", str(other.getsockname()[1])]) == 1
    assert "is in use by another program" in capsys.readouterr().err


def test_without_voila_the_error_names_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main(["explore", "--no-browser"]) == 1
    assert (
        capsys.readouterr().err
        == "error: the live explorer needs Voila: pip install voila, or bioshare with its extra notebook\n"
    )


def test_voila_that_ends_by_itself_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", shell(tmp_path, "exit 3"))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="exit code 3"):
        command.serve(Setting(), folder, 8866, browser=False)


def shell(folder, line):
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return str(path)


def test_the_notebook_opens_the_setting_in_this_python(tmp_path):
    setting = Setting(alpha=5.0, seed=7, inhibitory_bias=True)
    notebook = nbformat.read(command.write_notebook(setting, tmp_path), as_version=4)
    source = notebook.cells[-1].source.replace("bs.explore(", "found = dict(")
    scope = {}
    exec(source, scope)
    assert Setting(**scope["found"]) == setting
    kernel = json.loads((tmp_path / "kernels" / "bioshare" / "kernel.json").read_text())
    assert kernel["argv"][0] == sys.executable


@pytest.mark.parametrize("browser", [True, False])
def test_a_browser_is_opened_unless_it_is_not_wanted(tmp_path, browser):
    options = command.server_command(tmp_path / "bioshare.ipynb", 8866, browser)
    assert f"--Voila.open_browser={browser}" in options
    assert "--Voila.port=8866" in options


@pytest.mark.parametrize("ip", ["localhost", "0.0.0.0"])
def test_the_page_needs_a_token_that_is_not_in_the_command(tmp_path, monkeypatch, capsys, ip):
    """Other users of a machine can read the commands of all processes."""
    script = f'echo "$@" > {tmp_path}/options; printf %s "$JUPYTER_TOKEN" > {tmp_path}/token'
    monkeypatch.setenv("JUPYTER_TOKEN", "of another server")
    monkeypatch.setattr(sys, "executable", shell(tmp_path, script))
    (tmp_path / "folder").mkdir()
    command.serve(Setting(), tmp_path / "folder", 8866, browser=True, ip=ip)
    options, token, printed = (tmp_path / "options").read_text(), (tmp_path / "token").read_text(), capsys.readouterr()
    assert f"--Voila.ip={ip} " in options
    assert f"--Voila.open_browser={ip == 'localhost'}" in options
    assert len(token) > 20
    assert f"http://localhost:8866/?token={token} " in printed.out
    assert token not in options


def test_help_is_printed_where_the_output_has_no_greek_letters():
    """As in a terminal or a file of Windows; the text of an unstable setting has Greek letters, too."""
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    run = [sys.executable, "-m", "bioshare", "explore"]
    printed = subprocess.run([*run, "--help"], env=environment, capture_output=True, check=True).stdout.decode("cp1252")
    assert "--alpha X" in printed
    assert "kernel, K = k² inputs, 1 to 9" in printed
    assert "?" not in printed


def test_kernels_of_closed_pages_end():
    settings = json.loads((command.HERE / "voila" / "voila.json").read_text())
    assert settings["Voila"]["tornado_settings"]["disable_check_xsrf"] is True
    kernels = settings["MappingKernelManager"]
    assert kernels["cull_connected"] is False
    assert 0 < kernels["cull_interval"] < kernels["cull_idle_timeout"] <= 600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_block_once_and_the_handlers_come_back(number):
    before = [signal.getsignal(caught) for caught in (signal.SIGTERM, signal.SIGHUP)]

    @command.signals_as_interrupts()
    def interrupted():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)  # the signal ends the sleep
        finally:
            os.kill(os.getpid(), signal.SIGHUP)  # of the shell, after that of the terminal

    with pytest.raises(command.Terminated) as error:
        interrupted()
    assert error.value.signal == number
    assert [signal.getsignal(caught) for caught in (signal.SIGTERM, signal.SIGHUP)] == before


def test_an_ignored_hangup_stays_ignored_as_after_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with command.signals_as_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
