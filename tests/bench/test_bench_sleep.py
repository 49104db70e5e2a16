from dataclasses import replace

import pytest

from bioshare.__main__ import main
from bioshare.bench import sleep
from bioshare.circuit.loop import Loop


class BriefBrian:
    """Returns the outcome of the loop, in place of Brian2, whose compilation takes long."""

    def __init__(self, threads):
        pass

    def run(self, problem, progress):
        return replace(Loop().run(problem, progress), seconds={"compile": 1.0, "run": 2.0})


@pytest.mark.parametrize("noise", ["0", "0.1"])
def test_all_engines_end_at_the_same_weights(noise, monkeypatch, capsys):
    monkeypatch.setattr("bioshare.circuit.brian.Brian2", BriefBrian)
    options = "--presentations", "3", "--runs", "1", "--repeats", "1", "--noise", noise
    assert main(["bench", "sleep", *options]) == 0
    rows = capsys.readouterr().out.splitlines()[-10:]
    assert [row.split(",")[0].split()[0] for row in rows] == [*["loop"] * 2, *["brian2"] * 4, *["exact"] * 4]
    assert all(float(row.split()[-1]) < 1e-12 for row in rows)
    assert rows[0].split()[-2] == "1.0x"


def test_the_name_of_a_row_is_printed_before_its_sleep(monkeypatch, capsys):
    def fail():
        raise ArithmeticError

    monkeypatch.setattr(sleep, "timed_sleeps", lambda problem, repeats: [("loop, bare", fail)])
    assert main(["bench", "sleep", "--presentations", "1", "--runs", "1"]) == 1
    assert capsys.readouterr().out.rstrip().endswith("loop, bare")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_long_rows_show_their_progress_in_a_terminal_alone(terminal, monkeypatch, capsys):
    asked = []

    class Engine(BriefBrian):
        def __init__(self, threads=1):
            pass

        def run(self, problem, progress):
            asked.append(progress)
            return replace(Loop().run(problem, False), seconds={"compile": 1.0, "run": 2.0})

    monkeypatch.setattr(sleep, "shows_bar", lambda: terminal)
    monkeypatch.setattr(sleep, "Loop", Engine)
    monkeypatch.setattr("bioshare.circuit.brian.Brian2", Engine)
    assert main(["bench", "sleep", "--presentations", "1", "--runs", "1", "--repeats", "1"]) == 0
    assert asked == [terminal] * 3  # the bare loop, and Brian2 with one and two threads
    row = "\rloop, bare" if terminal else "\nloop, bare"
    assert f"{row:51s}    2.000" in capsys.readouterr().out
