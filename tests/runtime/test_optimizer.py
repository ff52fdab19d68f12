import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.runtime.optimizer import learning_rate_schedule, make_optimizer


def test_warm_up_then_constant():
    schedule = learning_rate_schedule(1e-3, warmup_steps=10, decay="constant", steps=100)
    assert [float(schedule(step)) for step in (0, 4, 9, 10, 99)] == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3, 1e-3])


def test_the_first_update_of_a_warm_up_changes_the_parameters():
    schedule = learning_rate_schedule(1e-3, warmup_steps=10, decay="cosine", steps=100)
    optimizer = make_optimizer(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=0.0)
    params = {"w": jnp.zeros(1)}
    updates, _ = optimizer.update({"w": jnp.ones(1)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-float(schedule(0))], rtol=1e-4)
    assert float(schedule(0)) == pytest.approx(1e-4)


def test_cosine_ends_at_a_hundredth():
    schedule = learning_rate_schedule(1e-3, warmup_steps=0, decay="cosine", steps=100)
    assert [float(schedule(step)) for step in (0, 50, 100)] == pytest.approx([1e-3, 5.05e-4, 1e-5])


def test_an_unknown_decay_names_its_key():
    with pytest.raises(UserError, match=r"optimizer.decay is 'step'"):
        learning_rate_schedule(1e-3, warmup_steps=0, decay="step", steps=100)


def test_clipping_scales_the_global_norm():
    settings = {"b1": 0.9, "b2": 0.999, "eps": 1.0, "weight_decay": 0.0}
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([40.0])}
    clipped, free = (make_optimizer(lambda _: 1.0, clip_norm=norm, **settings) for norm in (1.0, 0.0))
    first, _ = clipped.update(grads, clipped.init(params), params)
    # Adam's first update is -g / (|g| + eps), with g = (0.6, 0.8) after the clip.
    np.testing.assert_allclose([first["a"][0], first["b"][0]], [-0.6 / 1.6, -0.8 / 1.8], rtol=1e-5)
    second, _ = free.update(grads, free.init(params), params)
    np.testing.assert_allclose(second["a"][0], -30 / 31, rtol=1e-5)


def test_each_part_is_clipped_by_its_own_norm():
    optimizer = make_optimizer(
        lambda _: 1.0, b1=0.9, b2=0.999, eps=1.0, weight_decay=0.0, clip_norm=1.0, parts=("generator", "discriminator")
    )
    params = {"generator": {"w": jnp.zeros(1)}, "discriminator": {"w": jnp.zeros(2)}}
    grads = {"generator": {"w": jnp.array([0.5])}, "discriminator": {"w": jnp.array([300.0, 400.0])}}
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["generator"]["w"], [-0.5 / 1.5], rtol=1e-5)  # not clipped
    np.testing.assert_allclose(updates["discriminator"]["w"], [-0.6 / 1.6, -0.8 / 1.8], rtol=1e-5)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, optimizer.init(params))
