import subprocess
import sys

import jax
import pytest

from medjax.runtime.compilation_cache import keep_programs, processor

PROGRAM = """
import jax
from medjax.runtime.compilation_cache import keep_programs
keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((4, 4)))
"""


@pytest.mark.parametrize("chosen", [False, True])
def test_programs_lie_in_the_users_cache_or_where_jax_is_told(tmp_path, monkeypatch, chosen):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if chosen:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "chosen"))
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
    expected = tmp_path / "chosen" if chosen else tmp_path / "cache/medjax/programs" / processor()
    assert list(expected.iterdir())
    assert (tmp_path / "cache").exists() != chosen


def test_what_is_set_already_stays():
    before = jax.config.jax_compilation_cache_dir
    assert before  # by the tests
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == before
