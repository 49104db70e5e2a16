"""The report of a sleep: its numbers, the table, labelled axes, TensorBoard, the picture; and what may be kept."""

import math
import platform
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import bioshare as bs
from bioshare.bridge import LayerReport, SleepReport
from bioshare.bridge.report import COLUMNS, QUANTITIES, KeptChannel, measure_groups, medians
from bioshare.nn import LocallyConnected2d

SHARINGS = [bs.InstantSharing(), bs.HebbianSharing(updates=2), bs.Sleep.steady_state()]
sharings = pytest.mark.parametrize("sharing", SHARINGS, ids=lambda sharing: type(sharing).__name__)

# Two neurons with two inputs each, a channel a row: the mean goes from (3, 4) to (4, 3) or halves, or all is zero.
BEFORE = torch.tensor([[[4.0, 5.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 0.0]]]).double()
AFTER = torch.tensor([[[4.5, 3.5], [3.5, 2.5]], [[0.75, 1.5], [1.25, 2.5]], [[0.0, 0.0], [0.0, 0.0]]]).double()

SLEPT = SleepReport(
    (
        LayerReport("stem", 9, 0.05384, 0.8, 3.62345, 8.961, -0.5, 7.2025, 0.0304),
        LayerReport("stages.1.0.shortcut.0", 1, 0.0, 1.0, 0.0, 10.0, -math.inf, 0.115, 1.25),
        LayerReport("small", 0, *[math.nan] * 6, seconds=0.0),
    ),
    maps=2,
    map_seconds=1.5,
    pool_maps=3,
    pool_bytes=4_200_000,
)


def network(input_size=(7, 8)):
    """Two layers of distinct weights; the first has three output channels and kernels of 2 x 3."""
    rows, columns = (n - k + 1 for n, k in zip(input_size, (2, 3), strict=True))
    model = nn.Sequential(
        LocallyConnected2d(2, 3, (2, 3), input_size=input_size),
        LocallyConnected2d(3, 1, 1, input_size=(rows, columns)),
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(1 + torch.randperm(weight.numel(), generator=generator).view(weight.shape))
    return model


def report_of(before, after, channel=0):
    """A report that kept a channel's weights (H, W, in, kh, kw) of its only layer."""
    rows = (LayerReport("conv", 1, 0.1, 1.0, 0.0, 2.0, -3.5, 0.1, 0.0),)
    return SleepReport(rows, kept=KeptChannel("conv", channel, before, after))


def writer(methods=("add_scalar", "add_figure")):
    """A stand-in for a SummaryWriter, and what it was given."""
    written = {}
    add = lambda tag, value, step: written.update({(tag, step): value})
    return SimpleNamespace(**dict.fromkeys(methods, add)), written


def images(figure):
    """The panels' images, before and after."""
    return [axes.images[0] for axes in figure.axes[:2]]


def test_the_measured_quantities_are_those_computed_by_hand():
    expected = {
        "spread": [0.5, 0.25, math.nan],
        "mean_norm": [1.0, 0.5, math.nan],
        "mean_angle": [math.degrees(math.acos(0.96)), 0.0, math.nan],
        "neg_log_snr_before": [math.log(25 / 288), math.log(1 / 4), -math.inf],
        "neg_log_snr_after": [math.log(25 / 1152), math.log(1 / 16), -math.inf],
    }
    assert tuple(expected) == QUANTITIES
    np.testing.assert_allclose(measure_groups(BEFORE, AFTER), list(expected.values()), rtol=0, atol=1e-12)


def test_a_group_without_a_value_does_not_hide_those_that_have_one():
    found = medians([measure_groups(BEFORE[:2], AFTER[:2]), measure_groups(BEFORE[2:], AFTER[2:])])
    assert found["neg_log_snr_before"] == pytest.approx(math.log(25 / 288), abs=1e-12)  # equal weights: -inf
    assert found["spread"] == pytest.approx(0.375, abs=1e-12)
    assert found["mean_norm"] == pytest.approx(0.75, abs=1e-12)
    assert found["mean_angle"] == pytest.approx(math.degrees(math.acos(0.96)) / 2, abs=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-3, 60.0, 90.0, 180.0])
