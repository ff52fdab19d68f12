import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.builders.pretrained import task_of
from medjax.builders.steps import optimizer_of, state_shapes, train_step_of, volume_shapes
from medjax.errors import UserError
from medjax.runtime.mesh import make_mesh
from medjax.runtime.precision import PRECISIONS, products_in
from small_config import small_config


def lowered_step() -> str:
    """A training step's text as it goes to the compiler."""
    config = small_config()
    task, mesh = task_of(config), make_mesh(config.mesh)
    _, optimizer = optimizer_of(config, task)
    batch = volume_shapes(tuple(config.data.size), config.data.batch_size)
    state = state_shapes(task, optimizer, batch)
    return train_step_of(config, task, optimizer, state, batch, mesh).lower(state, {}, batch).as_text()


def test_every_product_of_a_training_step_is_as_exact_as_asked_for():
    before = lowered_step()
    assert "HIGHEST" not in before
    with products_in("highest"):
        text = lowered_step()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot" in line]
    assert len(products) > 20
    assert all("HIGHEST" in line for line in products)
    assert lowered_step() == before


@pytest.mark.parametrize(("precision", "word"), [("tensorfloat32", "HIGH"), ("high", "HIGH"), ("highest", "HIGHEST")])
def test_other_threads_and_functions_compiled_before_follow(precision, word):
    function, x = jax.jit(jnp.dot), np.ones((2, 2), np.float32)
    function(x, x)
    texts = []
    with products_in(precision):
        thread = threading.Thread(target=lambda: texts.append(function.lower(x, x).as_text()))
        thread.start()
        thread.join()
    assert f"precision = [{word}, {word}]" in texts[0]
    assert word not in function.lower(x, x).as_text()


def test_what_was_set_before_is_set_again_and_default_leaves_it():
    with products_in("high"), products_in("default"):
        assert jax.config.jax_default_matmul_precision == "high"
    assert jax.config.jax_default_matmul_precision is None
    with pytest.raises(ZeroDivisionError), products_in("highest"):
        1 / 0  # noqa: B018
    assert jax.config.jax_default_matmul_precision is None


def test_a_precision_that_there_is_not():
    with (
        pytest.raises(UserError, match=f"train.precision is 'float16': use {', '.join(PRECISIONS)}"),
        products_in("float16"),
    ):
        pass
