"""The sinusoids of both papers, at whole and fractional timesteps."""

import numpy as np
import pytest

from comparison import assert_close
from medjax.layers.embeddings import cos_sin_embedding, sin_cos_embedding
from tolerance import UNIT

EMBEDDINGS = {"wdm": cos_sin_embedding, "medical": sin_cos_embedding}


@pytest.mark.golden("timestep_embedding", "out/")
def test_embeddings(golden):
    period = golden.config.get("max_period", 10_000)
    for key in golden.keys("out/"):
        paper, width, *fractional = key.removeprefix("out/").split("_")
        t = golden["in/t_float" if fractional else "in/t_int"]
        # Of angles of up to t: each side rounds a frequency and its product with t.
        atol = np.maximum(2e-5, 4 * UNIT * t)[:, None]
        assert_close(EMBEDDINGS[paper](t, int(width), period), golden[key], atol=atol, name=key)