def test_small_angles_are_measured_as_well_as_large_ones(degrees):
    turned = [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]
    before, after = (torch.tensor([[vector, vector]], dtype=torch.float64) for vector in ([2.0, 0.0], turned))
    found = dict(zip(QUANTITIES, measure_groups(before, after), strict=True))
    assert found["mean_angle"][0] == pytest.approx(degrees, abs=1e-12)
    assert found["mean_norm"][0] == pytest.approx(0.5, abs=1e-12)


def test_a_mean_of_0_before_or_after_sleep_has_no_direction():
    some, none = torch.ones(1, 2, 3).double(), torch.zeros(1, 2, 3).double()
    found = [dict(zip(QUANTITIES, measure_groups(*pair), strict=True)) for pair in ((none, some), (some, none))]
    assert all(math.isnan(quantities["mean_angle"][0]) for quantities in found)
    assert math.isnan(found[0]["mean_norm"][0])
    assert found[1]["mean_norm"][0] == 0


def test_the_snr_of_a_network_is_the_one_of_theory():
    layer = LocallyConnected2d(3, 4, 3, padding=1, input_size=7)
    groups = [module.groups(layer.weight.detach()).double() for module in bs.bridge.modules(layer)]
    expected = np.median(np.concatenate([bs.theory.neg_log_snr(one) for one in groups]))
    assert bs.bridge.neg_log_snr(layer)[""] == pytest.approx(expected, rel=0, abs=1e-12)


def test_a_layer_that_shares_nothing_has_no_snr():
    lonely, equal = (bs.nn.LocallyConnected2d(2, 2, 3, padding=1, input_size=size) for size in (2, 6))
    with torch.no_grad():
        equal.weight.fill_(0.3)
    found = bs.bridge.neg_log_snr(torch.nn.ModuleDict({"lonely": lonely, "equal": equal}))
    assert math.isnan(found["lonely"])
    assert found["equal"] == -math.inf


def test_what_was_not_measured_is_nan():
    assert list(medians([])) == list(QUANTITIES)
    assert all(math.isnan(value) for value in medians([]).values())
    assert math.isnan(medians([measure_groups(BEFORE[2:], AFTER[2:])])["spread"])


def test_the_table_reads_well():
    assert str(SLEPT).splitlines() == [
        "layer                  modules  spread  |mean|  angle  -log SNR before  after  minutes  seconds",
        "stem                         9  0.0538  0.8000  3.623             8.96  -0.50     7.20    0.030",
        "stages.1.0.shortcut.0        1  0.0000  1.0000  0.000            10.00   -inf     0.12    1.250",
        "small                        0       -       -      -                -      -        -    0.000",
        "(medians over groups; spread and |mean| are ratios, after / before; angle in degrees; -: no value)",
        "3 layers in 1.28 s",
        "maps simulated: 2, 1.50 s; 3 kept, 4.2 MB",
        "time asleep: 7.3 min one layer after another, 7.2 min all at once",
    ]


def test_a_model_that_is_a_layer_itself_has_a_short_table():
    shared = str(bs.InstantSharing()(LocallyConnected2d(1, 1, 1, input_size=2)))
    assert shared.splitlines()[1].split()[:2] == ["(model)", "1"]
    assert len(shared.splitlines()) == 3
    assert "no value" not in shared


def test_every_field_of_a_layer_has_a_column():
    assert list(COLUMNS) == [name for name in LayerReport.__dataclass_fields__ if name != "name"]


