"""Why stop early (not in the paper): stronger inhibition converges deeper and preserves the mean longer.

The rate circuit (Eq. 8) with alpha from 1 to 50, k = 3, gamma = 0.01, otherwise as Fig. 4B. Deviations from the
mean decay like exp(-a), the mean itself like exp(-a / (1 + alpha)), with a smaller alpha since the circuit learns while
its rates settle (bioshare.theory.while_settling): past the minimum of -log SNR a sleep loses more of the mean than of
the deviations.
"""

import matplotlib.pyplot as plt
import numpy as np
from convergence import MOMENTUM, NEURONS, RECORDS, arguments, save_data, save_figure, spread

import bioshare as bs

ALPHAS = np.array([1.0, 2.0, 5.0, 10.0, 20.0, 50.0])
MARKERS = "osD^vP"


def main() -> None:
    args = arguments(__doc__)
    presentations = 10_000 // args.shorten
    run = bs.simulate(
        np.random.default_rng([args.seed, 3]).normal(1, 1, (args.runs, NEURONS, 9)),
        bs.stimuli.gaussian(),
        circuit=bs.RateCircuit(alpha=ALPHAS[:, None]),
        rule=bs.Hebbian(gamma=0.01, momentum=MOMENTUM, learning_rate=bs.rules.InverseSqrtDecay(3e-4, 2, 50)),
        engine=args.engine,
        record_every=max(1, presentations // (2 * RECORDS)),
        presentations=presentations,
        seed=args.seed,
    )
    if run.interrupted:
        raise KeyboardInterrupt
    data = run.to_xarray()[["neg_log_snr", "mean_norm"]].astype(np.float32)
    data.attrs |= {"neurons": NEURONS, "weights": "1 + N(0, 1)"}
    data["mean_kept"] = data.mean_norm / data.mean_norm.isel(presentation=0)
    save_data(data, args.out / "stop_early.nc")
    print(f"stop_early: mean over {args.runs} runs, seed {args.seed}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
    colors = plt.get_cmap("viridis_r")(np.linspace(0.12, 1, len(ALPHAS)))
    for alpha, color, marker in zip(ALPHAS, colors, MARKERS, strict=True):
        snr, kept = data.neg_log_snr.sel(alpha=alpha), data.mean_kept.sel(alpha=alpha)
        best = int(np.argmin(snr.mean("run").values))
        spread(left, snr, color)
        spread(right, kept, color)
        for axes, values in ((left, snr), (right, kept)):
            axes.plot(data.presentation[best], values.mean("run")[best], marker, color=color, markeredgecolor="black")
        left.plot([], color=color, marker=marker, markeredgecolor="black", label=rf"$\alpha$ = {alpha:g}")
        print(
            f"  alpha = {alpha:<4g} lowest -log SNR {float(snr.mean('run')[best]):6.2f} at presentation "
            f"{int(data.presentation[best]):6d}, where {float(kept.mean('run')[best]):.2f} of the mean is left; "
            f"at the end {float(snr.mean('run')[-1]):6.2f} and {float(kept.mean('run')[-1]):.2f}"
        )
    left.axhline(bs.theory.min_neg_log_snr(0.01), color="black", linestyle=":", linewidth=1.2, label="ideal")
    left.set_ylabel(r"$-\log\,\mathrm{SNR}_w$")
    left.set_title(r"convergence, and its turning point (k = 3, $\gamma$ = 0.01)")
    right.set_ylabel("norm of the mean / norm before sleep")
    right.set_title("what is left of the mean")
    right.set_ylim(0, 1.05)
    for axes in (left, right):
        axes.set_xlabel("presentation")
        axes.set_xscale("log")
        axes.set_xlim(data.presentation[1], presentations)
    save_figure(figure, args.out / "stop_early")


if __name__ == "__main__":
    main()
