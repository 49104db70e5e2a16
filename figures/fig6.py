"""Fig. 6 (conference appendix): weights diverge awake and converge asleep, at three learning rates.

-log SNR of the layers of a locally connected ResNet-20 in training, with a sharing after every tenth batch. The
paper's runs are on CIFAR-10; the default is scikit-learn's digits (8 x 8), a minute on a core. On digits the 3 x 3
layers of the last stage have 2 x 2 positions, nothing to share, and no SNR.
``--full`` is the paper's size: CIFAR-10, batches of 512, 200 epochs. The runs are stored in runs/fig6 and continue
after a stop; with ``--minutes`` all runs stop in time, and the exit status is 75 until all are complete.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from convergence import HERE, save_data, save_figure
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from bioshare.bridge import InstantSharing
from bioshare.cli import path
from bioshare.train.commands.options import TIME_UP
from bioshare.train.config import AdamW, Every, LocallyConnected, TrainConfig
from bioshare.train.fitting import fit
from bioshare.train.interrupt import Interrupted
from bioshare.train.results import shared_config
from bioshare.train.runs import Job, run_all

RATES = (5e-4, 5e-3, 5e-2)
EVERY = 10


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    start = time.perf_counter()
    results = train(args)
    data = xr.concat(results, "learning_rate", combine_attrs="drop_conflicts").assign_attrs(shared_config(results))
    data = data.assign_coords(learning_rate=list(RATES)).astype(np.float32)
    save_data(data, args.out / ("fig6_full.nc" if args.full else "fig6.nc"))

    figure, panels = plt.subplots(1, 3, figsize=(10.4, 3.4), sharey=True)
    for panel, letter, rate in zip(panels, "ABC", RATES, strict=True):
        draw_layers(panel, data.sel(learning_rate=rate))
        panel.set_title(f"{letter}. learning rate {rate:g}")
    name_layers(figure, panels, data)
    panels[0].set_ylabel(r"$-\log\,\mathrm{SNR}_w$, median over groups")
    save_figure(figure, args.out / ("fig6_full" if args.full else "fig6"))
    print(f"{time.perf_counter() - start:.0f} s")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's size; needs a prepared data set")
    parser.add_argument("--dataset", default="cifar10", help="of --full, such as cifar10-jpeg (default: %(default)s)")
    parser.add_argument("--data", type=path, help="of --full: folder of the prepared data sets")
    parser.add_argument("--to", type=path, help="of --full: folder of the runs (default: runs/fig6)")
    parser.add_argument("--minutes", type=float, help="of --full: stop after that time, with checkpoints")
    parser.add_argument("--quick", action="store_true", help="a third of the epochs, into draft/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=path, help="folder of the picture and the data (default: next to this script)")
    args = parser.parse_args(arguments)
    if args.minutes is not None and not (args.full and args.minutes > 0):
        parser.error(f"--minutes must be above 0, and goes with --full; got {args.minutes:g}")
    args.out = args.out or (HERE / "draft" if args.quick else HERE)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def train(args: argparse.Namespace) -> list[xr.Dataset]:
    """-log SNR of every layer after every batch, or every tenth, before and after a sharing.

    Raises:
        SystemExit: there is more to be done, or a run has failed.
    """
    if args.full:
        seconds = args.minutes and 60 * args.minutes
        how = {"data": args.data, "record_snr": EVERY, "seconds": seconds}
        results = trained(args, args.to or Path("runs/fig6"), how)
    else:
        with TemporaryDirectory() as folder:
            results = trained(args, Path(folder), {"record_snr": 1, "threads": 1})  # the layers are too small to share
    for rate, result in zip(RATES, results, strict=True):
        accuracy = float(result.top1[-1])
        print(f"learning rate {rate:g}: test accuracy {accuracy:.1f} % after {result.sizes['epoch']} epochs")
    return [measured(result) for result in results]


def trained(args: argparse.Namespace, folder: Path, how: dict[str, Any]) -> list[xr.Dataset]:
    """The results of all learning rates, trained side by side; ends this process if a result is missing."""
    jobs = [Job(f"learning rate {rate:g}", config(rate, args), folder.absolute() / f"{rate:g}") for rate in RATES]
    try:
        outcomes = run_all(jobs, fit, workers=len(jobs), **how)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(128 + stop.signal) from None
    if outcomes.time_up:
        print("the time is up; the same command goes on", file=sys.stderr)
        raise SystemExit(TIME_UP)
    if outcomes.failures:
        raise SystemExit(1)
    return [outcomes.results[job.name] for job in jobs]


def config(rate: float, args: argparse.Namespace) -> TrainConfig:
    """Configuration of the run at a learning rate."""
    return TrainConfig(
        dataset=args.dataset if args.full else "digits",
        network=LocallyConnected(),
        optimizer=AdamW(rate),
        phases=(Every(EVERY, InstantSharing(), count="run"),),
        epochs=200 if args.full else 3 if args.quick else 8,
        batch_size=512 if args.full else 128,
        padding=4 if args.full else 1,
        seed=args.seed,
    )


def measured(result: xr.Dataset) -> xr.Dataset:
    """-log SNR, without the layers whose modules have a single neuron and no SNR."""
    facts = {name: value for name, value in result.attrs.items() if name != "date"}  # the same bytes every time
    return result.neg_log_snr.dropna("layer", how="all").to_dataset().assign_attrs(facts)


def draw_layers(panel: Axes, data: xr.Dataset) -> None:
    """Draw a line for every layer that shares, from light to dark; a sharing, which ends at -inf, is a gap."""
    for values, color in zip(data.neg_log_snr.values.T, colors(data), strict=True):
        panel.plot(data.snr_step, np.where(np.isfinite(values), values, np.nan), color=color, linewidth=0.8)
    panel.set_xlim(0, data.snr_step[-1])
    panel.set_xlabel("iteration")


def colors(data: xr.Dataset) -> list[Any]:
    """A colour for every layer, from the first, light, to the last, dark."""
    return list(plt.get_cmap("viridis_r")(np.linspace(0.05, 1, data.sizes["layer"])))


def name_layers(figure: Figure, panels: Any, data: xr.Dataset) -> None:
    """Draw a bar of the layers' colours with the layers' names, from the first layer at the top to the last."""
    edges = np.arange(data.sizes["layer"] + 1) - 0.5
    bar = figure.colorbar(
        ScalarMappable(BoundaryNorm(edges, len(edges) - 1), ListedColormap(colors(data))), ax=panels, pad=0.02
    )
    bar.set_ticks(range(len(edges) - 1), labels=list(data.layer.values), fontsize=6)
    bar.ax.invert_yaxis()


if __name__ == "__main__":
    main()