def test_the_axes_and_attributes_have_names():
    data = SLEPT.to_xarray()
    assert dict(data.sizes) == {"layer": 3}
    assert list(data.data_vars) == list(COLUMNS)
    assert data.layer.values.tolist() == ["stem", "stages.1.0.shortcut.0", "small"]
    assert data.modules.values.tolist() == [9, 1, 0]
    assert data.neg_log_snr_after.sel(layer="stages.1.0.shortcut.0") == -math.inf
    assert data.mean_norm.sel(layer="stem") == 0.8
    assert data.minutes.sel(layer="stem") == 7.2025
    assert data.spread.isnull().values.tolist() == [False, False, True]
    assert all(data[name].attrs["long_name"] for name in (*COLUMNS, "layer"))
    costs = {"maps": 2, "map_seconds": 1.5, "pool_maps": 3, "pool_bytes": 4_200_000}
    versions = {"python": platform.python_version(), "bioshare": bs.__version__, "torch": torch.__version__}
    assert data.attrs.items() >= (costs | versions).items()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@sharings
def test_the_report_is_of_the_weights_that_the_layer_holds(sharing, dtype):
    """Rounded to the layer's precision; in bfloat16 nearly equal weights become equal."""
    model = network().to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight /= weight.mean()
    before = bs.bridge.neg_log_snr(model)
    report = sharing(model, progress=False)
    assert {row.name: row.neg_log_snr_before for row in report.layers} == before
    assert {row.name: row.neg_log_snr_after for row in report.layers} == bs.bridge.neg_log_snr(model)


@pytest.mark.parametrize("named", [True, False])
def test_netcdf_reads_back_the_same(named, tmp_path):
    report = SLEPT if named else bs.InstantSharing()(LocallyConnected2d(1, 1, 1, input_size=2))
    report.to_xarray().to_netcdf(tmp_path / "sleep.nc")
    back = xr.load_dataset(tmp_path / "sleep.nc")
    xr.testing.assert_identical(back, report.to_xarray())


def test_a_writer_gets_every_finite_number_under_its_tag():
    stand_in, written = writer(methods=["add_scalar"])
    SLEPT.write_to(stand_in, 70)
    measured = dict(zip((*QUANTITIES, "seconds"), (0.05384, 0.8, 3.62345, 8.961, -0.5, 0.0304), strict=True))
    expected = {f"sleep/{name}/stem": value for name, value in measured.items()}
    expected |= {
        f"sleep/{name}/stages.1.0.shortcut.0": value
        for name, value in {"neg_log_snr_before": 10.0, "spread": 0.0, "mean_norm": 1.0, "mean_angle": 0.0}.items()
    }
    expected |= {"sleep/seconds/stages.1.0.shortcut.0": 1.25, "sleep/seconds/small": 0.0}
    expected |= {"sleep/maps": 2, "sleep/map_seconds": 1.5, "sleep/pool_maps": 3, "sleep/pool_bytes": 4_200_000}
    assert written == {(tag, 70): value for tag, value in expected.items()}


def test_a_writer_gets_the_picture_of_what_was_kept():
    stand_in, written = writer()
    report = bs.InstantSharing()(network(), keep=("0", 2))
    report.write_to(stand_in, 5)
    picture = written["sleep/weights/0/2", 5]
    for drawn, expected in zip(images(picture), images(report.draw()), strict=True):
        np.testing.assert_array_equal(drawn.get_array(), expected.get_array())


def test_a_model_that_is_a_layer_itself_has_tags_without_a_name():
    stand_in, written = writer()
    bs.InstantSharing()(LocallyConnected2d(1, 2, 1, input_size=2), keep=("", 1)).write_to(stand_in, 0)
    assert {("sleep/mean_norm", 0), ("sleep/weights/1", 0)} <= written.keys()
    assert not any("//" in tag or tag.endswith("/") for tag, _ in written)


def test_a_writer_that_cannot_write_is_refused_before_anything_is_written():
    stand_in, written = writer(methods=["add_scalar"])
    with pytest.raises(TypeError, match="writer must have add_figure"):
        bs.InstantSharing()(network(), keep=("0", 0)).write_to(stand_in, 0)
    with pytest.raises(TypeError, match="writer must have add_scalar"):
        SLEPT.write_to("runs/1", 0)
    with pytest.raises(ValueError, match="step must be a number of steps, at least 0; got -1"):
        SLEPT.write_to(stand_in, -1)
    with pytest.raises(TypeError, match="step must be"):
        SLEPT.write_to(stand_in, 1.0)
    assert written == {}


