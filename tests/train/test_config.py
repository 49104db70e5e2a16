"""A configuration refuses what makes no sense, and names the field."""

import dataclasses
import math
import re

import pytest

from bioshare.train.config import TrainConfig


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("dataset", "mnist", "one of cifar10, "),
        ("dataset", ["cifar10"], "one of cifar10, "),
        ("locally_connected", "no", "True or False"),
        ("locally_connected", 1, "True or False"),
        ("flip", "yes", "True or False or None"),
        ("validation", "x", "True or False"),
        ("learning_rate", "0.1", "a number"),
        ("learning_rate", True, "a number"),
        ("learning_rate", math.nan, "finite and > 0"),
        ("learning_rate", 0, "finite and > 0"),
        ("weight_decay", -1, "finite and >= 0"),
        ("milestones", 0.5, "a tuple, each item a number"),
        ("milestones", ("0.5",), "a tuple, each item a number"),
        ("milestones", (0.5, 1.5), "increasing fractions between 0 and 1"),
        ("epochs", 2.0, "a whole number"),
        ("epochs", 0, "a whole number of at least 1"),
        ("seed", -1, "a whole number of at least 0"),
        ("share_every", "3", "a whole number or None"),
        ("share_every", 0, "a whole number of at least 1"),
    ],
)
def test_a_field_of_the_wrong_kind_or_size_is_named(field, value, told):
    with pytest.raises(ValueError, match=f"^{field} must be {told}.*; got {re.escape(repr(value))}"):
        dataclasses.replace(TrainConfig(locally_connected=True), **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("sleep", "deep", "one of instant, ideal, circuit"),
        ("alpha", math.inf, "finite and >= 0"),
        ("alpha", -1.0, "finite and >= 0"),
        ("gamma", -0.1, "finite and >= 0"),
        ("presentations", 0.0, "finite and > 0"),
        ("strength", math.nan, "finite and > 0"),
        ("strength", 2.0, "below 2"),
        ("stimulus", "noise", "one of grid, gaussian"),
        ("noise", -0.01, "finite and >= 0"),
        ("pool", 0, "a whole number of at least 1"),
        ("pool", 1.5, "a whole number or None"),
        ("rescale", "yes", "True or False"),
        ("moments", "drop", "one of keep, share, reset"),
    ],
)
def test_a_wrong_field_of_a_sleep_is_named(field, value, told):
    config = TrainConfig(locally_connected=True, share_every=3, sleep="circuit")
    with pytest.raises(ValueError, match=f"^{field} must be {told}.*; got {re.escape(repr(value))}"):
        dataclasses.replace(config, **{field: value})


OF_SLEEPS = {
    "gamma": 0.1, "presentations": 2.0, "strength": 0.2, "stimulus": "gaussian", "noise": 0.1, "pool": 3,
    "rescale": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        *(({}, *other) for other in OF_SLEEPS.items()),
        *(({}, *other) for other in {"sleep": "ideal", "alpha": 50.0, "moments": "share"}.items()),
        *(({"share_every": 3}, *other) for other in OF_SLEEPS.items()),
        ({"share_every": 3}, "alpha", 50.0),
        ({"share_every": 3, "sleep": "ideal"}, "alpha", 50.0),
        ({"share_every": 3, "sleep": "circuit", "noise": 0.1}, "pool", 3),
    ],
)
def test_a_field_that_would_change_nothing_or_has_no_meaning_must_keep_its_default(config, field, value):
    config = TrainConfig(locally_connected=True, **config)
    default = getattr(TrainConfig(), field)
    told = f"^{field} must stay {re.escape(repr(default))} (without|for|with) .*; got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(config, **{field: value})


def test_noise_leaves_no_linear_map_that_moments_could_follow():
    noisy = TrainConfig(locally_connected=True, share_every=3, sleep="circuit", noise=0.1)
    with pytest.raises(ValueError, match=r'^moments must be "keep" or "reset" with noise=0\.1.*; got \'share\''):
        dataclasses.replace(noisy, moments="share")
    assert dataclasses.replace(noisy, moments="reset").moments == "reset"


def test_what_a_sleep_may_be_told():
    config = TrainConfig(locally_connected=True, share_every=3, moments="share")
    for sleep in ("ideal", "circuit"):
        assert dataclasses.replace(config, sleep=sleep, **OF_SLEEPS | {"noise": 0.0}).pool == 3
    assert dataclasses.replace(config, sleep="circuit", alpha=0).alpha == 0


def test_milestones_may_be_a_list():
    config = TrainConfig(milestones=[0.5, 0.75])
    assert config == TrainConfig()
    assert hash(config) == hash(TrainConfig())
