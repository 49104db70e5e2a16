"""The bench of feedback weights and mirrors prints a row for each."""

import pytest
from small_network import use_small_network

from bioshare.__main__ import main
from bioshare.bench.feedback import MIRRORS


def test_the_bench_of_feedback_prints_a_row_for_each(monkeypatch, capsys):
    use_small_network(monkeypatch)
    assert main(["bench", "feedback", "--batch", "2", "--threads", "1", "--repeats", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["training step", "step, feedback weights", "step, direct feedback", *MIRRORS]
    rows = [line for line in lines if line.startswith(("conv: ", "LC: "))]
    assert [row[:40].strip() for row in rows] == [f"{form}: {name}" for form in ("conv", "LC") for name in names]
    for row in rows:
        seconds, ratio = map(float, row[40:].split())
        assert seconds > 0
        assert ratio == pytest.approx(1, abs=0.005) if row[:40].strip().endswith("training step") else ratio > 0
