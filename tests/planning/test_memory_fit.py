import pytest

from medjax.builders.assemble import Needs
from medjax.errors import UserError
from medjax.planning import memory_fit
from medjax.planning.forecast import Forecast
from medjax.planning.memory_fit import decisions, machine_here, most_that_fit
from small_config import small_config

GB = 10**9
TRAINING, SAMPLING = Needs(training=True), Needs(sampling=True)


def invented(state, a_row, memory):
    """Forecasts that compile nothing, and the batches they were asked for."""
    asked = []

    def forecast(rows):
        asked.append(rows)
        needed = state + a_row * rows
        return Forecast("denoise", {}, rows, "none", fits=needed <= memory, bytes_per_device=needed)

    return forecast, asked


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (7, 7), (100, 9)])
def test_as_many_as_fit_and_no_more_than_asked_for(most, expected):
    forecast, asked = invented(state=GB, a_row=GB, memory=10 * GB)
    rows, chosen = most_that_fit(forecast, most, 10 * GB)
    assert (rows, chosen.batch_size, chosen.fits) == (expected, expected, True)
    assert len(asked) <= 3


def test_where_the_line_misleads_fewer_are_taken():
    def forecast(rows):
        return Forecast("denoise", {}, rows, "none", fits=rows <= 5, bytes_per_device=rows)

    assert most_that_fit(forecast, 64, 64)[0] == 4
    assert most_that_fit(forecast, 6, 64)[0] == 4


def test_none_where_one_does_not_fit():
    assert most_that_fit(invented(GB, GB, GB)[0], 8, GB) is None


def test_the_least_recomputation_that_fits(monkeypatch):
    needs = {"none": 40, "above:32": 30, "above:16": 20, "blocks": 10}

    def forecast_for(memory):
        def forecast(config, machine):
            needed = needs[config.train.remat]
            return Forecast("train", {}, 1, config.train.remat, fits=needed <= memory, bytes_per_device=needed)

        monkeypatch.setattr(memory_fit, "forecast_train", forecast)

    config = small_config()
    assert decisions(config, None, TRAINING) == {}
    config.train.remat = "auto"
    for memory, expected in ((50, "none"), (25, "above:16"), (10, "blocks")):
        forecast_for(memory)
        assert decisions(config, None, TRAINING) == {"train.remat": expected}
        assert config.train.remat == "auto"
    forecast_for(5)
    with pytest.raises(UserError, match="data.batch_size is .*even with train.remat=blocks"):
        decisions(config, None, TRAINING)


def test_what_is_wrong_with_the_configuration_is_no_want_of_memory():
    with pytest.raises(UserError, match="7 groups|groups is 7"):
        decisions(small_config(**{"train.remat": "auto", "model.groups": 7}), None, TRAINING)
    with pytest.raises(UserError, match="7 groups|groups is 7"):
        decisions(small_config(**{"sample.batch_size": 0, "model.groups": 7}), None, SAMPLING)


def test_the_batch_of_samples_is_found_on_this_machine(capsys):
    config = small_config()
    assert decisions(config, None, SAMPLING) == {}
    config.sample.batch_size, config.sample.count, config.mesh.data = 0, 3, 2
    assert decisions(config, None, SAMPLING) == {"sample.batch_size": 4}  # two a device
    assert config.sample.batch_size == 0
    assert "sample.batch_size: 4" in capsys.readouterr().err
    assert machine_here().memory > GB
