"""A sleep from a file, as a figure, as a table and as a data frame; and the labels of all that is stored."""

from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

import bioshare as bs

W = np.random.default_rng(0).normal(1, 1, (2, 5, 3))
RATE = bs.RateCircuit(np.array([[2.0], [10.0], [5.0]]), duration=12.0, inhibitory_bias=True)
STEADY = bs.SteadyState(np.array([[np.inf]]))
NAMED = bs.Hebbian(np.array([0.1, 0.01]), 0.9, learning_rate=bs.rules.InverseSqrtDecay(3e-4, 2, 5))
CONSTANT = bs.Hebbian(0.1, learning_rate=1e-3)
FUNCTION = bs.Hebbian(0.1, learning_rate=lambda k: 1e-3 / (1 + k))
ARRAYS = ("weights", "neg_log_snr", "mean_norm", "mean_drift", "presentation", "summed_rate", "r", "r_inh", "update")


def slept(circuit=RATE, rule=NAMED, **options):
    options = {"presentations": 6, "seed": 3, "record_every": 2} | options
    return bs.simulate(
        W, options.pop("stimuli", bs.stimuli.noise(bs.stimuli.gaussian(), 0.1)), circuit, rule, **options
    )


def through_a_file(run, tmp_path):
    run.to_xarray().to_netcdf(tmp_path / "sleep.nc")
    return bs.SleepRun.load(tmp_path / "sleep.nc")


@pytest.mark.parametrize("circuit", [RATE, STEADY, bs.SteadyState(3.0)], ids=["rate", "ideal", "steady"])
@pytest.mark.parametrize("rule", [NAMED, CONSTANT, FUNCTION], ids=["named", "constant", "function"])
def test_a_run_comes_back_from_a_file(circuit, rule, tmp_path):
    run = slept(circuit, rule, record=("r", "weights"), sample_every=2)
    back = through_a_file(run, tmp_path)
    for name in ARRAYS:
        assert np.array_equal(getattr(back, name), getattr(run, name)), name
    assert back.recorded.keys() == run.recorded.keys()
    assert all(np.array_equal(back.recorded[name], run.recorded[name]) for name in run.recorded)
    assert back.stimulus == run.stimulus
    assert (back.seed, back.presentations, back.interrupted) == (3, 6, False)
    assert type(back.circuit) is type(run.circuit)
    for name, value in run.circuit.fields().items():
        assert np.array_equal(np.squeeze(getattr(back.circuit, name)), np.squeeze(value)), name
    again = bs.simulate(W, back.stimulus, back.circuit, back.rule, presentations=6, seed=back.seed)
    np.testing.assert_allclose(np.squeeze(again.weights), np.squeeze(run.weights), rtol=0, atol=1e-12)


def test_the_text_of_a_run_from_a_file_names_the_parameters(tmp_path):
    run = slept(bs.SteadyState(3.0), CONSTANT)
    back = through_a_file(run, tmp_path)
    assert repr(back) == repr(run)


def test_a_function_without_a_name_is_stored_as_the_rates_that_it_returned(tmp_path):
    back = through_a_file(slept(rule=FUNCTION), tmp_path)
    np.testing.assert_array_equal(back.rule.rates(72), 1e-3 / (1 + np.arange(72)))
    assert "learning_rate" not in slept(rule=NAMED).to_xarray()
    with pytest.raises(ValueError, match=r"^learning_rate has 72 rates, too few for update 72"):
        back.rule.rates(73)


def test_rates_that_depend_on_the_length_are_stored_as_they_were_used(tmp_path):
    falling = bs.Hebbian(learning_rate=lambda k: np.linspace(1e-3, 0, len(k)))

    def stop(done):
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="interrupted after"):
        run = bs.simulate(np.ones((4, 3)), np.ones((20, 3)), STEADY, falling, "loop", progress=stop)
    assert len(run.rates) == run.presentations < 20
    back = through_a_file(run, tmp_path)
    np.testing.assert_array_equal(back.rates, np.linspace(1e-3, 0, 20)[: run.presentations, None])
    assert back.rates.sum() == pytest.approx(run.summed_rate[-1], abs=1e-15)


@pytest.mark.parametrize("stimuli", [np.ones((6, 3)), lambda p, k, rng: rng.normal(size=(p, k))], ids=["array", "own"])
def test_inputs_that_only_the_program_knew_leave_their_text(stimuli, tmp_path):
    options = {"presentations": None, "seed": None} if isinstance(stimuli, np.ndarray) else {}
    back = through_a_file(slept(stimuli=stimuli, **options), tmp_path)
    assert back.stimulus is None if isinstance(stimuli, np.ndarray) else back.stimulus.startswith("Drawn(")
    assert back.seed is None if isinstance(stimuli, np.ndarray) else back.seed == 3


