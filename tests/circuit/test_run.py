"""What a sleep leaves: labelled axes, the parameters beside them, and netCDF that reads back the same."""

import importlib.metadata
import pickle
import platform

import numpy as np
import pytest
import xarray as xr

import bioshare as bs


def initial(*shape):
    return np.random.default_rng(0).normal(1, 1, shape)


@pytest.fixture(scope="module")
def grid():
    """Two gammas, three alphas, five runs."""
    circuit = bs.RateCircuit(alpha=np.array([[1.0], [5.0], [10.0]]), tau=10.0, bias=0.5, duration=12.0)
    rule = bs.Hebbian(np.array([[[0.1]], [[0.01]]]), 0.9, learning_rate=bs.rules.InverseDecay(0.01, 100))
    stimulus = bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)
    return bs.simulate(initial(5, 7, 4), stimulus, circuit, rule, presentations=9, seed=11, record_every=3)


def test_a_grid_of_runs_has_named_axes(grid):
    sizes = {"gamma": 2, "alpha": 3, "run": 5, "presentation": 4, "neuron": 7, "input": 4}
    data = grid.to_xarray()
    assert dict(data.sizes) == sizes
    assert data.neg_log_snr.dims == data.mean_norm.dims == data.mean_drift.dims == (
        "gamma", "alpha", "run", "presentation",
    )  # fmt: skip
    assert data.weights.dims == ("gamma", "alpha", "run", "neuron", "input")
    assert data.r.dims == ("gamma", "alpha", "run", "neuron")
    assert data.r_inh.dims == ("gamma", "alpha", "run")


def test_the_axes_carry_their_values(grid):
    data = grid.to_xarray()
    assert data.gamma.values.tolist() == [0.1, 0.01]
    assert data.alpha.values.tolist() == [1, 5, 10]
    assert data.presentation.values.tolist() == [0, 3, 6, 9]
    picked = data.weights.sel(gamma=0.01, alpha=5.0).isel(run=2)
    assert np.array_equal(picked, grid.weights[1, 1, 2])


def test_scalar_parameters_seed_and_versions_are_attributes(grid):
    attributes = grid.to_xarray().attrs
    expected = {
        "circuit": "RateCircuit", "tau": 10.0, "bias": 0.5, "dt": 1.0, "duration": 12.0, "momentum": 0.9,
        "learning_rate": "InverseDecay(scale=0.01, offset=100.0)", "seed": 11, "presentations": 9, "interrupted": 0,
        "stimulus": "Gaussian(noise=0.1, mean=0.0, std=1.0)", "python": platform.python_version(),
        "bioshare": bs.__version__, "numpy": np.__version__, "xarray": xr.__version__,
        "torch": importlib.metadata.version("torch"), "brian2": importlib.metadata.version("brian2"),
    }  # fmt: skip
    assert {name: attributes.get(name) for name in expected} == expected
    assert attributes["engine"].startswith("Exact(dtype='float64'")


def test_netcdf_reads_back_identical(grid, tmp_path):
    data = grid.to_xarray()
    data.to_netcdf(tmp_path / "sleep.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "sleep.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), data)


def test_a_single_run_has_no_leading_axes_and_says_that_its_inputs_were_an_array(tmp_path):
    run = bs.simulate(initial(7, 4), np.ones((3, 4)), bs.SteadyState(), bs.Hebbian(learning_rate=1e-3))
    assert run.weights.shape == (7, 4)
    assert run.neg_log_snr.shape == (4,)
    assert run.r_inh.shape == ()
    data = run.to_xarray()
    assert dict(data.sizes) == {"presentation": 4, "neuron": 7, "input": 4}
    assert data.attrs["stimulus"] == "an array"
    assert data.attrs["seed"] == "none"
    assert data.attrs["alpha"] == np.inf
    assert data.attrs["learning_rate"] == 1e-3
    data.to_netcdf(tmp_path / "sleep.nc")
    with xr.open_dataset(tmp_path / "sleep.nc") as read:
        xr.testing.assert_identical(read.load(), data)


def test_several_axes_of_runs_are_told_apart():
    circuit = bs.SteadyState(np.array([1.0, 2.0]))
    run = bs.simulate(initial(3, 4, 2, 7, 4), np.ones((3, 4)), circuit, bs.Hebbian(learning_rate=1e-3))
    assert run.to_xarray().weights.dims == ("run", "run_1", "alpha", "neuron", "input")


def test_parameters_that_vary_together_share_an_axis():
    circuit = bs.SteadyState(np.array([1.0, 2.0]))
    rule = bs.Hebbian(gamma=np.array([0.1, 0.2]), learning_rate=1e-3)
    data = bs.simulate(initial(7, 4), np.ones((3, 4)), circuit, rule).to_xarray()
    assert data.weights.dims == ("alpha", "neuron", "input")
    assert data.gamma.dims == ("alpha",)
    assert data.gamma.values.tolist() == [0.1, 0.2]


def test_a_parameter_over_two_axes_is_a_coordinate_over_both(tmp_path):
    rule = bs.Hebbian(gamma=np.array([[0.1, 0.2], [0.3, 0.4]]), learning_rate=1e-3)
    data = bs.simulate(initial(7, 4), np.ones((3, 4)), bs.SteadyState(), rule).to_xarray()
    assert data.gamma.dims == ("run", "run_1")
    data.to_netcdf(tmp_path / "sleep.nc")
    with xr.open_dataset(tmp_path / "sleep.nc") as read:
        xr.testing.assert_identical(read.load(), data)


def test_a_run_says_how_far_it_came_and_how_long_it_took(grid):
    assert not grid.interrupted
    assert grid.presentations == 9
    assert grid.seconds["run"] > 0


def test_a_divergence_survives_pickling():
    error = pickle.loads(pickle.dumps(bs.DivergenceError("it grew", 3)))
    assert (str(error), error.presentation) == ("it grew", 3)
