"""Fig. 3A: the weights of a sharing group diverge in training and converge in sleep.

A real run instead of the paper's sketch: a locally connected layer (8 channels, 3 x 3) and a linear readout learn
scikit-learn's digits, and every 60 steps the layer sleeps through the rate circuit (Eq. 8, alpha = 10): four times all
grids of Fig. 3B, 150 ms each. The axes begin at the end of the first sleep.
"""

import argparse
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from convergence import AMBER, HERE, NAVY, RUST, save_data, save_figure
from sklearn.datasets import load_digits
from torch import nn

import bioshare as bs
from bioshare.bridge import neg_log_snr
from bioshare.cli import path

STEPS, ROUNDS, CYCLES, BATCH = 60, 5, 4, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=path, default=HERE, help="folder of the picture and the data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = train_and_sleep(args.seed)
    save_data(data, args.out / "fig3.nc")

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.2, 4.2), sharex=True, height_ratios=(2, 1))
    time = np.arange(data.sizes["time"])
    top.plot(time, data.weight, color=NAVY, linewidth=0.9)
    top.plot(time, data.weight.mean("neuron"), "--", color=RUST, linewidth=2.2, label="mean of the group")
    top.set_ylabel("weight of the centre")
    top.set_title(f"{data.sizes['neuron']} neurons of one sharing group, awake and asleep (shaded)")
    bottom.plot(time, data.neg_log_snr, color=NAVY)
    bottom.set_ylabel(r"$-\log\,\mathrm{SNR}_w$")
    bottom.set_title("median over the groups of the layer")
    bottom.set_xlabel("training steps, and presentations of sleep")
    edges = np.flatnonzero(np.diff(data.asleep.values, prepend=0, append=0))
    for axes in (top, bottom):
        axes.set_xlim(0, time[-1])
        for begin, end in edges.reshape(-1, 2):
            axes.axvspan(begin - 1, end - 1, color=AMBER, alpha=0.3, linewidth=0)
    save_figure(figure, args.out / "fig3")


def train_and_sleep(seed: int) -> xr.Dataset:
    """Train and sleep in turns, and record the weights of a group and -log SNR after every step and presentation."""
    torch.manual_seed(seed)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    images = images.float().view(-1, 1, 8, 8) / 16
    layer = bs.nn.LocallyConnected2d(1, 8, 3, input_size=8, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = []
    for number in range(ROUNDS):
        for _ in range(STEPS):
            chosen = torch.randint(len(images), (BATCH,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            records.append((*snapshot(layer), False))
        records += [(*snap, True) for snap in sleep(layer)]
        records = records[-1:] if number == 0 else records  # independent initial weights would fill the axes
    weights, snr, asleep = map(np.array, zip(*records, strict=True))
    return xr.Dataset(
        {
            "weight": (("time", "neuron"), weights),
            "neg_log_snr": ("time", snr),
            "asleep": ("time", asleep.astype(np.int8)),
        },
        attrs={"seed": seed, "steps": STEPS, "batch": BATCH, "sleep": repr(sleep_of(CYCLES * 9 + 1))},
    )


def sleep(layer: bs.nn.LocallyConnected2d) -> list[tuple[np.ndarray, float]]:
    """Put the layer to sleep, and return a snapshot after every presentation: the end of a sleep up to then."""
    trace = []
    for presentations in range(1, CYCLES * 9 + 2):  # the first presentation only settles the circuit
        sleeper = copy.deepcopy(layer)
        sleep_of(presentations)(sleeper, progress=False)
        trace.append(snapshot(sleeper))
    layer.load_state_dict(sleeper.state_dict())  # pyright: ignore[reportPossiblyUnboundVariable]
    return trace


def sleep_of(presentations: int) -> bs.Sleep:
    """A sleep with some number of presentations, each with a summed learning rate of 100 x 5e-4 / (1 - 0.95) = 1."""
    rule = bs.Hebbian(gamma=0.0, momentum=0.95, learning_rate=bs.rules.Gated(5e-4))
    return bs.Sleep(bs.RateCircuit(alpha=10.0), rule, bs.stimuli.grid(), presentations)


def snapshot(layer: bs.nn.LocallyConnected2d) -> tuple[np.ndarray, float]:
    """The centre weights (N,) of a group, in the first channel and the module of position (1, 1); and -log SNR."""
    return layer.weight.detach()[1::3, 1::3, 0, 0, 1, 1].flatten().numpy(), neg_log_snr(layer)[""]


if __name__ == "__main__":
    main()
