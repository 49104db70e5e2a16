import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from bioshare.train.config import TrainConfig
from bioshare.train.results import MEANINGS, complete, gather, write_result
from bioshare.train.stored import UnreadableRunError, config_text


def result(*top1, **attributes):
    snr = ("snr_step", [1.0, 2.0, 3.0])
    return xr.Dataset({"top1": ("epoch", list(top1), {"long_name": "%"}), "snr": snr}, attrs=attributes)


def test_histories_are_stacked_along_new_axes():
    results = {
        ("b", 0): result(1.0, 2.0, milestones=[0.5, 0.75], seed=0, epochs=2),
        ("a", 1): result(3.0, 4.0, milestones=np.array([0.5, 0.75]), seed=1, epochs=2),
        ("b", 1): result(5.0, milestones=[0.5, 0.75], seed=1, epochs=2),
    }
    stacked = gather(results, {"row": ["a", "b"], "seed": range(2)})
    nan = np.nan
    expected = [[[nan, nan], [3.0, 4.0]], [[1.0, 2.0], [5.0, nan]]]
    wanted = xr.DataArray(
        expected,
        {"row": ["a", "b"], "seed": [0, 1], "epoch": [1, 2]},
        ("row", "seed", "epoch"),
        attrs={"long_name": "%"},
    )
    xr.testing.assert_identical(stacked["top1"].rename(None), wanted)
    assert list(stacked.data_vars) == ["top1"]
    assert stacked.attrs == {"milestones": [0.5, 0.75], "epochs": 2}


def test_the_order_of_the_results_does_not_matter():
    results = {(seed,): result(float(seed), seed=seed, epochs=1) for seed in range(3)}
    backwards = dict(reversed(results.items()))
    xr.testing.assert_identical(*(gather(order, {"seed": range(3)}) for order in (results, backwards)))


def test_what_older_runs_lack_is_empty():
    new = result(2.0, 3.0, epochs=2)
    new["sleep_seconds"] = "epoch", [0.5, 0.25]
    stacked = gather({(0,): result(1.0, 2.0, epochs=2), (1,): new}, {"seed": range(2)})
    np.testing.assert_array_equal(stacked["sleep_seconds"], [[np.nan, np.nan], [0.5, 0.25]])
    np.testing.assert_array_equal(stacked["top1"], [[1.0, 2.0], [2.0, 3.0]])


def test_the_snr_at_the_end_of_an_epoch_is_the_median_over_layers_that_have_one():
    shared = result(1.0, 2.0, epochs=2).drop_vars("snr")
    values = [[9.0, 9.0, np.nan], [-1.0, -3.0, np.nan], [-np.inf, -np.inf, np.nan]]
    shared["neg_log_snr"] = ("snr_step", "layer"), values
    often = shared.isel(snr_step=[0, 0, 1, 1, 2])  # not once an epoch
    stacked = gather({(0,): shared, (1,): often, (2,): result(1.0, 2.0, epochs=2)}, {"seed": range(3)})
    nothing = [np.nan, np.nan]
    np.testing.assert_array_equal(stacked["neg_log_snr"], [[-2.0, -np.inf], nothing, nothing])


def test_layers_with_feedback_keep_their_order_and_runs_without_feedback_are_empty():
    angles = lambda layers, *values: result(1.0, 2.0, epochs=2).assign(
        weight_angle=xr.DataArray([values, values], {"feedback_layer": layers}, ("epoch", "feedback_layer"))
    )
    results = {("a",): angles(["9", "10"], 1.0, 2.0), ("b",): result(1.0, 2.0, epochs=2)}
    stacked = gather(results | {("c",): angles(["9", "8"], 3.0, 4.0)}, {"row": ["a", "b", "c"]})
    assert stacked["feedback_layer"].values.tolist() == ["9", "10", "8"]
    assert stacked["weight_angle"].dtype == np.float32
    expected = [[1.0, 2.0, np.nan], 3 * [np.nan], [3.0, np.nan, 4.0]]
    np.testing.assert_array_equal(stacked["weight_angle"].isel(epoch=1), expected)
    np.testing.assert_array_equal(stacked["top1"], 3 * [[1.0, 2.0]])


def test_a_gathered_dataset_survives_the_disk(tmp_path):
    stacked = gather({("a", 0.1): result(1.0, epochs=1)}, {"row": ["a", "b"], "learning_rate": [0.1, 0.2]})
    write_result(tmp_path / "all.nc", stacked)
    with xr.open_dataset(tmp_path / "all.nc", engine="h5netcdf") as again:
        xr.testing.assert_identical(again.load(), stacked)


def whole(*top1, **attributes):
    """A result with every quantity."""
    return result(*top1, **attributes).assign({name: ("epoch", list(top1)) for name in MEANINGS})


def test_only_a_complete_run_of_the_same_configuration_is_taken(tmp_path):
    config = TrainConfig(epochs=2)
    assert complete(tmp_path, config) is None
    write_result(tmp_path / "result.nc", whole(1.0, config=config_text(config)))
    assert complete(tmp_path, config) is None
    write_result(tmp_path / "result.nc", whole(1.0, 2.0, config=config_text(config)))
    found = complete(tmp_path, config)
    assert found is not None
    assert found["top1"].values.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"seed was 0 and is now 1\. .*--to"):
        complete(tmp_path, replace(config, seed=1))


def test_settings_that_all_runs_share_are_kept():
    configs = [TrainConfig(epochs=1, seed=seed) for seed in range(2)]
    runs = {(one.seed,): result(1.0, config=config_text(one)) for one in configs}
    shared = json.loads(gather(runs, {"seed": range(2)}).attrs["shared_config"])
    assert shared["epochs"] == 1
    assert "seed" not in shared


def test_a_result_of_an_older_version_is_refused_by_name(tmp_path):
    write_result(tmp_path / "result.nc", result(1.0, epochs=1, dataset="digits"))
    for config in (None, TrainConfig()):
        with pytest.raises(ValueError, match=r"result\.nc was written by an older version of bioshare; train the run"):
            complete(tmp_path, config)


def test_a_complete_run_of_any_configuration(tmp_path):
    assert complete(tmp_path) is None
    write_result(tmp_path / "result.nc", whole(1.0, config=config_text(TrainConfig(epochs=2, seed=5))))
    assert complete(tmp_path) is None
    write_result(tmp_path / "result.nc", whole(1.0, 2.0, config=config_text(TrainConfig(epochs=2, seed=5))))
    found = complete(tmp_path)
    assert found is not None
    assert found["top1"].values.tolist() == [1.0, 2.0]


FORMS = {
    "no accuracy": lambda found: found.drop_vars("top1"),
    "an accuracy that is one number": lambda found: found.assign(top1=1.0),
    "no epochs": lambda found: found.isel(epoch=0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_file_of_another_form_is_no_complete_run(tmp_path, form):
    config = TrainConfig(epochs=2)
    write_result(tmp_path / "result.nc", FORMS[form](whole(1.0, 2.0, config=config_text(config))))
    for one in (config, None):
        with pytest.raises(UnreadableRunError, match=r"result\.nc must have .*top1.* for every epoch\. Move it away"):
            complete(tmp_path, one)
