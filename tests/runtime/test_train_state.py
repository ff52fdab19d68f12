import jax
import numpy as np
import optax
import pytest

from medjax.runtime.mesh import make_mesh, put_batch
from medjax.runtime.train_state import build_sharded, jit_train_step, make_train_step, state_builder
from small_task import Line

ONE = {"data": 1, "fsdp": 1, "depth": 1, "height": 1}
BATCH = {"image": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}


def run(steps=3, sizes=ONE, accumulate=1, ema_decay=0.5, optimizer=None, **averaging):
    optimizer = optimizer or optax.adam(1e-2)
    mesh = make_mesh(sizes)
    batch = put_batch(BATCH, mesh, 8)
    state = build_sharded(state_builder(Line(), optimizer), jax.random.key(0), batch, mesh)
    step = make_train_step(Line(), optimizer, seed=3, ema_decay=ema_decay, accumulate=accumulate, **averaging)
    step = jit_train_step(step, state, batch, mesh)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_a_step_counts_and_learns():
    state, losses = run(steps=50, optimizer=optax.adam(0.1))
    assert int(state.step) == 50
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_memory_and_nothing_else(accumulate):
    plain = optax.sgd(0.1)  # Adam would not notice gradients of another scale
    whole, losses = run(optimizer=plain)
    parts, part_losses = run(accumulate=accumulate, optimizer=plain)
    np.testing.assert_allclose(part_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)
    assert int(parts.variables["seen"]) == 3 * accumulate  # passed through the microbatches in order


def test_devices_change_nothing():
    whole, losses = run()
    split, split_losses = run(sizes=ONE | {"data": 2, "fsdp": 2})
    np.testing.assert_allclose(split_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(split.params["w"], whole.params["w"], rtol=1e-5)


def test_the_average_follows_the_parameters():
    before, _ = run(steps=1, ema_decay=0.9)
    after, _ = run(steps=2, ema_decay=0.9)
    decay = (1 + 1) / (10 + 1)  # of the second step: the warm-up is below 0.9
    expected = decay * before.ema["w"] + (1 - decay) * after.params["w"]
    np.testing.assert_allclose(after.ema["w"], expected, rtol=1e-6)


def test_the_average_starts_late_and_moves_seldom():
    states = {n: run(steps=n, ema_decay=0.5, ema_start=2, ema_every=2)[0] for n in (2, 3, 4)}
    np.testing.assert_array_equal(states[2].ema["w"], states[2].params["w"])
    np.testing.assert_array_equal(states[3].ema["w"], states[2].params["w"])
    decay = (1 + 3) / (10 + 3)
    expected = decay * states[3].ema["w"] + (1 - decay) * states[4].params["w"]
    np.testing.assert_allclose(states[4].ema["w"], expected, rtol=1e-6)


def test_no_average_at_decay_zero():
    state, _ = run(ema_decay=0.0)
    np.testing.assert_array_equal(state.ema["w"], state.params["w"])


def test_the_step_is_keyed_by_seed_and_step():
    _, losses = run()
    _, again = run()
    assert losses == again
    assert len(set(losses)) == 3
