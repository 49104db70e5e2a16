"""The colours of the figures can be told apart in grey."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import colormaps, colors

from bioshare.bridge.picture import COLOURS

ROOT = Path(__file__).parent.parent
DRAWN = sorted([*(ROOT / "figures").glob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")])


def lightness(rgb):
    """CIE L* of colours (..., 3) lighter than L* = 8: 100 for white."""
    rgb = np.asarray(rgb)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16


@pytest.fixture
def cycle():
    with plt.style.context("bioshare.figure"):
        return [colors.to_hex(color) for color in plt.rcParams["axes.prop_cycle"].by_key()["color"]]


def test_the_lightness_of_the_cycle_is_known_for_black_and_white():
    np.testing.assert_allclose(lightness([[1.0, 1, 1], [0.5, 0.5, 0.5]]), [100, 53.4], atol=0.1)


def test_the_lines_of_the_style_differ_in_lightness_by_ten_and_stand_out_from_white(cycle):
    found = np.sort(lightness([colors.to_rgb(color) for color in cycle[:5]]))
    assert np.diff(found).min() > 10
    assert found.max() < 75


def test_more_lines_are_dashed_and_all_differ_in_lightness_by_five(cycle):
    with plt.style.context("bioshare.figure"):
        dashes = plt.rcParams["axes.prop_cycle"].by_key()["linestyle"]
    assert dashes == ["-"] * 5 + ["--"] * 4
    found = np.sort(lightness([colors.to_rgb(color) for color in cycle]))
    assert len(found) == 9
    assert np.diff(found).min() > 5
    assert found.max() < 75


def test_the_first_three_lines_differ_in_lightness_by_twenty(cycle):
    assert np.diff(np.sort(lightness([colors.to_rgb(color) for color in cycle[:3]]))).min() > 20


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_figures_and_notebooks_use_the_colours_of_the_style(path, cycle):
    assert set(re.findall(r"#[0-9A-Fa-f]{6}\b", path.read_text())) <= set(cycle)


def test_the_colours_of_weights_grow_lighter_with_the_weight_and_are_grey_at_zero():
    shades = colormaps[COLOURS](np.linspace(0, 1, 101))[:, :3]
    assert np.diff(lightness(shades)).min() > 0
    assert np.ptp(shades[50]) < 0.03
