"""What the weights of a run do at a sharing: `InstantSharing`, or a `Sleep` in one of its presets."""

from __future__ import annotations

from typing import Any

from bioshare.bridge import InstantSharing, Sleep
from bioshare.circuit import stimuli
from bioshare.train.config import TrainConfig
from bioshare.train.data.plan import seed_at


def sharing(config: TrainConfig) -> InstantSharing | Sleep | None:
    """What shares the weights of a model, called as ``share(model, seed=...)``; None if nothing does."""
    if config.share_every is None:
        return None
    if config.sleep == "instant":
        return InstantSharing(config.border, config.moments)
    fields: dict[str, Any] = {
        "gamma": config.gamma,
        "times": config.presentations,
        "strength": config.strength,
        "stimulus": _stimulus(config),
        "border": config.border,
        "rescale": config.rescale,
        "pool": config.pool,
        "pool_seed": seed_at("pool", config.seed),
        "moments": config.moments,
    }
    return Sleep.steady_state(**fields) if config.sleep == "ideal" else Sleep.rate_circuit(config.alpha, **fields)


def _stimulus(config: TrainConfig) -> stimuli.Stimulus:
    """What a sleeping network sees."""
    stimulus = stimuli.grid(shuffle=True) if config.stimulus == "grid" else stimuli.gaussian()
    return stimuli.noise(stimulus, config.noise) if config.noise else stimulus
