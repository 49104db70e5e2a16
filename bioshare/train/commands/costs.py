"""What runs have cost: minutes of training and testing, on which machine, with which versions."""

from __future__ import annotations

from collections.abc import Iterable

import xarray as xr

from bioshare.train.results import VERSIONED, seconds_spent


def costs(results: Iterable[xr.Dataset]) -> str:
    """Runs, minutes, device and versions in a line for every kind of machine; nothing for runs without a clock.

    The minutes are those of training and of the tests after every epoch, where these were timed.
    """
    kinds: dict[str, list[float]] = {}
    for result in results:
        if "seconds" in result and "device" in result.attrs:
            kinds.setdefault(_where(result.attrs), []).append(float(seconds_spent(result)) / 60)
    return "\n".join(
        f"Cost: {len(minutes)} run{'s' * (len(minutes) > 1)}, {sum(minutes):.1f} min of training and tests; {where}."
        for where, minutes in kinds.items()
    )


def _where(attributes: dict[str, object]) -> str:
    """Device, precision and versions in words."""
    device, host = attributes["device"], attributes.get("machine", "unknown")
    versions = [f"{name} {attributes[name]}" for name in ("bioshare", *VERSIONED) if name in attributes]
    precision = [str(attributes["precision_used"])] if "precision_used" in attributes else []
    return ", ".join([str(host) if device == "cpu" else f"{device} ({host})", *precision, *versions])
