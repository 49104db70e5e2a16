"""Progress: a bar in a terminal, a line after every epoch in a log, nothing where it is switched off."""

import io
import re
import sys

import pytest
from tiny_runs import run, tiny

from bioshare.progress import say, shows_bar, shows_lines
from bioshare.train.config import ARCHITECTURES


class Screen(io.StringIO):
    def isatty(self):
        return True


class Closed(io.StringIO):
    writes = 0

    def write(self, text):
        self.writes += 1
        raise OSError(5, "Input/output error")


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "resnet20", tiny)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def test_a_log_has_a_line_after_every_epoch(tmp_path, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    result = run(tmp_path, progress=True)
    lines = log.getvalue().splitlines()
    for epoch, line in enumerate(lines):
        loss, correct, tested = (result[name].values[epoch] for name in ("train_loss", "train_accuracy", "top1"))
        expected = f"epoch {epoch + 1}/2: loss {loss:.3f}, {correct:.1f} % correct; test {tested:.1f} % correct; "
        assert re.fullmatch(re.escape(expected) + r"\d+\.\d s", line)
    assert len(lines) == 2


def test_a_terminal_has_a_bar(tmp_path, monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    run(tmp_path, progress=True)
    assert "\repoch 2/2" in screen.getvalue()
    assert "300/300" in screen.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Screen])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_progress_can_be_switched_off(tmp_path, monkeypatch, stream, how):
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    if how == "environment":
        monkeypatch.setenv("TQDM_DISABLE", "1")
    run(tmp_path, progress=how == "environment")
    assert shown.getvalue() == ""


def test_a_program_without_an_error_stream_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert not shows_bar()
    assert not shows_lines()


def test_a_closed_terminal_is_no_error(monkeypatch):
    closed = Closed()
    monkeypatch.setattr(sys, "stderr", closed)
    say("a line")
    assert closed.writes > 0
