"""The bar of a sleep obeys TQDM_DISABLE."""

import pytest
from tqdm import tqdm

from bioshare.circuit import problem


@pytest.mark.parametrize(("disabled", "progress", "shown"), [("", True, True), ("1", True, False), ("", False, False)])
def test_the_bar_of_a_sleep_is_switched_off_by_the_environment_too(monkeypatch, capsys, disabled, progress, shown):
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(problem, "tqdm", lambda **options: tqdm(**{**options, "delay": 0}))
    with problem.reported(progress, 7) as tell:
        tell(7)
    assert ("7/7" in capsys.readouterr().err) == shown


def test_a_log_has_no_bar(monkeypatch, capsys):
    monkeypatch.setattr(problem, "tqdm", lambda **options: tqdm(**{**options, "delay": 0}))
    with problem.reported(True, 7) as tell:
        tell(7)
    assert capsys.readouterr().err == ""
