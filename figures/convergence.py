"""The settings of appendix A.5, the runs and the panels of the convergence figures."""

from __future__ import annotations

import argparse
import atexit
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import bioshare as bs
from bioshare.cli import path

HERE = Path(__file__).parent
plt.style.use("bioshare.figure")

KERNELS = (3, 6, 9)
GAMMAS = np.array([0.1, 0.01, 0.001])
AMBER, RUST, NAVY = "#e3a857", "#c1502e", "#12355b"  # light to dark, distinct in grey
COLORS = {0.1: AMBER, 0.01: RUST, 0.001: NAVY}
NEURONS, RUNS, MOMENTUM, RECORDS = 100, 10, 0.95, 500


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of a figure."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--engine", default="exact", choices=["exact", "brian2", "loop"])
    parser.add_argument("--quick", action="store_true", help="2 runs, a tenth of the presentations, into draft/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=path, help="folder of the pictures and data (default: next to this script)")
    args = parser.parse_args()
    args.runs, args.shorten = (2, 10) if args.quick else (RUNS, 1)
    args.out = args.out or (HERE / "draft" if args.quick else HERE)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    atexit.register(lambda: print(f"{time.perf_counter() - start:.0f} s"))
    return args


def converge(
    circuit: bs.RateCircuit | bs.SteadyState, schedule: bs.rules.Schedule, presentations: int, args: argparse.Namespace
) -> xr.Dataset:
    """-log SNR of all (k, gamma) pairs: initial weights 1 + N(0, 1), inputs N(0, 1), 100 neurons."""
    sets: list[xr.Dataset] = []
    presentations //= args.shorten
    for k in KERNELS:
        run = bs.simulate(
            np.random.default_rng([args.seed, k]).normal(1, 1, (args.runs, NEURONS, k * k)),
            bs.stimuli.gaussian(),
            circuit=circuit,
            rule=bs.Hebbian(gamma=GAMMAS[:, None], momentum=MOMENTUM, learning_rate=schedule),
            engine=args.engine,
            record_every=max(1, presentations // RECORDS),
            presentations=presentations,
            seed=args.seed,
        )
        if run.interrupted:
            raise KeyboardInterrupt
        sets.append(run.to_xarray()[["neg_log_snr"]].astype(np.float32).expand_dims(k=[k]))
    data: xr.Dataset = xr.concat(sets, "k", combine_attrs="override")
    data.attrs |= {"neurons": NEURONS, "weights": "1 + N(0, 1)"}
    return data


def save_data(data: xr.Dataset, path: Path) -> None:
    """Write compressed netCDF."""
    data.to_netcdf(path, engine="h5netcdf", encoding={name: {"zlib": True} for name in data.data_vars})


def save_figure(figure: Figure, stem: Path) -> None:
    """Write PNG and SVG, with a legend over all panels if lines have labels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    figure.savefig(stem.with_suffix(".png"))
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def spread(axes: Axes, data: xr.DataArray, color: str, label: str | None = None) -> None:
    """Draw the mean over runs, and a standard deviation to either side."""
    mean, std = data.mean("run"), data.std("run")
    axes.fill_between(data.presentation, mean - std, mean + std, color=color, alpha=0.25, linewidth=0)
    axes.plot(data.presentation, mean, color=color, label=label)


def panels(row: np.ndarray, data: xr.Dataset, letter: str, title: str, theory: Callable[[float], np.ndarray]) -> None:
    """Draw -log SNR for every gamma, an axes per kernel size; dotted, the value of a theory of gamma."""
    for axes, k in zip(row, KERNELS, strict=True):
        for gamma in GAMMAS:
            spread(axes, data.neg_log_snr.sel(k=k, gamma=gamma), COLORS[gamma], rf"$\gamma$ = {gamma:g}")
            axes.axhline(theory(gamma), color=COLORS[gamma], linestyle=":", linewidth=1.7)
        axes.set_title(f"{letter}  {title}, k = {k}" if k == KERNELS[0] else f"k = {k}")
        axes.set_xlabel("presentation")
        last = int(data.presentation[-1])
        axes.set(xlim=(0, last), xticks=[0, last // 2, last])
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
    row[0].set_ylabel(r"$-\log\,\mathrm{SNR}_w$")


def end_of_sleep(circuit: bs.SteadyState | bs.RateCircuit) -> Callable[[float], np.ndarray]:
    """-log SNR at the end of a sleep at finite alpha (Eq. 25), for weights of mean 1 and variance 1."""

    def end(gamma: float) -> np.ndarray:
        alpha, pull = circuit.alpha, gamma
        if isinstance(circuit, bs.RateCircuit):
            h, updates = circuit.dt_over_tau, circuit.updates_per_presentation
            alpha, pull = bs.theory.while_settling(alpha, gamma, h, updates)
        return bs.theory.neg_log_snr(bs.theory.fixed_point_white([[0.0], [2.0]], pull, alpha))

    return end


def print_means(data: xr.Dataset, name: str, presentations: list[int]) -> None:
    """Print the mean over runs at some presentations."""
    at = data.neg_log_snr.mean("run").sel(presentation=presentations, method="nearest")
    print(f"{name}: -log SNR, mean over {data.sizes['run']} runs, seed {data.attrs['seed']}")
    print("  presentation       " + "".join(f"{p:9d}" for p in at.presentation.values))
    for k in KERNELS:
        for gamma in GAMMAS:
            values = at.sel(k=k, gamma=gamma).values
            print(f"  k = {k}, gamma = {gamma:<6g}" + "".join(f"{value:9.2f}" for value in values))
