"""What the weights of a run do at a sharing: `InstantSharing`, or a `Sleep` in one of its presets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bioshare.bridge import InstantSharing, Sleep
from bioshare.circuit import stimuli
from bioshare.train.config import TrainConfig
from bioshare.train.data.order import seed_at
from bioshare.train.graph import Recording, Replayed


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


def changing(
    share: InstantSharing | Sleep,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    record: Callable[[], Recording] | None = None,
) -> Callable[[int], None]:
    """What shares the weights of a model with a seed, to the same bits as ``share``, without checks or a report.

    Args:
        share, model, optimizer: as for ``share.change``.
        record: makes CUDA graphs. Instant sharing is replayed from one, and so is a sleep through maps, for which these
            alone are new every time. Other sleeps are not.
    """
    if record is None or not share.capturable:
        return lambda seed: share.change(model, seed, optimizer=optimizer)

    def apply(*tensors: Tensor) -> None:
        share.apply(model, tensors, optimizer=optimizer)

    replayed = Replayed(apply, record)
    return lambda seed: replayed(*share.tensors(model, seed))


def _stimulus(config: TrainConfig) -> stimuli.Stimulus:
    """What a sleeping network sees."""
    stimulus = stimuli.grid(shuffle=True) if config.stimulus == "grid" else stimuli.gaussian()
    return stimuli.noise(stimulus, config.noise) if config.noise else stimulus
