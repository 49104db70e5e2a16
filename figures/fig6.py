"""Fig. 6 (conference appendix): weights diverge awake and converge asleep, at three learning rates.

-log SNR of the layers of a locally connected ResNet-20 in training, their weights shared after every tenth batch. The
paper's runs are on CIFAR-10; the default here is scikit-learn's digits (8 x 8), on which one core needs a minute;
there the 3 x 3 layers of the last stage see 2 x 2 positions, have nothing to share, and no SNR.
``--full`` is the paper's size: CIFAR-10, batches of 512, 200 epochs; resumes what was begun in runs/fig6.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from convergence import HERE, RUST, save_data, save_figure
from matplotlib.axes import Axes

from bioshare.train.config import TrainConfig
from bioshare.train.loop import fit

RATES = (5e-4, 5e-3, 5e-2)
EVERY = 10
FLOOR = -10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's size; needs a prepared data set")
    parser.add_argument("--dataset", default="cifar10", help="of --full, such as cifar10-jpeg (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="of --full: folder of the prepared data sets")
    parser.add_argument("--quick", action="store_true", help="a third of the epochs, into draft/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the picture and the data (default: next to this script)")
    args = parser.parse_args()
    args.out = args.out or (HERE / "draft" if args.quick else HERE)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    data = xr.concat([train(rate, args) for rate in RATES], "learning_rate", combine_attrs="drop_conflicts")
    data = data.assign_coords(learning_rate=list(RATES)).astype(np.float32)
    save_data(data, args.out / ("fig6_full.nc" if args.full else "fig6.nc"))

    figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.2), sharey=True)
    for panel, letter, rate in zip(panels, "ABC", RATES, strict=True):
        draw(panel, data.sel(learning_rate=rate))
        panel.set_title(f"{letter}. learning rate {rate:g}")
    panels[0].set_ylabel(r"$-\log\,\mathrm{SNR}_w$, median over groups")
    save_figure(figure, args.out / ("fig6_full" if args.full else "fig6"))
    print(f"{time.perf_counter() - start:.0f} s")


def train(rate: float, args: argparse.Namespace) -> xr.Dataset:
    """-log SNR of every layer after every batch, before and after the sharing where there is one."""
    epochs = 200 if args.full else 3 if args.quick else 8
    config = TrainConfig(
        dataset=args.dataset if args.full else "digits",
        locally_connected=True,
        share_every=EVERY,
        share_count="run",
        epochs=epochs,
        batch_size=512 if args.full else 128,
        padding=4 if args.full else 1,
        learning_rate=rate,
        seed=args.seed,
    )
    if not args.full:
        torch.set_num_threads(1)  # its layers are too small to share
    if args.full:
        result = fit(config, Path("runs/fig6") / f"{rate:g}", data=args.data, record_snr=EVERY, resume=True)
    else:
        with TemporaryDirectory() as folder:
            result = fit(config, Path(folder) / "run", record_snr=1)
    print(f"learning rate {rate:g}: test accuracy {float(result.top1[-1]):.1f} % after {epochs} epochs")
    measured = result.neg_log_snr.dropna("layer", how="all")  # modules of a single neuron have no SNR
    facts = {name: value for name, value in result.attrs.items() if name != "date"}  # the same bytes every time
    return measured.to_dataset().assign_attrs(facts)


def draw(panel: Axes, data: xr.Dataset) -> None:
    """A line for every layer that shares, after the first from light to dark; sharing takes it to -inf."""
    values = np.maximum(data.neg_log_snr.values, FLOOR - 1)
    colors = plt.get_cmap("viridis_r")(np.linspace(0.1, 1, data.sizes["layer"]))
    looks: list[dict[str, Any]] = [{"color": color, "linewidth": 0.7} for color in colors]
    looks[0] = {"color": RUST, "linewidth": 1.6, "linestyle": (0, (2.5, 1)), "zorder": 3, "label": "first layer"}
    looks[-1] |= {"linewidth": 1.6, "label": "last that shares"}
    for layer, look in zip(values.T, looks, strict=True):
        panel.plot(data.snr_step, layer, **look)
    panel.set_xlim(0, data.snr_step[-1])
    panel.set_ylim(bottom=FLOOR)
    panel.set_xlabel("iteration")


if __name__ == "__main__":
    main()
