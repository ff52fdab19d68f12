import sys
import types

import pytest

from medjax.xla import cudnn


class Function:
    restype = None

    def __init__(self, number):
        self.number = number

    def __call__(self):
        return self.number


def test_nothing_is_loaded_here():
    """Nor is it by asking."""
    assert cudnn.loaded_version() is None
    assert cudnn.built_version() is None


@pytest.mark.parametrize(
    ("number", "version"), [(91002, (9, 10, 2)), (92100, (9, 21, 0)), (90100, (9, 1, 0)), (8907, (8, 9, 7))]
)
def test_the_version_that_is_loaded(number, version):
    asked = []

    def open_library(name, mode):
        asked.append(name)
        if not name.endswith(".9"):
            raise OSError
        return types.SimpleNamespace(cudnnGetVersion=Function(number))

    assert cudnn.loaded_version(open_library) == version
    assert asked == ["libcudnn.so.10", "libcudnn.so.9"]


def test_the_version_that_jax_was_built_with(monkeypatch):
    module = types.ModuleType("jax_cuda12_plugin._versions")
    module.cudnn_build_version = lambda: 91501
    monkeypatch.setitem(sys.modules, "jax_cuda12_plugin", types.ModuleType("jax_cuda12_plugin"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert cudnn.built_version() == (9, 15, 1)


@pytest.mark.parametrize(
    ("loaded", "built"), [(None, (9, 8, 0)), ((9, 8, 0), None), ((9, 8, 0), (9, 8, 0)), ((9, 10, 2), (9, 8, 0))]
)
def test_nothing_to_remark(loaded, built):
    assert cudnn.remark(loaded, built) is None


def test_an_older_one_is_told():
    line = cudnn.remark((9, 8, 1), (9, 10, 0))
    assert line.startswith("cuDNN 9.8.1 is loaded, older than 9.10.0 that JAX was built with:") and "\n" not in line