def test_a_file_of_something_else_is_refused(tmp_path):
    xr.Dataset({"weights": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match=r"^path must be a file of SleepRun"):
        bs.SleepRun.load(tmp_path / "other.nc")


def test_everything_stored_has_a_long_name_and_units_and_times_stay_numbers(tmp_path):
    circuit = bs.RateCircuit(RATE.alpha, np.array([20.0, 30.0]), RATE.bias, duration=12.0)
    data = slept(circuit, FUNCTION, record=("r", "r_inh", "weights")).to_xarray()
    assert {"time", "update", "tau", "alpha", "presentation", "learning_rate", "r_inh_recorded"} <= set(data.variables)
    for name, variable in data.variables.items():
        assert variable.attrs["long_name"], name
        assert variable.attrs["units"] == ("ms" if name in ("tau", "time") else "1")
    for engine in ("h5netcdf", "scipy"):
        data.to_netcdf(tmp_path / f"{engine}.nc", engine=engine)
        with xr.open_dataset(tmp_path / f"{engine}.nc", engine=engine) as back:
            assert all(variable.dtype.kind in "fi" for variable in back.variables.values())
            assert back.load().tau.values.tolist() == [20.0, 30.0]
            assert back.time.values.tolist() == [0.0, 24.0, 48.0, 72.0]


def test_the_data_frame_has_a_row_for_every_record():
    run = slept()
    frame = run.to_dataframe()
    assert len(frame) == run.neg_log_snr.size == 3 * 2 * 4
    row = frame[(frame.alpha == 10) & (frame.gamma == 0.01) & (frame.presentation == 4)]
    assert row.neg_log_snr.tolist() == [run.neg_log_snr[1, 1, 2]]
    assert row.mean_norm.tolist() == [run.mean_norm[1, 1, 2]]


def test_a_plot_has_a_line_for_every_leading_entry():
    run = slept()
    figure = run.plot()
    left, right = figure.axes
    assert len(left.lines) == len(right.lines) == 6
    drawn = {line.get_label(): line.get_ydata() for line in left.lines}
    np.testing.assert_array_equal(drawn["alpha = 10, gamma = 0.01"], run.neg_log_snr[1, 1])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), run.mean_norm[0, 0] / run.mean_norm[0, 0, 0])
    assert left.get_xlabel() == "presentation"
    single = bs.simulate(W[0], np.ones((3, 3)), bs.SteadyState(), CONSTANT).plot()
    assert [len(panel.lines) for panel in single.axes] == [1, 1]
    assert single.axes[0].get_legend() is None


def style_of(line):
    return line.get_color(), line.get_linestyle()


def test_runs_with_equal_parameters_look_alike_and_have_one_line_in_the_legend():
    rule = bs.Hebbian(np.array([[0.1], [0.01]]), 0.9, learning_rate=0.01)
    weights = np.random.default_rng(0).normal(1, 1, (20, 5, 3))
    panel = bs.simulate(weights, bs.stimuli.gaussian(), bs.SteadyState(), rule, presentations=3, seed=0).plot().axes[0]
    assert len(panel.lines) == 40
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["gamma = 0.1", "gamma = 0.01"]
    assert [style_of(line) for line in panel.lines] == [("#12355b", "-")] * 20 + [("#c1502e", "-")] * 20


def test_parameters_along_several_axes_are_all_told_apart():
    weights, alphas = np.random.default_rng(0).normal(1, 1, (3, 5, 4)), np.array([10.0, 10.0, 1.0])
    for gammas in (np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), np.array([0.1, 0.01, 0.1])):
        rule = bs.Hebbian(gammas, learning_rate=0.01)
        run = bs.simulate(weights, bs.stimuli.gaussian(), bs.SteadyState(alphas), rule, presentations=3, seed=0)
        panel = run.plot().axes[0]
        assert len({style_of(line) for line in panel.lines}) == len(panel.lines) == gammas.size
        labels = [text.get_text() for text in panel.get_legend().get_texts()]
        expected = [
            f"alpha = {a:g}, gamma = {g:g}" for row in np.atleast_2d(gammas) for a, g in zip(alphas, row, strict=True)
        ]
        assert labels == expected


def test_the_end_is_a_record_and_the_texts_of_a_run_speak_of_it():
    weights = np.random.default_rng(0).normal(1, 1, (50, 3))
    run = bs.simulate(
        weights, bs.stimuli.gaussian(), bs.SteadyState(), CONSTANT, presentations=50, seed=0, record_every=40
    )
    after = float(bs.theory.neg_log_snr(run.weights))
    assert run.presentation.tolist() == [0, 40, 50]
    assert run.neg_log_snr[-1] == after
    assert abs(after - run.neg_log_snr[-2]) > 0.01
    assert f"{run.neg_log_snr[0]:.2f} to {after:.2f}" in repr(run)
    left = np.linalg.norm(run.weights.mean(0)) / np.linalg.norm(weights.mean(0))
    assert f"{after:.2f} after" in run._repr_html_()
    assert f"{left:.3f} of that before sleep" in run._repr_html_()


def test_the_html_of_a_run_is_well_formed_and_has_the_parameters():
    run = slept(record="r")
    opened, texts = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

        def handle_data(self, data):
            texts.append(data)

    Reader().feed(run._repr_html_())
    assert opened == []
    text = " ".join(texts)
    for expected in (
        "3 x 2 x 5 x 3",
        "RateCircuit(alpha=",
        "Hebbian(",
        "Gaussian(noise=0.1",
        "r at 4 samples",
        "seed 3",
    ):
        assert expected in text


def test_a_table_of_rates_is_checked():
    for wrong in ([-1.0], [np.nan]):
        with pytest.raises(ValueError, match=r"^table must be an array of rates"):
            bs.rules.Tabulated(wrong)
