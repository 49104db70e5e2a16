"""Fig. 6 at the paper's size, in slices; the training is spoken of only."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from bioshare.train.interrupt import Interrupted, TimeUpError

FIGURES = Path(__file__).parents[1] / "figures"
FULL = ["--full", "--dataset", "cifar10-jpeg", "--minutes", "9", "--data", "here"]


@pytest.fixture
def fig6(monkeypatch, tmp_path):
    """The script, in an empty folder; its style ends with the test."""
    with plt.rc_context():
        monkeypatch.syspath_prepend(FIGURES)
        import fig6  # pyright: ignore[reportMissingImports]

        monkeypatch.chdir(tmp_path)
        yield fig6


def result():
    """Of a run of two epochs with three layers, the last of which has no -log SNR."""
    snr = np.array([[1.0, 2.0, np.nan], [0.5, 1.0, np.nan], [0.2, 0.1, np.nan]])
    axes = {"snr_step": [0, 1, 2], "layer": ["first", "middle", "last"]}
    return xr.Dataset(
        {"top1": ("epoch", [50.0, 60.0]), "neg_log_snr": (("snr_step", "layer"), snr)}, axes, {"date": "today"}
    )


def stand_in(monkeypatch, fig6, outcomes, error=None):
    """Replace the training; returns what it is called with."""
    calls = []

    def fit_together(runs, **options):
        calls.append((runs, options))
        if error is None:
            return outcomes
        error.outcomes = outcomes
        raise error

    monkeypatch.setattr(fig6, "fit_together", fit_together)
    return calls


def test_all_learning_rates_are_trained_together_and_go_on_where_they_were(fig6, monkeypatch, tmp_path):
    calls = stand_in(monkeypatch, fig6, [result(), result(), result()])
    fig6.main([*FULL, "--out", "out"])
    (runs, options), *others = calls
    assert others == []
    assert options == {"data": Path("here"), "record_snr": 10, "resume": True, "seconds": 540.0}
    assert [folder for _, folder in runs] == [Path("runs/fig6", rate) for rate in ("0.0005", "0.005", "0.05")]
    assert {(config.dataset, config.epochs, config.batch_size) for config, _ in runs} == {("cifar10-jpeg", 200, 512)}
    with xr.open_dataset("out/fig6_full.nc") as stored:
        assert dict(stored["neg_log_snr"].sizes) == {"learning_rate": 3, "snr_step": 3, "layer": 2}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"fig6_full.{ending}" for ending in ("nc", "png", "svg")
    ]


def test_an_end_of_the_time_has_its_status_and_hides_no_failure(fig6, monkeypatch, capsys, tmp_path):
    stand_in(monkeypatch, fig6, [result(), ArithmeticError("the loss is NaN"), None], TimeUpError("the time was up"))
    with pytest.raises(SystemExit) as end:
        fig6.main([*FULL, "--out", "out"])
    assert end.value.code == 75
    assert capsys.readouterr().err.splitlines() == [
        "learning rate 0.005 failed: ArithmeticError: the loss is NaN",
        "the time was up; the same command goes on",
    ]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("error", "status"), [(None, 1), (Interrupted("stopped", 15), 143)])
def test_without_all_results_nothing_is_drawn(fig6, monkeypatch, capsys, tmp_path, error, status):
    stand_in(monkeypatch, fig6, [result(), ArithmeticError("the loss is NaN"), result()], error)
    with pytest.raises(SystemExit) as end:
        fig6.main([*FULL, "--out", "out"])
    assert end.value.code == status
    assert "learning rate 0.005 failed" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("words", ["--minutes 9", "--full --minutes 0", "--full --minutes nan"])
def test_minutes_are_of_the_full_size(fig6, monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as end:
        fig6.main(words.split())
    assert end.value.code == 2
    assert "--minutes must be above 0, and goes with --full" in capsys.readouterr().err
