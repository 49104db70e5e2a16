"""The weights of a channel of a locally connected layer before and after a sleep, as drawn by the report of the sleep.

A layer of 16 channels (3 x 3 kernels) and a linear readout learn scikit-learn's digits on a canvas of 14 x 14, for
600 steps. Then the layer sleeps once through the rate circuit (Eq. 8, alpha = 10).
"""

import argparse

import torch
from convergence import HERE, save_figure
from sklearn.datasets import load_digits
from torch import nn

import bioshare as bs
from bioshare.cli import path

STEPS, BATCH, CANVAS, CHANNEL = 600, 32, 14, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=path, default=HERE, help="folder of the picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = trained_model(args.seed)
    report = bs.Sleep.rate_circuit(alpha=10.0)(model, seed=args.seed, keep=("0", CHANNEL))
    print(report)
    save_figure(report.draw(), args.out / "asleep")


def trained_model(seed: int) -> nn.Module:
    """A small network after training from equal weights at all positions, as in a convolution."""
    torch.manual_seed(seed)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    pad = (CANVAS - 8) // 2
    images = nn.functional.pad(images.float().view(-1, 1, 8, 8) / 16, (pad,) * 4)
    readout = nn.Linear(16 * CANVAS**2, 10)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), readout)
    model = bs.nn.to_locally_connected(model, (1, CANVAS, CANVAS), init="copy")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    main()
