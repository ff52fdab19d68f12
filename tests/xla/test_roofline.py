import pytest

from medjax.xla.gpus import GPUS
from medjax.xla.roofline import roofline


def test_the_slowest_part_binds():
    gpu = GPUS["h100"]
    found = roofline(gpu, "bfloat16", flops=989e9, moved=3.35232e9, within=0.9e9, between=25e6)
    assert (found.matrix, found.memory, found.nvlink, found.network) == pytest.approx((1e-3, 1e-3, 2e-3, 0.5e-3))
    assert (found.seconds, found.binds) == (found.nvlink, "nvlink")


def test_float32_takes_twice_as_long_as_bfloat16():
    assert roofline(GPUS["a100"], "float32", 312e12, 0, 0, 0).seconds == pytest.approx(2)
