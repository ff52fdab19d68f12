import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.diffusion import process
from medjax.diffusion.predictions import PREDICTIONS, min_snr_weight, network_input, target, x_0_from
from medjax.diffusion.schedules import cosine, flow, linear, vp
from tolerance import assert_equal_but_for_rounding

SCHEDULES = {"linear": linear(100), "cosine": cosine(100), "vp": vp(100), "flow": flow(100)}
WHOLE, BETWEEN = jnp.array([0, 40, 97]), jnp.array([0.25, 40.5, 97.75])
X_0, NOISE = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 2, 1))


ALL = [(name, prediction) for name in SCHEDULES for prediction in PREDICTIONS]


@pytest.mark.parametrize("t", [WHOLE, BETWEEN], ids=["steps", "between"])
@pytest.mark.parametrize(("name", "prediction"), [pair for pair in ALL if pair != ("flow", "noise")])
def test_each_prediction_gives_x_0_back(name, prediction, t):
    schedule = SCHEDULES[name]
    x_t = process.q_sample(schedule, X_0, t, NOISE)
    found = x_0_from(prediction, schedule, x_t, t, target(prediction, schedule, X_0, t, NOISE))
    # Rounding of the noise is divided by the signal.
    atol = 3e-6 * (1 if prediction != "noise" else 1 / np.sqrt(schedule.alphas_cumprod[-2]))
    np.testing.assert_allclose(found, X_0, atol=atol)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_as_if_x_0_were_predicted(prediction, gamma):
    """An error e in the prediction weighs what the error that it makes in x_0 weighs: min(SNR, gamma) its square."""
    schedule = cosine(100)
    x_t, said = process.q_sample(schedule, X_0, WHOLE, NOISE), target(prediction, schedule, X_0, WHOLE, NOISE)
    in_x_0 = x_0_from(prediction, schedule, x_t, WHOLE, said + 1) - x_0_from(prediction, schedule, x_t, WHOLE, said)
    snr = schedule.alphas_cumprod[WHOLE] / (1 - schedule.alphas_cumprod[WHOLE])
    expected = np.minimum(snr, gamma) * np.asarray(in_x_0)[:, 0, 0, 0, 0] ** 2
    np.testing.assert_allclose(min_snr_weight(prediction, schedule, WHOLE, gamma), expected, rtol=2e-3)


@pytest.mark.parametrize("t", [WHOLE, BETWEEN], ids=["steps", "between"])
def test_a_flow_sees_the_straight_line(t):
    """At u = (t + 1) / T of a flow schedule: (1 - u) x_0 + u noise, whose derivative by u is the target."""
    schedule = flow(100)
    x_t = process.q_sample(schedule, X_0, t, NOISE)
    u = (np.asarray(t) + 1).reshape(-1, 1, 1, 1, 1) / 100
    expected = (1 - u) * X_0 + u * NOISE
    assert_equal_but_for_rounding(network_input("flow", schedule, x_t, t), expected, units=16)
    np.testing.assert_array_equal(target("flow", schedule, X_0, t, NOISE), NOISE - X_0)
    assert network_input("v", schedule, x_t, t) is x_t


def test_pure_noise_has_a_flow_too():
    schedule, t = flow(100), jnp.array([99] * 3)
    np.testing.assert_array_equal(process.q_sample(schedule, X_0, t, NOISE), NOISE)
    assert_equal_but_for_rounding(x_0_from("flow", schedule, NOISE, t, NOISE - X_0), X_0, units=16)


def test_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="prediction 'score'"):
        target("score", linear(100), X_0, WHOLE, NOISE)
