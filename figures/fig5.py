"""Fig. 5 of Pogodin 2021: finite inhibition biases the end point.

A: the steady-state circuit with alpha = 10 (Eq. 21), 10,000 presentations. B: the rate circuit (Eq. 8) with
alpha = 10, the simulation of Fig. 4B, read from the data of fig4.py if made with the same settings.
Dotted: the end points of the circuits, Eq. 25, in B of a circuit that learns while its rates settle
(bioshare.theory.while_settling).
"""

import argparse

import matplotlib.pyplot as plt
import xarray as xr
from convergence import arguments, converge, end_of_sleep, panels, print_means, save_data, save_figure

import bioshare as bs


def rate_circuit(args: argparse.Namespace) -> xr.Dataset:
    path, presentations = args.out / "fig4b.nc", 10_000 // args.shorten
    if path.exists():
        data = xr.load_dataset(path, engine="h5netcdf")
        made = data.attrs["seed"], data.sizes["run"], data.attrs["presentations"], data.attrs["bioshare"]
        same_engine = args.engine in data.attrs["engine"].lower()
        if same_engine and made == (args.seed, args.runs, presentations, bs.__version__):
            return data
    data = converge(bs.RateCircuit(alpha=10.0), bs.rules.InverseSqrtDecay(3e-4, 2, 50), 10_000, args)
    save_data(data, path)
    return data


def main() -> None:
    args = arguments(__doc__)
    steady = converge(bs.SteadyState(alpha=10.0), bs.rules.InverseDecay(0.5, 1000), 10_000, args)
    save_data(steady, args.out / "fig5a.nc")
    rate = rate_circuit(args)
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 5), sharey=True)
    panels(axes[0], steady, "A", r"steady state, $\alpha$ = 10", end_of_sleep(bs.SteadyState(alpha=10.0)))
    panels(axes[1], rate, "B", r"rate circuit, $\alpha$ = 10", end_of_sleep(bs.RateCircuit(alpha=10.0)))
    save_figure(figure, args.out / "fig5")
    print_means(steady, "Fig. 5A", [500, 2_000, 10_000])


if __name__ == "__main__":
    main()
