"""Fig. 4 of Pogodin 2021: speed and end of convergence in sleep, for the weights of 100 neurons.

A: the ideal circuit (Eq. 4), 2,000 presentations. B: the rate circuit (Eq. 8) with alpha = 10, 10,000
presentations of 150 ms. Inputs are N(0, 1), as the dotted minimum assumes; appendix A.5 says N(1, 1).
"""

import matplotlib.pyplot as plt
from convergence import arguments, converge, panels, print_means, save_data, save_figure

import bioshare as bs


def main() -> None:
    args = arguments(__doc__)
    ideal = converge(bs.SteadyState(), bs.rules.InverseDecay(0.5, 1000), 2_000, args)
    rate = converge(bs.RateCircuit(alpha=10.0), bs.rules.InverseSqrtDecay(3e-4, 2, 50), 10_000, args)
    save_data(ideal, args.out / "fig4a.nc")
    save_data(rate, args.out / "fig4b.nc")
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 5), sharey=True)
    panels(axes[0], ideal, "A", "ideal circuit, Eq. 4", bs.theory.min_neg_log_snr)
    panels(axes[1], rate, "B", r"rate circuit, $\alpha$ = 10", bs.theory.min_neg_log_snr)
    save_figure(figure, args.out / "fig4")
    print_means(ideal, "Fig. 4A", [200, 2_000])
    print_means(rate, "Fig. 4B", [500, 2_000, 10_000])


if __name__ == "__main__":
    main()
