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


def test_milestones_may_be_a_list():
    config = TrainConfig(milestones=[0.5, 0.75])
    assert config == TrainConfig()
    assert hash(config) == hash(TrainConfig())
