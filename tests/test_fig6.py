"""Fig. 6 at the paper's size, in slices; the training is spoken of only."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from bioshare.train.interrupt import Interrupted
from bioshare.train.runs import Outcomes

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


def stand_in(monkeypatch, fig6, outcomes):
    """Replace the training; returns what it is called with."""
    calls = []

    def run_all(jobs, fit, **options):
        calls.append((jobs, options))
        if isinstance(outcomes, Exception | KeyboardInterrupt):
            raise outcomes
        return outcomes

    monkeypatch.setattr(fig6, "run_all", run_all)
    return calls


NAMES = ["learning rate 0.0005", "learning rate 0.005", "learning rate 0.05"]


def test_all_learning_rates_are_trained_and_go_on_where_they_were(fig6, monkeypatch, tmp_path):
    calls = stand_in(monkeypatch, fig6, Outcomes({name: result() for name in NAMES}))
    fig6.main([*FULL, "--out", "out"])
    (jobs, options), *others = calls
    assert others == []
    assert options == {"data": Path("here"), "record_snr": 10, "seconds": 540.0, "workers": 3}
    assert [job.name for job in jobs] == NAMES
    assert [job.folder for job in jobs] == [tmp_path / "runs/fig6" / rate for rate in ("0.0005", "0.005", "0.05")]
    configs = [job.config for job in jobs]
    assert {(config.dataset_name, config.epochs, config.batch_size) for config in configs} == {
        ("cifar10-jpeg", 200, 512)
    }
    with xr.open_dataset("out/fig6_full.nc") as stored:
        assert dict(stored["neg_log_snr"].sizes) == {"learning_rate": 3, "snr_step": 3, "layer": 2}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"fig6_full.{ending}" for ending in ("nc", "png", "svg")
    ]


FAILED = {NAMES[1]: "ArithmeticError: the loss is NaN"}


@pytest.mark.parametrize(
    ("outcomes", "status", "message"),
    [
        (Outcomes({NAMES[0]: result()}, FAILED, time_up=True), 75, "the time is up; the same command goes on\n"),
        (Outcomes({NAMES[0]: result(), NAMES[2]: result()}, FAILED), 1, ""),
        (Interrupted("stopped by a signal", 15), 143, "stopped by a signal\n"),
    ],
)
def test_without_all_results_nothing_is_drawn(fig6, monkeypatch, capsys, tmp_path, outcomes, status, message):
    stand_in(monkeypatch, fig6, outcomes)
    with pytest.raises(SystemExit) as end:
        fig6.main([*FULL, "--out", "out"])
    assert end.value.code == status
    assert capsys.readouterr().err == message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("words", ["--minutes 9", "--full --minutes 0", "--full --minutes nan"])
def test_minutes_are_of_the_full_size(fig6, monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as end:
        fig6.main(words.split())
    assert end.value.code == 2
    assert "--minutes must be above 0, and goes with --full" in capsys.readouterr().err