def test_tensorboard_reads_back_what_was_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    report = bs.Sleep.steady_state()(network(), progress=False, keep=("0", 1))
    with SummaryWriter(str(tmp_path)) as real:
        report.write_to(real, 3)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    for row in report.layers:
        (event,) = events.Scalars(f"sleep/spread/{row.name}")
        assert event.step == 3
        assert event.value == pytest.approx(row.spread, abs=1e-6)
    (image,) = events.Images("sleep/weights/0/1")
    assert image.step == 3
    assert image.width > image.height > 300


@sharings
def test_the_picture_has_every_kernel_at_its_place(sharing):
    model = network()
    before = model[0].weight.detach().clone()
    report = sharing(model, progress=False, keep=("0", 2))
    for image, weight in zip(images(report.draw(inputs=1)), (before, model[0].weight.detach()), strict=True):
        drawn = np.asarray(image.get_array())
        assert drawn.shape == (6 * 2, 6 * 3)
        for row, column in np.ndindex(6, 6):
            kernel = drawn[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            np.testing.assert_array_equal(kernel, weight[row, column, 2, 1].numpy())
    assert not torch.equal(before, model[0].weight)


def test_after_sharing_the_picture_repeats_with_the_modules():
    before, after = images(bs.InstantSharing()(network(input_size=(9, 11)), keep=("0", 0)).draw())
    drawn = np.asarray(after.get_array())  # 8 x 9 positions of 2 x 3: a tile of 2 x 3 positions is 4 x 9 weights
    np.testing.assert_allclose(drawn[4:], drawn[:-4], rtol=0, atol=1e-12)
    np.testing.assert_allclose(drawn[:, 9:], drawn[:, :-9], rtol=0, atol=1e-12)
    assert np.abs(drawn[2:] - drawn[:-2]).max() > 1
    assert np.abs(drawn[:, 3:] - drawn[:, :-3]).max() > 1
    assert np.abs(before.get_array()[4:] - before.get_array()[:-4]).max() > 100


def test_the_axes_of_the_picture_count_positions_and_weights_are_squares():
    figure = bs.InstantSharing()(network(input_size=(9, 11)), keep=("0", 0)).draw()
    for axes in figure.axes[:2]:
        assert axes.images[0].get_extent() == [-0.5, 8.5, 7.5, -0.5]
        assert axes.get_aspect() == pytest.approx(2 / 3, abs=1e-12)
        assert axes.get_xticks(minor=True).tolist() == [2.5, 5.5]  # between the tiles
        assert axes.get_yticks(minor=True).tolist() == [1.5, 3.5, 5.5]


def test_kernels_of_one_weight_are_not_divided_into_tiles():
    figure = bs.InstantSharing()(network(), keep=("1", 0)).draw(inputs=2)
    assert images(figure)[0].get_array().shape == (6, 6)
    assert not any(axes.get_xticks(minor=True).size for axes in figure.axes[:2])


def test_both_panels_have_one_scale_centred_on_zero():
    kernels = torch.tensor([[1.0, -1.0, 2.0, 3.0]]).view(1, 4, 1, 1, 1)
    figure = report_of(-20 * kernels, kernels).draw()
    assert [image.get_clim() for image in images(figure)] == [(-3.0, 3.0)] * 2
    assert figure.axes[2].get_ylabel() == "weight"
    assert images(figure)[0].colorbar.extend == "both"  # some weights before sleep lie beyond
    assert images(report_of(kernels, kernels).draw())[0].colorbar.extend == "neither"


def test_a_few_large_weights_do_not_make_the_rest_pale():
    kernels = torch.ones(3, 4, 1, 1, 1)
    kernels[0] = 100.0
    figure = report_of(kernels, kernels).draw()
    assert images(figure)[1].get_clim() == (-4.0, 4.0)
    assert images(figure)[0].colorbar.extend == "both"
    kernels[1:] = 0.0
    assert images(report_of(kernels, kernels).draw())[1].get_clim() == (-100.0, 100.0)


@pytest.mark.parametrize(("before", "limit"), [(5.0, 5.0), (0.0, 1.0)])
def test_weights_that_are_all_zero_after_sleep_are_drawn(before, limit):
    figure = report_of(torch.full((2, 2, 1, 3, 3), before), torch.zeros(2, 2, 1, 3, 3)).draw()
    figure.canvas.draw()
    assert images(figure)[1].get_clim() == (-limit, limit)


def test_the_title_says_what_is_drawn():
    kernels = torch.ones(2, 2, 3, 1, 1, dtype=torch.bfloat16)
    figure = report_of(kernels, kernels, channel=4).draw(1)
    expected = "layer conv: output channel 4, input channel 1\n-log SNR of the layer: 2.00 to -3.50"
    assert figure.get_suptitle() == expected
    assert [axes.get_title() for axes in figure.axes[:2]] == ["before sleep", "after sleep"]
    unmeasured = bs.InstantSharing()(network(), measure=False, keep=("0", 0)).draw()
    assert unmeasured.get_suptitle() == "layer 0: output channel 0, input channel 0"


@pytest.mark.parametrize("shape", [(32, 32, 3, 3), (4, 4, 1, 1), (60, 60, 7, 7), (1, 40, 3, 3)], ids=str)
def test_the_picture_has_a_sensible_size(shape):
    rows, columns, *kernel = shape
    kernels = torch.ones(rows, columns, 1, *kernel)
    width, height = report_of(kernels, kernels).draw().get_size_inches()
    assert 9 < width < 22
    assert 3 < height < 12


def test_drawing_does_without_pyplot(monkeypatch, tmp_path):
    report = bs.InstantSharing()(network(), keep=("0", 0))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError):
        import matplotlib.pyplot  # noqa: F401
    report.draw().savefig(tmp_path / "sleep.png")
    assert (tmp_path / "sleep.png").read_bytes()[:4] == b"\x89PNG"


