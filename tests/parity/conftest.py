import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def all_bits_of_float32():
    """As the references were computed, on whatever machine this is."""
    with jax.default_matmul_precision("highest"):
        yield