def test_a_report_without_weights_says_how_to_keep_them():
    with pytest.raises(ValueError, match=r"kept no weights to draw: .* keep=\('0', 0\)"):
        bs.InstantSharing()(network()).draw()


def test_only_input_channels_that_are_there_can_be_drawn():
    report = bs.InstantSharing()(network(), keep=("0", 0))
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=rf"inputs must be .* of layer '0', .* from 0 to 1.*; got {wrong}"):
            report.draw(wrong)
    with pytest.raises(TypeError, match="inputs must be"):
        report.draw(1.0)


WRONG = {
    "name": (("00", 0), ValueError, r"keep must name a .* layer of the model; got '00'. Nearest: '0', '1'"),
    "channel": (("0", 3), ValueError, r"keep must have an output channel of layer '0' \(0 to 2\); got 3"),
    "negative": (("0", -1), ValueError, r"keep must be an output channel of layer '0' \(0 to 2\)"),
    "fraction": (("0", 1.0), TypeError, "keep must be an output channel of layer '0'"),
    "bool": (("0", True), TypeError, "keep must be an output channel of layer '0'"),
    "list": (["0", 0], TypeError, "keep must be a layer's name and the number of an output channel"),
    "text": ("00", TypeError, "keep must be a layer's name"),
    "single": (("0",), TypeError, "keep must be a layer's name"),
    "empty": ((), TypeError, "keep must be a layer's name"),
    "number": ((0, 0), TypeError, "keep must be a layer's name"),
}


@sharings
@pytest.mark.parametrize(("keep", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_kept_is_refused_before_any_weight_changes(sharing, keep, error, message):
    model = network()
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(error, match=message):
        sharing(model, progress=False, keep=keep)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@sharings
def test_what_is_kept_are_the_weights_before_and_after(sharing):
    model = network()
    before = model[0].weight.detach().clone()
    kept = sharing(model, progress=False, keep=("0", 1)).kept
    assert (kept.name, kept.channel) == ("0", 1)
    assert torch.equal(kept.before, before[:, :, 1])
    assert torch.equal(kept.after, model[0].weight[:, :, 1])
    with torch.no_grad():
        model[0].weight.zero_()
    assert kept.after.abs().max() > 1
